import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import {
  type DockerRegistry,
  dockerEngine,
  dockerRegistry,
  dockerRegistryAgain,
  podmanAndBuildah,
  type RunClient,
  skopeoCopy,
} from "./clients.js";
import { get } from "./http.js";
import { digestInLayout, Layout, type LayoutImage, sampleLayout } from "./layouts.js";
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

/** A client that keeps images of its own: it pulls, tells the digest it has, and forgets. */
interface Engine {
  pull(name: string): Promise<string>;
  forget(name: string): Promise<unknown>;
}

const engines: readonly (readonly [name: "podman" | "docker", start: () => Promise<Engine>])[] = [
  [
    "podman",
    async () => {
      const { podman } = await podmanAndBuildah();
      return {
        async pull(name) {
          await podman("pull", "--quiet", "--tls-verify=false", name);
          return podman("image", "inspect", "--format", "{{.Digest}}", name);
        },
        forget: (name) => podman("rmi", "--force", name),
      };
    },
  ],
  [
    "docker",
    async () => {
      const docker: RunClient = await dockerEngine();
      return {
        async pull(name) {
          const [, digest = "none"] = /Digest: (\S+)/.exec(await docker("pull", name)) ?? [];
          return digest;
        },
        forget: (name) => docker("rmi", "--force", name),
      };
    },
  ],
];

for (const [name, start] of engines) {
  const needs = name === "podman" ? (["podman", "buildah"] as const) : (["dockerd", "docker", "containerd"] as const);
  requires(
    ...needs,
    "skopeo",
    "docker-registry",
  )(`a cache of docker-registry under ${name}`, () => {
    test("is pulled through, and again by an engine that has nothing once docker-registry has stopped", async () => {
      const upstream = await dockerRegistry();
      const { layout, image, index, platforms } = await sampleLayout(await temporaryFolder());
      for (const tag of ["image", "index"]) await skopeoCopy(layout.reference(tag), `docker://${upstream.host}/library/app:${tag}`);
      const job = await startMainJob({ upstream: upstream.origin });
      const engine = await start();
      const pulls = [
        { from: `${job.host}/hub/library/app:image`, digests: [image.digest] },
        // Some versions tell the digest of the platform's manifest, some that of the index.
        { from: `${job.host}/hub/library/app:index`, digests: [index.digest, platforms[0].digest] },
        { from: `${job.host}/hub/library/app@${image.digest}`, digests: [image.digest] },
      ];
      const all = async () => {
        for (const { from, digests } of pulls) {
          expect(digests).toContain((await engine.pull(from)).trim());
          await engine.forget(from);
        }
      };
      await all();
      await untilCached(job, "hub/library/app", [image.config.digest, ...image.layers.map(({ digest }) => digest)]);
      await upstream.process.stop();
      await all();
    });
  });
}

requires("skopeo", "docker-registry")("a transfer that is cut", () => {
  test("by kill -9 of docker-registry in the middle of a large layer is resumed once it is back", async () => {
    const upstream = await dockerRegistry();
    const layout = await Layout.create(await temporaryFolder());
    const { digest } = await layout.image("large", [1000, 400_000_000]);
    await skopeoCopy(layout.reference("large"), `docker://${upstream.host}/library/large:1`);
    const job = await startMainJob({ upstream: upstream.origin });
    const folder = join(await temporaryFolder(), "pulled");
    const pulling = skopeoCopy(`docker://${job.host}/hub/library/large:1`, `oci:${folder}:pulled`);
    await job.process.until(async () => (await stagedBytes(job.data)) > 1_000_000, "in the middle of the layer");
    expect(await upstream.process.stop("SIGKILL")).toBe("SIGKILL");
    const had = await stagedBytes(job.data);
    expect(had).toBeGreaterThan(0);
    expect(had).toBeLessThan(400_000_000);
    const again = await dockerRegistryAgain(upstream);
    await pulling;
    expect(await digestInLayout(folder)).toBe(digest);
    expect(again.process.output).toMatch(/"GET \/v2\/library\/large\/blobs\/sha256:[a-f0-9]{64} HTTP\/1\.1" 206 /);
  });
});

/** Bytes of the largest blob on its way into the main job's storage. */
async function stagedBytes(data: string): Promise<number> {
  let largest = 0;
  const folder = join(data, "uploads");
  for (const name of await readdir(folder).catch(() => [])) {
    const size = await stat(join(folder, name)).then(
      (file) => file.size,
      () => 0,
    );
    largest = Math.max(largest, size);
  }
  return largest;
}
