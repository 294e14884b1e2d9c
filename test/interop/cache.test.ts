import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { type DockerRegistry, dockerRegistry, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { digestInLayout, type LayoutImage, sampleLayout } from "./layouts.js";
import { type MainJob, startAgain, startMainJob, untilCached } from "./main-job.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

requires("skopeo", "docker-registry")("a cache of docker-registry", () => {
  let upstream: DockerRegistry;
  let job: MainJob;
  let image: LayoutImage;
  let index: { digest: string };

  const pull = async (name: string): Promise<string> => {
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${job.host}/${name}`, `oci:${folder}:pulled`);
    return digestInLayout(folder);
  };

  beforeAll(async () => {
    upstream = await dockerRegistry();
    const sample = await sampleLayout(await temporaryFolder());
    ({ image, index } = sample);
    for (const tag of ["image", "index"]) {
      await skopeoCopy(sample.layout.reference(tag), `docker://${upstream.host}/library/app:${tag}`);
      await skopeoCopy(sample.layout.reference(tag), `docker://${upstream.host}/other/app:${tag}`);
    }
    job = await startMainJob({ upstream: upstream.origin });
  });

  describe("while docker-registry runs", () => {
    test("pulls an image and an index with equal digests", async () => {
      expect(await pull("hub/library/app:image")).toBe(image.digest);
      expect(await pull("hub/library/app:index")).toBe(index.digest);
    });

    test("serves the root's names and ?ns=docker.io from the same cache", async () => {
      expect(await pull("library/app:image")).toBe(image.digest);
      const path = "/v2/library/app/manifests/index";
      expect(await get(`${job.origin}${path}?ns=docker.io`)).toMatchObject({ status: 200, digest: index.digest, bodyDigest: index.digest });
      expect(await get(`${job.origin}${path}?ns=other.example`)).toMatchObject({ status: 404, errorCode: "MANIFEST_UNKNOWN" });
    });

    test("a manifest alone brings all its layers", async () => {
      expect(await get(`${job.origin}/v2/hub/other/app/manifests/image`)).toMatchObject({ status: 200, digest: image.digest });
      await untilCached(job, "hub/other/app", [image.config.digest, ...image.layers.map((layer) => layer.digest)]);
    });

    test("is 404 for what docker-registry does not have", async () => {
      expect(await get(`${job.origin}/v2/hub/other/absent/manifests/1`)).toMatchObject({ status: 404, errorCode: "MANIFEST_UNKNOWN" });
    });
  });

  describe("after docker-registry has stopped", () => {
    beforeAll(async () => {
      await upstream.process.stop();
    });

    test("pulls everything again with every layer", async () => {
      expect(await pull("hub/library/app:image")).toBe(image.digest);
      expect(await pull("hub/library/app:index")).toBe(index.digest);
      expect(await pull(`hub/library/app@${index.digest}`)).toBe(index.digest);
      expect(await pull("library/app:index")).toBe(index.digest);
      expect(await pull("hub/other/app:image")).toBe(image.digest);
    });

    test("still has it after a restart of its own", async () => {
      expect(await job.process.stop()).toBe(0);
      job = await startAgain(job, { upstream: upstream.origin });
      expect(await pull("hub/library/app:image")).toBe(image.digest);
      expect(await pull(`hub/library/app@${index.digest}`)).toBe(index.digest);
    });

    test("says 503 for what was never pulled", async () => {
      expect((await get(`${job.origin}/v2/hub/other/never/manifests/1`)).status).toBe(503);
    });
  });
});
