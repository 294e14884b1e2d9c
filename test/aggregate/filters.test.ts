import { aggregate, type Connector, localRegistry, mediaTypes, orThrow } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { chained, dockerLibrary, prefixed } from "oci-manifold/names";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, expect, test } from "vitest";
import { connect, UseCount } from "../../src/aggregate/members.js";
import { makeImage, makeIndex, pushImage } from "../fixtures/images.js";

const clock = fakeClock(0);
let hub: StoringRegistry;
let local: StoringRegistry;
const joined = (connector: Omit<Connector, "name" | "source">) =>
  aggregate({ local, connectors: [{ name: "hub", source: hub, ...connector }], clock });

beforeEach(() => {
  hub = localRegistry({ storage: memoryStorage(), name: "hub" });
  local = localRegistry({ storage: memoryStorage(), name: "local", clock });
});

test("a connector's filter knows versions, platforms and sizes, under our names", async () => {
  const images = [makeImage([10]), makeImage([2000])];
  for (const [at, image] of images.entries()) await pushImage(hub, "library/node", `2${at}.1`, image);
  const all = joined({
    rename: chained(prefixed("hub/"), dockerLibrary()),
    allow: ["library/node:{>=20 <23}"],
    maxBlobBytes: "1KiB",
    platforms: ["linux/amd64"],
  });
  expect((await all.getManifest("hub/node", "20.1")).kind).toBe("found");
  expect((await all.getManifest("hub/node", "21.1")).kind).toBe("absent");
  const [small, large] = images;
  for (const layer of small?.layers ?? []) expect((await all.getBlob("hub/node", layer.digest)).kind).toBe("found");
  for (const layer of large?.layers ?? []) expect((await all.getBlob("hub/node", layer.digest)).kind).toBe("absent");
  expect(orThrow(await all.listRepositories({ limit: 10 })).items).toEqual(["hub/node"]);
  expect((await joined({ platforms: ["windows/*"] }).getManifest("library/node", "20.1")).kind).toBe("absent");
});

test("an index keeps its digest, and what it names is hidden or not", async () => {
  const [amd, arm] = [await pushImage(hub, "app", "a"), await pushImage(hub, "app", "b")];
  const index = makeIndex([amd, arm]);
  await hub.putManifest("app", "1", { bytes: index.bytes });
  const all = joined({ allow: ["app:1"], platforms: ["linux/amd64"] });
  expect((await all.getManifest("app", amd.digest)).kind).toBe("absent");
  expect(orThrow(await all.getManifest("app", "1")).descriptor).toMatchObject({ digest: index.digest, mediaType: mediaTypes.ociIndex });
  expect((await all.getManifest("app", amd.digest)).kind).toBe("found");
  expect((await all.getManifest("app", arm.digest)).kind).toBe("absent");
});

test("a minimum age counts by the aggregate's clock, and is remembered", async () => {
  await pushImage(hub, "app", "1");
  expect((await joined({ minimumAge: "1h" }).getManifest("app", "1")).kind).toBe("absent");
  await clock.advance(3_600_000);
  expect((await joined({ minimumAge: "1h" }).getManifest("app", "1")).kind).toBe("found");
});

test("members tell which pattern decides", () => {
  const connector = { name: "hub", source: hub, allow: ["library/*:{>=2}"], block: ["library/secret"] };
  const [member] = connect(local, [connector], { hop: "h", useCount: new UseCount() });
  expect(member?.patterns.verdict("library/node", "3")).toEqual({ visible: true, pattern: "library/*:{>=2}" });
  expect(member?.patterns.verdict("library/secret", "3")).toEqual({ visible: false, pattern: "library/secret" });
});

test("where a connector's host wants it said, what its filter hides is denied, not unavailable", async () => {
  await pushImage(hub, "secret/app", "1");
  await pushImage(hub, "app", "1");
  const all = joined({ block: ["secret/**"], hidden: "denied" });
  expect(await all.getManifest("secret/app", "1")).toMatchObject({ kind: "denied", error: { code: "DENIED" } });
  expect((await all.resolveManifest("secret/app", "1")).kind).toBe("absent");
  expect((await all.getManifest("app", "1")).kind).toBe("found");
  expect((await all.getManifest("app", "2")).kind).toBe("absent");
});
