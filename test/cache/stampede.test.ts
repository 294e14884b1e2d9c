import { cached, remoteRegistry } from "oci-manifold";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { generatedUpstream } from "../fixtures/generated-upstream.js";
import { expectResumed, stampede } from "../fixtures/stampede.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { site } from "../http/support.js";

const MiB = 1024 * 1024;

test("20 clients of a layer that is cut twice cost one transfer and its two resumptions", async () => {
  const cuts = [3 * MiB, 6 * MiB + 12_345];
  const upstream = await generatedUpstream({ mebibytes: 8, bytesPerSecond: 16 * MiB, cuts });
  const hub = cached(remoteRegistry(upstream.url), { storage: fileStorage(temporaryFolder()), name: "hub" });
  const { url } = await site(hub);
  expect(await stampede(`${url}/v2/app/blobs/${upstream.digest}`, upstream, 20)).toBe(18);
  expectResumed(upstream, cuts);
  expect(upstream.sent).toBeLessThan(upstream.size + 2 * MiB);
  await hub.close();
  upstream.close();
});
