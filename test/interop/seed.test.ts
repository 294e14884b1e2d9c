import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { dockerEngine, podmanAndBuildah, type RunClient, skopeo, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { digestInLayout, type LayoutImage } from "./layouts.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";
import { type Composition, startComposition } from "./seed-composition.js";

/**
 * The page that this library began with, a test for each sentence: "Connectors in Docker Registries" of another product's documentation. Where it means
 * that product, read: a registry made by this library. The part "Technical Details" is in seed-content.test.ts.
 */
requires(
  "skopeo",
  "podman",
  "dockerd",
  "docker",
  "containerd",
  "docker-registry",
)("Connectors in Docker Registries", () => {
  let all: Composition;
  let candidate: LayoutImage;
  let podman: RunClient;
  let docker: RunClient;

  const pull = async (name: string): Promise<string> => {
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${all.host}/${name}`, `oci:${folder}:pulled`);
    return digestInLayout(folder);
  };
  const push = (tag: string, name: string) => skopeoCopy(all.layout.reference(tag), `docker://${all.host}/${name}`);
  const tags = async (name: string): Promise<string[]> => {
    const { Tags } = JSON.parse(await skopeo("list-tags", "--tls-verify=false", `docker://${all.host}/${name}`));
    return Tags;
  };
  const catalog = async (): Promise<string[]> => {
    const { repositories } = (await (await fetch(`${all.origin}/v2/_catalog`)).json()) as { repositories: string[] };
    return repositories;
  };
  const dockerDigest = async (name: string) => /Digest: (\S+)/.exec(await docker("pull", `${all.host}/${name}`))?.[1];
  const podmanPull = async (name: string): Promise<string> => {
    await podman("rmi", "--all", "--force");
    return `sha256:${(await podman("pull", "--quiet", "--tls-verify=false", `${all.host}/${name}`)).trim()}`;
  };

  beforeAll(async () => {
    all = await startComposition();
    ({ podman } = await podmanAndBuildah());
    docker = await dockerEngine();
    candidate = await all.fresh("candidate");
    await push("image", "release/team/app:1.0");
    await push("index", "release/team/tool:2.0");
    await push("candidate", "prerelease/team/app:1.1-rc.1");
  });

  test("registries support connectors to other registries: to one here, to a public one, to a private one", async () => {
    expect(all.prerelease.connectors.map(({ name }) => name)).toEqual(["release", "hub", "vendor"]);
    expect(await pull("prerelease/team/app:1.0")).toBe(all.image.digest);
    expect(await pull("prerelease/library/alpine:3.20")).toBe(all.index.digest);
    expect(await pull("prerelease/vendor/app:1")).toBe(all.vendor.digest);
  });

  test("several repositories are aggregated into one: a name's tags come from all of them", async () => {
    await push("candidate", "prerelease/library/alpine:ours");
    expect(await tags("prerelease/team/app")).toEqual(["1.0", "1.1-rc.1"]);
    expect(await tags("release/team/app")).toEqual(["1.0"]);
    expect(await tags("prerelease/library/alpine")).toEqual(["3.20", "ours"]);
    expect(await pull("prerelease/library/alpine:ours")).toBe(candidate.digest);
  });

  test("they work a little differently from those of package feeds: read through them, write here", async () => {
    await push("candidate", "prerelease/team/tool:2.1");
    expect(await tags("release/team/tool")).toEqual(["2.0"]);
    const removal = (name: string) => skopeo("delete", "--tls-verify=false", `docker://${all.host}/${name}`);
    await expect(removal("prerelease/library/alpine:3.20")).rejects.toThrow(/unsupported|405/i);
    await removal("prerelease/team/tool:2.1");
    expect(await tags("prerelease/team/tool")).toEqual(["2.0"]);
    expect(await pull("release/team/tool:2.0")).toBe(all.index.digest);
  });

  test("a connector makes the resources of a repository accessible: manifests, configs, layers, tags, referrers", async () => {
    const { image, origin } = all;
    const subject = { mediaType: image.mediaType, digest: image.digest, size: image.size };
    const artifactType = "application/vnd.example.note";
    const note = JSON.stringify({
      schemaVersion: 2,
      mediaType: image.mediaType,
      artifactType,
      config: image.config,
      layers: image.layers,
      subject,
    });
    const put = await fetch(`${origin}/v2/release/team/app/manifests/note`, {
      method: "PUT",
      headers: { "content-type": image.mediaType },
      body: note,
    });
    expect(put.status).toBe(201);
    const shown = `${origin}/v2/prerelease/team/app`;
    for (const reference of ["1.0", image.digest]) {
      expect(await get(`${shown}/manifests/${reference}`)).toMatchObject({ status: 200, bodyDigest: image.digest });
    }
    for (const { digest } of [image.config, ...image.layers]) {
      expect(await get(`${shown}/blobs/${digest}`)).toMatchObject({ status: 200, bodyDigest: digest });
    }
    expect(await tags("prerelease/team/app")).toContain("note");
    const referrers = await (await fetch(`${shown}/referrers/${image.digest}`)).json();
    expect(referrers).toMatchObject({ manifests: [{ artifactType, digest: put.headers.get("docker-content-digest") }] });
  });

  test("two registries can be made by quality: prerelease and release", async () => {
    await all.fresh("next");
    await push("next", "prerelease/team/next:0.1-rc.1");
    expect(await tags("prerelease/team/next")).toEqual(["0.1-rc.1"]);
    expect(await tags("release/team/tool")).toEqual(["2.0"]);
  });

  test("all that is stored in release is visible in prerelease", async () => {
    const listed = await catalog();
    const released = listed.filter((name) => name.startsWith("release/")).map((name) => name.slice("release/".length));
    expect(released).toEqual(["team/app", "team/tool"]);
    for (const name of released) {
      expect(listed).toContain(`prerelease/${name}`);
      for (const tag of await tags(`release/${name}`)) {
        expect(await tags(`prerelease/${name}`)).toContain(tag);
        expect((await get(`${all.origin}/v2/prerelease/${name}/manifests/${tag}`)).digest).toBe(
          (await get(`${all.origin}/v2/release/${name}/manifests/${tag}`)).digest,
        );
      }
    }
  });

  test("the connector leads from prerelease to release, and not back", async () => {
    const image = await all.fresh("oneway");
    await push("oneway", "prerelease/team/oneway:1");
    const release = `${all.origin}/v2/release/team/oneway`;
    for (const path of ["manifests/1", `manifests/${image.digest}`, "tags/list", `blobs/${image.layers[0]?.digest}`]) {
      expect([path, (await get(`${release}/${path}`)).status]).toEqual([path, 404]);
    }
    expect(await catalog()).not.toContain("release/team/oneway");
    await expect(docker("pull", `${all.host}/release/team/oneway:1`)).rejects.toThrow(/not found|manifest unknown/);
  });

  test("clients pull the images of both as if all of them were stored in prerelease", async () => {
    for (const [tag, image] of [
      ["1.0", all.image],
      ["1.1-rc.1", candidate],
    ] as const) {
      const name = `prerelease/team/app:${tag}`;
      expect(await dockerDigest(name)).toBe(image.digest);
      const [seen]: { RepoDigests: string[] }[] = JSON.parse(await docker("image", "inspect", `${all.host}/${name}`));
      expect(seen?.RepoDigests).toEqual([`${all.host}/prerelease/team/app@${image.digest}`]);
      expect(await podmanPull(name)).toBe(image.config.digest);
    }
  });

  test("a connector can lead to an external registry such as Docker Hub, or one that wants a password", async () => {
    expect(await dockerDigest("prerelease/library/alpine:3.20")).toBe(all.index.digest);
    expect(await podmanPull("prerelease/library/node:22.1")).toBe(all.node.config.digest);
    // The clients never logged in.
    expect(await dockerDigest("prerelease/vendor/app:1")).toBe(all.vendor.digest);
    expect(await podmanPull(`prerelease/vendor/app@${all.vendor.digest}`)).toBe(all.vendor.config.digest);
    const { status } = await get(`${all.closed.origin}/v2/team/app/manifests/1`);
    expect(status).toBe(401);
  });

  test("certain base images are permitted: nothing else is there, by tag, digest, layer, listing or mount", async () => {
    const { other, origin } = all;
    for (const name of ["library/alpine:3.20", "library/node:22.1", "vendor/app:1"]) await pull(`prerelease/${name}`);
    const permitted = ["library/alpine", "library/node", "vendor/app"].map((name) => `prerelease/${name}`);
    const shown = (await catalog()).filter((name) => /^prerelease\/(library|vendor|team\/secret)/.test(name));
    expect(shown).toEqual(permitted);
    expect(await tags("prerelease/library/node")).toEqual(["22.1"]);
    for (const name of ["library/other:1", "library/node:18.2", "vendor/secret:1", "team/secret:1"]) {
      const [repository, tag] = name.split(":");
      const hidden = `${origin}/v2/prerelease/${repository}`;
      for (const path of [`manifests/${tag}`, `manifests/${other.digest}`, `blobs/${other.config.digest}`]) {
        expect([name, path, (await get(`${hidden}/${path}`)).status]).toEqual([name, path, 404]);
      }
      const mount = `${origin}/v2/prerelease/mine/blobs/uploads/?mount=${other.config.digest}&from=prerelease/${repository}`;
      expect((await fetch(mount, { method: "POST" })).status).toBe(202);
      await expect(podmanPull(`prerelease/${name}`)).rejects.toThrow(/manifest unknown/);
    }
    expect(all.front.asked.filter((line) => line.includes("/library/other/"))).toEqual([]);
  });

  test("and they are cached here: a second pull brings nothing from there again", async () => {
    expect(await dockerDigest("prerelease/library/node:22.1")).toBe(all.node.digest);
    const transfers = () => all.front.asked.filter((line) => /^GET \/v2\/library\/node\/(manifests|blobs)\//.test(line));
    const before = transfers();
    // Its manifest, its config and its layers, each once.
    expect(before).toHaveLength(2 + all.node.layers.length);
    for (let times = 0; times < 2; times++) {
      expect(await podmanPull("prerelease/library/node:22.1")).toBe(all.node.config.digest);
      expect(await pull(`prerelease/library/node@${all.node.digest}`)).toBe(all.node.digest);
    }
    expect(transfers()).toEqual(before);
  });
});
