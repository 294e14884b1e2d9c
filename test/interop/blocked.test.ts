import { aggregate, cached, localRegistry, remoteRegistry } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeAll, expect, test } from "vitest";
import { dockerRegistry, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { type LayoutImage, sampleLayout } from "./layouts.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";
import { serve } from "./serve.js";

/** An aggregate in this process, over a cache of docker-registry, that shows only some of it. */
async function serveFiltered(upstream: string): Promise<string> {
  const storage = memoryStorage();
  const source = cached(remoteRegistry(upstream), { storage, name: "upstream" });
  const registry = aggregate({
    local: localRegistry({ storage, name: "local" }),
    connectors: [{ name: "upstream", source, allow: ["open/**", "tagged/app:v1-*", "secret/app"], block: ["secret/**", "open/hidden"] }],
  });
  return serve(registry);
}

requires("skopeo", "docker-registry")("connectors that block", () => {
  let host: string;
  let image: LayoutImage;
  let index: { digest: string };
  let hiddenImage: LayoutImage;

  beforeAll(async () => {
    const upstream = await dockerRegistry();
    const sample = await sampleLayout(await temporaryFolder());
    ({
      image,
      index,
      platforms: [hiddenImage],
    } = sample);
    for (const name of ["open/deep/app:1", "open/hidden:1", "secret/app:1", "tagged/app:v1-0", "tagged/app:v2-0", "unlisted/app:1"]) {
      const tag = name === "tagged/app:v2-0" ? "index" : "image";
      await skopeoCopy(sample.layout.reference(tag), `docker://${upstream.host}/${name}`);
    }
    host = await serveFiltered(upstream.origin);
  });

  test("an allowed repository is pulled, before and after which the same content stays hidden elsewhere", async () => {
    const hidden = async () => {
      for (const repository of ["secret/app", "open/hidden", "unlisted/app"]) {
        const blob = image.layers[0]?.digest;
        for (const path of [`manifests/1`, `manifests/${image.digest}`, `blobs/${image.config.digest}`, `blobs/${blob}`]) {
          const { status, errorCode } = await get(`http://${host}/v2/${repository}/${path}`);
          const expected = path.startsWith("blobs") ? "BLOB_UNKNOWN" : "MANIFEST_UNKNOWN";
          expect({ repository, path, status, errorCode }).toEqual({ repository, path, status: 404, errorCode: expected });
        }
      }
    };
    await hidden();
    await skopeoCopy(`docker://${host}/open/deep/app:1`, `dir:${await temporaryFolder()}`);
    await hidden();
    await expect(skopeoCopy(`docker://${host}/secret/app:1`, `dir:${await temporaryFolder()}`)).rejects.toThrow(/manifest unknown/);
  });

  test("a pattern with a tag allows these tags and what they hold", async () => {
    const at = `http://${host}/v2/tagged/app`;
    expect(await get(`${at}/manifests/v2-0`)).toMatchObject({ status: 404, errorCode: "MANIFEST_UNKNOWN" });
    await skopeoCopy(`docker://${host}/tagged/app:v1-0`, `dir:${await temporaryFolder()}`);
    expect(await get(`${at}/manifests/${image.digest}`)).toMatchObject({ status: 200, bodyDigest: image.digest });
    expect(await (await fetch(`${at}/tags/list`)).json()).toEqual({ name: "tagged/app", tags: ["v1-0"] });
  });

  test("the digest and the blobs of a tag that is not allowed are 404", async () => {
    const at = `http://${host}/v2/tagged/app`;
    expect(await get(`${at}/manifests/${index.digest}`)).toMatchObject({ status: 404, errorCode: "MANIFEST_UNKNOWN" });
    const { digest } = hiddenImage;
    expect(await get(`${at}/manifests/${digest}`)).toMatchObject({ status: 404, errorCode: "MANIFEST_UNKNOWN" });
    for (const blob of [hiddenImage.config, ...hiddenImage.layers]) {
      expect(await get(`${at}/blobs/${blob.digest}`)).toMatchObject({ status: 404, errorCode: "BLOB_UNKNOWN" });
    }
  });
});
