import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Descriptor, type LocalRegistry, localRegistry, orThrow } from "oci-manifold";
import { adoptDistribution, type DistributionStorage, distributionFolder } from "oci-manifold/migrate";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryMetadataStore } from "oci-manifold/storage/memory";
import { beforeAll, expect, test } from "vitest";
import { dataPath, snapshot } from "../fixtures/distribution.js";
import { type DockerRegistry, dockerRegistry, skopeo, skopeoCopy } from "./clients.js";
import { acceptManifests, get } from "./http.js";
import { digestInLayout, Layout, type LayoutImage } from "./layouts.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";
import { serve } from "./serve.js";

/** Every file that is read of a source. */
function noting(inner: DistributionStorage): { source: DistributionStorage; read: string[] } {
  const read: string[] = [];
  const noted = <T>(path: string, value: T): T => {
    read.push(path);
    return value;
  };
  const source: DistributionStorage = {
    place: inner.place,
    list: (path, page, what) => inner.list(path, page, what),
    size: (path) => inner.size(path),
    async read(path, limit) {
      const bytes = await inner.read(path, limit);
      return bytes && noted(path, bytes);
    },
    open: (path) => noted(path, inner.open(path)),
    foreign: (path) => noted(path, inner.foreign(path)),
  };
  return { source, read };
}

requires("skopeo", "docker-registry")("the folder of a docker-registry", () => {
  let old: DockerRegistry;
  let data: string;
  let blobs: string;
  let registry: LocalRegistry;
  let host: string;
  let layout: Layout;
  let image: LayoutImage;
  let moved: LayoutImage;
  let index: Descriptor;

  const push = (tag: string, name: string) => skopeoCopy(layout.reference(tag), `docker://${old.host}/${name}`);
  const pull = async (name: string): Promise<string> => {
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${host}/${name}`, `oci:${folder}:pulled`);
    return digestInLayout(folder);
  };
  const inode = async (path: string) => {
    const { dev, ino } = await stat(path);
    return `${dev} ${ino}`;
  };

  beforeAll(async () => {
    old = await dockerRegistry();
    data = join(old.folder, "data");
    layout = await Layout.create(await temporaryFolder());
    image = await layout.image("image", [200_000, 3_000_000, 1000]);
    moved = await layout.image("moved", [50_000]);
    const amd64 = await layout.image(undefined, [300_000, 2000]);
    const arm64 = await layout.image(undefined, [400_000], "arm64");
    index = await layout.index("index", [
      ["amd64", amd64],
      ["arm64", arm64],
    ]);
    const doomed = await layout.image("doomed", [7000]);
    await push("image", "team/app:1.0");
    await push("index", "team/app:multi");
    // Layers of two repositories, an older place of a tag, and a manifest that is deleted.
    await push("image", "other/app:same");
    await push("moved", "team/app:latest");
    await push("image", "team/app:latest");
    await push("doomed", "team/app:doomed");
    const gone = await fetch(`${old.origin}/v2/team/app/manifests/${doomed.digest}`, {
      method: "DELETE",
      headers: { accept: acceptManifests },
    });
    expect(gone.status).toBe(202);
    // An upload that somebody has begun.
    const begun = await fetch(`${old.origin}/v2/team/app/blobs/uploads/`, { method: "POST" });
    const sent = await fetch(new URL(begun.headers.get("location") ?? "", old.origin), {
      method: "PATCH",
      body: Buffer.from("half a layer"),
      headers: { "content-type": "application/octet-stream" },
    });
    expect(sent.status).toBe(202);

    // Beside the old one, on the same file system.
    blobs = join(old.folder, "new");
    await mkdir(blobs);
    registry = localRegistry({ storage: { blobs: fileBlobStore(blobs), metadata: memoryMetadataStore() }, name: "new" });
    host = await serve(registry);
  });

  test("is served with equal digests, by hard links, while the old registry runs, and nothing of it is changed", async () => {
    const before = await snapshot(data);
    const report = await adoptDistribution(registry, distributionFolder(data));
    expect(report).toMatchObject({
      complete: true,
      repositories: 2,
      manifests: 6,
      tags: 4,
      copied: 0,
      kept: [],
      skipped: [],
      incomplete: [],
    });
    // Seven layers and four configs: those of the image that two repositories have once.
    expect(report.linked).toBe(11);
    expect(await snapshot(data)).toEqual(before);

    for (const name of ["team/app:1.0", "team/app:latest", "other/app:same", `team/app@${image.digest}`])
      expect(await pull(name)).toBe(image.digest);
    expect(await pull("team/app:multi")).toBe(index.digest);
    // Untagged there, and still to be had by its digest.
    expect(await pull(`team/app@${moved.digest}`)).toBe(moved.digest);
    const listed: { Tags: string[] } = JSON.parse(await skopeo("list-tags", "--tls-verify=false", `docker://${host}/team/app`));
    expect(listed.Tags).toEqual(["1.0", "latest", "multi"]);

    const here = new Map<string, string>();
    for (const { location } of (await fileBlobStore(blobs).list({ limit: 1000 })).items) {
      const [, hex = ""] = /([a-f0-9]{64})\.[a-f0-9]{16}$/.exec(location) ?? [];
      here.set(`sha256:${hex}`, await inode(join(blobs, location)));
    }
    expect(here.size).toBe(11);
    for (const [digest, same] of here) expect(same).toBe(await inode(join(data, dataPath(digest))));
  });

  test("a second run reads the tags alone, and a later one takes what was pushed and moved there meanwhile", async () => {
    const { source, read } = noting(distributionFolder(data));
    expect(await adoptDistribution(registry, source)).toMatchObject({ complete: true, manifests: 0, tags: 0, linked: 0, bytes: 0 });
    expect(read.filter((path) => !path.endsWith("/current/link"))).toEqual([]);

    await push("moved", "team/app:latest");
    await push("moved", "third/app:new");
    const again = noting(distributionFolder(data));
    expect(await adoptDistribution(registry, again.source)).toMatchObject({ complete: true, manifests: 1, tags: 2, linked: 0, bytes: 0 });
    expect(again.read.filter((path) => path.startsWith("blobs/"))).toEqual([dataPath(moved.digest).replace("docker/registry/v2/", "")]);
    expect([await pull("team/app:latest"), await pull("third/app:new")]).toEqual([moved.digest, moved.digest]);
  });

  test("what was pushed to the new one is kept", async () => {
    await skopeoCopy(layout.reference("index"), `docker://${host}/team/app:1.0`);
    const report = await adoptDistribution(registry, distributionFolder(data));
    expect(report.kept).toEqual([{ repository: "team/app", tag: "1.0", here: index.digest, there: image.digest }]);
    expect(await pull("team/app:1.0")).toBe(index.digest);
  });

  test("deleting in the new one takes nothing from the old, and the other way round", async () => {
    for (const { location } of (await fileBlobStore(blobs).list({ limit: 1 })).items) await fileBlobStore(blobs).delete(location);
    for (const layer of [image.config, ...image.layers])
      expect(await get(`${old.origin}/v2/other/app/blobs/${layer.digest}`)).toMatchObject({ status: 200, bodyDigest: layer.digest });
    expect(orThrow(await registry.listRepositories({ limit: 10 })).items).toEqual(["other/app", "team/app", "third/app"]);
    await push("doomed", "team/app:still-works");
    expect(await get(`${old.origin}/v2/team/app/manifests/still-works`)).toMatchObject({ status: 200 });
  });

  test("every tag that docker-registry lists is here afterwards, or reported as incomplete", async () => {
    const names = ["fine", "missing", "empty", "folder", "file"];
    for (const name of names) await push("moved", `broken/app:${name}`);
    const tags = join(data, "docker/registry/v2/repositories/broken/app/_manifests/tags");
    await rm(join(tags, "missing/current/link"));
    await writeFile(join(tags, "empty/current/link"), "");
    await rm(join(tags, "folder/current/link"));
    await mkdir(join(tags, "folder/current/link"));
    await rm(join(tags, "file"), { recursive: true });
    await writeFile(join(tags, "file"), "");
    const tagsOf = async (origin: string) => {
      const { tags }: { tags: string[] } = JSON.parse(await (await fetch(`${origin}/v2/broken/app/tags/list`)).text());
      return tags;
    };
    const there = await tagsOf(old.origin);
    expect(there.length).toBeGreaterThan(1);
    const report = await adoptDistribution(registry, distributionFolder(data), { repositories: ["broken/*"] });
    expect(await tagsOf(`http://${host}`)).toEqual(["fine"]);
    const reported = report.incomplete.map(({ reference }) => reference);
    expect(there.filter((tag) => tag !== "fine" && !reported.includes(tag))).toEqual([]);
    expect(reported.sort()).toEqual(["empty", "file", "folder", "missing"]);
    expect(report.complete).toBe(false);
  });
});
