import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { CachedRegistry, Connector, Registry } from "oci-manifold";
import { beforeAll, describe, expect, test } from "vitest";
import { dockerEngine, dockerRegistryAgain, podmanAndBuildah, type RunClient, skopeo, skopeoCopy } from "./clients.js";
import { get, startUpload, withDigest } from "./http.js";
import type { LayoutImage } from "./layouts.js";
import { mountsIn, startMainJob } from "./main-job.js";
import { requires } from "./requires.js";
import { builtLibrary, type Composition, startComposition } from "./seed-composition.js";

/** The second half of the page that seed.test.ts walks: "Technical Details" and "Limitations", a test for each sentence. */
requires(
  "skopeo",
  "podman",
  "dockerd",
  "docker",
  "containerd",
  "docker-registry",
)("Connectors in Docker Registries: content", () => {
  let all: Composition;
  let podman: RunClient;
  let docker: RunClient;
  let library: Awaited<ReturnType<typeof builtLibrary>>;

  const push = (tag: string, name: string) => skopeoCopy(all.layout.reference(tag), `docker://${name}`);
  const published = async (tag: string, name: string): Promise<LayoutImage> => {
    const image = await all.fresh(tag);
    await push(tag, `${all.open.host}/${name}`);
    return image;
  };
  /** The image's ID: the digest of its config. */
  const podmanPull = async (name: string): Promise<string> => {
    await podman("rmi", "--all", "--force");
    return `sha256:${(await podman("pull", "--quiet", "--tls-verify=false", `${all.host}/prerelease/${name}`)).trim()}`;
  };
  const blob = (repository: string, digest: string) => get(`${all.origin}/v2/prerelease/${repository}/blobs/${digest}`);
  const mount = async (into: string, digest: string, from: string) => {
    const url = `${all.origin}/v2/${into}/blobs/uploads/?mount=${digest}&from=${from}`;
    return (await fetch(url, { method: "POST" })).status;
  };
  const firstLayer = (image: LayoutImage): string => image.layers[0]?.digest ?? "none";
  const complete = async (connector: string, repository: string, tag: string): Promise<boolean> => {
    const source = all.prerelease.connectors.find(({ name }) => name === connector)?.source;
    return source !== undefined && isCached(source) && (await source.completeness(repository, tag)).complete;
  };
  /** Connects one more registry, of which nothing is kept unless `copyToLocal` says so. */
  const connect = (copyToLocal: NonNullable<Connector["copyToLocal"]>) =>
    all.prerelease.setConnectors([
      ...all.prerelease.connectors,
      { name: "outside", source: library.remoteRegistry(all.front.url), allow: ["outside/**"], copyToLocal },
    ]);
  const disconnect = () => all.prerelease.setConnectors(all.prerelease.connectors.filter(({ name }) => name !== "outside"));

  beforeAll(async () => {
    [all, library, { podman }, docker] = await Promise.all([startComposition(), builtLibrary(), podmanAndBuildah(), dockerEngine()]);
  });

  test("images and layers are identified by hashes of their content: equal everywhere, and other bytes are never passed on", async () => {
    const image = await published("hashed", "library/alpine:hashed");
    await push("hashed", `${all.host}/release/team/hashed:1`);
    for (const name of ["library/alpine", "team/hashed"]) expect(await podmanPull(`${name}@${image.digest}`)).toBe(image.config.digest);
    const upload = withDigest(await startUpload(all.origin, "prerelease/team/hashed"), image.digest);
    const refused = await fetch(upload, { method: "PUT", headers: { "content-type": "application/octet-stream" }, body: "other bytes" });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ errors: [{ code: "DIGEST_INVALID" }] });

    const hash = firstLayer(await published("spoiled", "library/alpine:spoiled")).slice("sha256:".length);
    const stored = join(all.open.folder, "data/docker/registry/v2/blobs/sha256", hash.slice(0, 2), hash, "data");
    const right = await readFile(stored);
    const wrong = Buffer.from(right);
    wrong.writeUInt8(wrong.readUInt8(50_000) ^ 1, 50_000);
    const write = async (bytes: Buffer) => {
      await using file = await open(stored, "r+");
      await file.write(bytes, 0, bytes.byteLength, 0);
    };
    await write(wrong);
    await expect(podmanPull("library/alpine:spoiled")).rejects.toThrow(/unexpected EOF/);
    await write(right);
    await podmanPull("library/alpine:spoiled");
  });

  test("connectors work on content: a layer by itself is found under its repository, and mounted into others", async () => {
    const image = await published("layered", "library/alpine:layered");
    const { digest } = image.config;
    expect(await blob("library/alpine", digest)).toMatchObject({ status: 200, bodyDigest: digest });
    expect(await blob("team/layered", digest)).toMatchObject({ status: 404, errorCode: "BLOB_UNKNOWN" });
    expect(await mount("prerelease/team/layered", digest, "prerelease/library/alpine")).toBe(201);
    expect(await blob("team/layered", digest)).toMatchObject({ status: 200, bodyDigest: digest });
    // Between routes.
    await push("layered", `${all.host}/release/team/layered:1`);
    expect(await mount("prerelease/team/other", firstLayer(image), "release/team/layered")).toBe(201);
  });

  describe("a manifest may be stored here while its layers are behind a connector", () => {
    test("docker mounts the layers of a base image, and sends its manifest only", async () => {
      const image = await published("base", "library/alpine:base");
      await docker("pull", `${all.host}/prerelease/library/alpine:base`);
      await docker("tag", `${all.host}/prerelease/library/alpine:base`, `${all.host}/prerelease/team/built:1`);
      const told = await docker("push", `${all.host}/prerelease/team/built:1`);
      expect(told.match(/Mounted from prerelease\/library\/alpine/g)).toHaveLength(image.layers.length);
      expect(await all.prerelease.explain("team/built", "1")).toMatchObject({ winner: "local" });
      expect(await podmanPull("team/built:1")).toBe(image.config.digest);
    });

    test("docker mounts them from another route", async () => {
      const job = await startMainJob({ upstream: all.front.url });
      await docker("pull", `${job.host}/hub/library/node:22.1`);
      await docker("tag", `${job.host}/hub/library/node:22.1`, `${job.host}/prerelease/app:1`);
      expect(await docker("push", `${job.host}/prerelease/app:1`)).toMatch(/Mounted from hub\/library\/node/);
      const mounts = mountsIn(job, "prerelease/app", "hub/library/node");
      expect(mounts).toHaveLength(all.node.layers.length);
      for (const line of mounts) expect(line).toMatch(/ 201 /);
      await docker("rmi", "--force", `${job.host}/hub/library/node:22.1`, `${job.host}/prerelease/app:1`);
      await docker("pull", `${job.host}/prerelease/app:1`);
    });
  });

  describe("a manifest can refer to layers that do not exist", () => {
    let image: LayoutImage;
    const references = () => [image.config, ...image.layers].map(({ digest }) => digest).sort();

    test("when the connector is removed: told before, told after, and well again when it is back", async () => {
      await connect("never");
      image = await published("removed", "outside/removed:1");
      await push("removed", `${all.host}/prerelease/outside/removed:mine`);
      expect(await podmanPull("outside/removed:mine")).toBe(image.config.digest);
      const impact = await library.impactOfRemoving(all.prerelease, "outside");
      expect(impact.dangling.map(({ reference }) => reference.digest).sort()).toEqual(references());
      expect(impact).toMatchObject({ unknown: [], bytes: image.config.size + image.layers.reduce((sum, { size }) => sum + size, 0) });
      // What is kept nowhere here can be mounted where its connector is, and only there.
      expect(await mount("prerelease/team/removed", firstLayer(image), "prerelease/outside/removed")).toBe(201);
      expect(await mount("release/team/removed", firstLayer(image), "prerelease/outside/removed")).toBe(202);
      await disconnect();
      await expect(podmanPull("outside/removed:mine")).rejects.toThrow(/404|blob unknown/);
      const { dangling } = await library.findDangling(all.prerelease);
      expect(dangling.map(({ reference }) => reference.digest).sort()).toEqual(references());
      expect(dangling[0]).toMatchObject({ repository: "outside/removed", tags: ["mine"], origin: { member: "outside" } });
      await connect("never");
      expect(await podmanPull("outside/removed:mine")).toBe(image.config.digest);
    });

    test("when they are removed from the external registry: which connector, which digest", async () => {
      const [, layer = "none"] = image.layers.map(({ digest }) => digest);
      const removed = await fetch(`${all.open.origin}/v2/outside/removed/blobs/${layer}`, { method: "DELETE" });
      expect(removed.status).toBe(202);
      const answer = await fetch(`${all.origin}/v2/prerelease/outside/removed/blobs/${layer}`);
      expect(answer.status).toBe(404);
      expect(await answer.json()).toMatchObject({ errors: [{ code: "BLOB_UNKNOWN" }] });
      const lookup = await all.prerelease.getBlob("outside/removed", layer);
      expect(lookup.kind === "absent" && lookup.error?.message).toMatch(new RegExp(`outside.*${layer}|${layer}.*outside`));
      const { dangling } = await library.findDangling(all.prerelease);
      expect(dangling.map(({ reference }) => reference.digest)).toEqual([layer]);
      await push("removed", `${all.open.host}/outside/removed:again`);
      expect((await library.findDangling(all.prerelease)).dangling).toEqual([]);
    });

    test("but not once it was pinned, and then the connector can go", async () => {
      expect(await library.copyToLocal(all.prerelease, { repository: "outside/removed" })).toMatchObject({ complete: true });
      expect((await library.impactOfRemoving(all.prerelease, "outside")).dangling).toEqual([]);
      await disconnect();
      expect(await library.findDangling(all.prerelease)).toMatchObject({ dangling: [], unknown: [] });
      expect(await podmanPull("outside/removed:mine")).toBe(image.config.digest);
    });

    test("nor, unless a connector says so, soon after a push", async () => {
      await connect("onPush");
      const { config } = await published("homely", "outside/homely:1");
      await push("homely", `${all.host}/prerelease/outside/homely:mine`);
      const dangling = async () => (await library.impactOfRemoving(all.prerelease, "outside")).dangling.length;
      await expect.poll(dangling, { timeout: 20_000 }).toBe(0);
      await disconnect();
      expect(await podmanPull("outside/homely:mine")).toBe(config.digest);
      // What connectors of the example gave was kept here all the time.
      for (const name of ["hub", "vendor"])
        expect(await library.impactOfRemoving(all.prerelease, name)).toMatchObject({ dangling: [], unknown: [] });
    });
  });

  test("who asks a cache for an image makes it keep the manifest and all layers: it is pulled when both upstreams are down", async () => {
    const image = await published("kept", "library/alpine:kept");
    const shown = `${all.origin}/v2/prerelease`;
    expect(await get(`${shown}/library/alpine/manifests/kept`)).toMatchObject({ status: 200, digest: image.digest });
    expect(await get(`${shown}/vendor/app/manifests/1`)).toMatchObject({ status: 200, digest: all.vendor.digest });
    await expect.poll(() => complete("hub", "library/alpine", "kept"), { timeout: 20_000 }).toBe(true);
    await expect.poll(() => complete("vendor", "team/app", "1"), { timeout: 20_000 }).toBe(true);
    await Promise.all([all.open.process.stop(), all.closed.process.stop()]);
    try {
      expect(await podmanPull("library/alpine:kept")).toBe(image.config.digest);
      expect(await podmanPull("vendor/app:1")).toBe(all.vendor.config.digest);
    } finally {
      await dockerRegistryAgain(all.open);
    }
  });

  test("registries without an API for it can be searched and browsed all the same", async () => {
    expect((await get(`${all.front.url}/v2/_catalog`)).status).toBe(401);
    // It was down a moment ago, and is left alone for a while.
    const node = `${all.origin}/v2/prerelease/library/node/manifests/22.1`;
    await expect.poll(async () => (await get(node)).status, { timeout: 60_000 }).toBe(200);
    const found = await all.prerelease.search("node", { limit: 10 });
    expect(found.items).toMatchObject([{ repository: "library/node", member: "hub", cached: true }]);
    // What could not be searched is told.
    expect(found.warnings).toEqual(expect.arrayContaining([expect.stringMatching(/^hub: .* does not list its repositories/)]));
    const catalog = await (await fetch(`${all.origin}/v2/_catalog`)).json();
    expect(catalog).toMatchObject({ repositories: expect.arrayContaining(["prerelease/library/node"]) });
    const { Tags } = JSON.parse(await skopeo("list-tags", "--tls-verify=false", `docker://${all.host}/prerelease/library/node`));
    expect(Tags).toEqual(["22.1"]);
    const page = await library.browse(all.prerelease, "library/alpine", { limit: 20 });
    expect(page.kind).toBe("found");
    const items = page.kind === "found" ? page.value.items : [];
    expect(items.find(({ tag }) => tag === "3.20")).toMatchObject({
      digest: all.index.digest,
      platforms: ["linux/amd64", "linux/arm64"],
      member: expect.arrayContaining(["hub"]),
    });
  });
});

function isCached(registry: Registry): registry is CachedRegistry {
  return "completeness" in registry;
}
