import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { allPages, type Digest, type LocalRegistry, localRegistry, mediaTypes, orThrow, RegistryError } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { collectGarbage } from "oci-manifold/maintenance";
import { type AdoptOptions, adoptDistribution, type DistributionStorage, distributionFolder } from "oci-manifold/migrate";
import { nameTable, prefixed } from "oci-manifold/names";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryMetadataStore, memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, describe, expect, test } from "vitest";
import { DistributionTree, dataPath, folderTarget, snapshot } from "../fixtures/distribution.js";
import { makeImage, makeIndex } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { withoutClock } from "../fixtures/without-clock.js";

let folder: string;
let tree: DistributionTree;
let registry: LocalRegistry;

beforeEach(() => {
  folder = temporaryFolder();
  tree = new DistributionTree(folderTarget(folder));
  registry = localRegistry({ storage: { blobs: fileBlobStore(temporaryFolder()), metadata: memoryMetadataStore() }, name: "release" });
});

const adopt = (o?: AdoptOptions, source = distributionFolder(folder)) => adoptDistribution(registry, source, o);
const standsAt = async (repository: string, tag: string) => {
  const lookup = await registry.resolveManifest(repository, tag);
  return lookup.kind === "found" ? lookup.value.digest : lookup.kind;
};
const repositories = async () => orThrow(await registry.listRepositories({ limit: 1000 })).items;

/** A source that notes what is read of it. */
function noting(): { source: DistributionStorage; read: string[] } {
  const inner = distributionFolder(folder);
  const read: string[] = [];
  const note = (path: string) => void read.push(path);
  return {
    read,
    source: {
      place: inner.place,
      list: (path, page, what) => inner.list(path, page, what),
      size: (path) => inner.size(path),
      read: (path, limit) => {
        note(path);
        return inner.read(path, limit);
      },
      open: (path) => {
        note(path);
        return inner.open(path);
      },
      foreign: (path) => {
        note(path);
        return inner.foreign(path);
      },
    },
  };
}

test("images, indexes, tags and repositories within repositories are served as they were", async () => {
  const [amd64, arm64, single] = [makeImage([1000, 200_000]), makeImage([2000]), makeImage([10])];
  const index = makeIndex([amd64, arm64]);
  for (const image of [amd64, arm64]) await tree.image("team/app", image);
  await tree.tag("team/app", "1.0", await tree.manifest("team/app", index.bytes));
  await tree.image("team", single, "a", "b");
  await tree.image("team-x/tool", amd64, "latest");
  const before = await snapshot(folder);

  const progress: string[] = [];
  const report = await adopt({ progress: ({ repository, after }) => progress.push(`${repository} ${after}`) });
  expect(report).toMatchObject({
    complete: true,
    repositories: 3,
    manifests: 5,
    tags: 4,
    linked: 7,
    copied: 0,
    incomplete: [],
    skipped: [],
    kept: [],
  });
  expect(report.done).toBe(report.items);
  expect(progress.at(-1)).toBe("team/app team/app");
  expect(await repositories()).toEqual(["team", "team-x/tool", "team/app"]);
  expect(await standsAt("team/app", "1.0")).toBe(index.digest);
  expect(await standsAt("team", "b")).toBe(single.digest);
  for (const image of [amd64, arm64]) {
    expect(Buffer.from(orThrow(await registry.getManifest("team/app", image.digest)).bytes)).toEqual(Buffer.from(image.manifest));
    for (const [digest, bytes] of image.blobs) expect(await bytesOf(await registry.getBlob("team/app", digest))).toEqual(bytes);
  }
  // What others have is not shown.
  expect((await registry.resolveBlob("team", amd64.config.digest)).kind).toBe("absent");
  expect(await snapshot(folder)).toEqual(before);
});

test("a second run reads no blob and no manifest again, and takes what is new", async () => {
  const [first, second] = [makeImage(), makeImage()];
  await tree.image("team/app", first, "1.0");
  await adopt();
  const { source, read } = noting();
  expect(await adopt({}, source)).toMatchObject({ complete: true, manifests: 0, tags: 0, linked: 0, copied: 0, bytes: 0 });
  expect(read).toEqual(["repositories/team/app/_manifests/tags/1.0/current/link"]);

  await tree.image("team/app", second, "2.0");
  await tree.tag("team/app", "1.0", second.digest);
  expect(await adopt()).toMatchObject({ complete: true, manifests: 1, tags: 2, linked: 3 });
  expect([await standsAt("team/app", "1.0"), await standsAt("team/app", "2.0")]).toEqual([second.digest, second.digest]);
});

describe("tags", () => {
  test("moved here by a push are kept and reported", async () => {
    const [theirs, later, ours] = [makeImage([1]), makeImage([2]), makeImage([3])];
    await tree.image("app", theirs, "latest");
    await adopt();
    for (const [digest, bytes] of ours.blobs) await registry.putBlob("app", { digest, size: bytes.byteLength }, chunksOf(bytes));
    await registry.putManifest("app", "latest", { bytes: ours.manifest });
    await tree.image("app", later, "latest");
    const report = await adopt();
    expect(report.kept).toEqual([{ repository: "app", tag: "latest", here: ours.digest, there: later.digest }]);
    expect(await standsAt("app", "latest")).toBe(ours.digest);
    expect(report).toMatchObject({ complete: true, manifests: 1, tags: 0 });
  });

  test("moved here by a push at the very moment are kept too", async () => {
    const [theirs, ours] = [makeImage([1]), makeImage([2])];
    await tree.image("app", theirs, "latest");
    const racing: LocalRegistry = {
      ...registry,
      async putManifest(repository, reference, content, o) {
        if (reference === "latest") {
          for (const [digest, bytes] of ours.blobs) await registry.putBlob("app", { digest, size: bytes.byteLength }, chunksOf(bytes));
          await registry.putManifest("app", "latest", { bytes: ours.manifest });
        }
        return registry.putManifest(repository, reference, content, o);
      },
    };
    const report = await adoptDistribution(racing, distributionFolder(folder));
    expect(report.kept).toEqual([{ repository: "app", tag: "latest", here: ours.digest, there: theirs.digest }]);
    expect(await standsAt("app", "latest")).toBe(ours.digest);
  });

  test("gone there stay, or go where that is wanted and they are theirs", async () => {
    const [theirs, ours] = [makeImage([1]), makeImage([2])];
    await tree.image("app", theirs, "stays", "goes");
    await adopt();
    for (const [digest, bytes] of ours.blobs) await registry.putBlob("app", { digest, size: bytes.byteLength }, chunksOf(bytes));
    await registry.putManifest("app", "ours", { bytes: ours.manifest });
    await tree.remove(`${tree.repository("app")}/_manifests/tags/goes`);
    expect((await adopt()).removed).toEqual([]);
    expect(await standsAt("app", "goes")).toBe(theirs.digest);
    expect((await adopt({ deletedTags: "remove" })).removed).toEqual([{ repository: "app", tag: "goes", digest: theirs.digest }]);
    expect([await standsAt("app", "stays"), await standsAt("app", "goes"), await standsAt("app", "ours")]).toEqual([
      theirs.digest,
      "absent",
      ours.digest,
    ]);
  });

  test("whose link does not say what they point to are incomplete, since they are listed there, and not taken for deleted", async () => {
    const image = makeImage();
    const tags = join(folder, tree.repository("app"), "_manifests/tags");
    const spoiled: Record<string, { spoil: () => Promise<unknown>; why: string }> = {
      rubbish: { spoil: () => writeFile(join(tags, "rubbish/current/link"), "rubbish"), why: "names no digest" },
      empty: { spoil: () => writeFile(join(tags, "empty/current/link"), ""), why: "is empty" },
      large: { spoil: () => writeFile(join(tags, "large/current/link"), "a".repeat(2000)), why: "more than 1024" },
      missing: { spoil: () => rm(join(tags, "missing/current/link")), why: "is missing" },
      "missing-folder": { spoil: () => rm(join(tags, "missing-folder/current"), { recursive: true }), why: "is missing" },
      "empty-folder": {
        spoil: async () => {
          await rm(join(tags, "empty-folder"), { recursive: true });
          await mkdir(join(tags, "empty-folder"));
        },
        why: "is missing",
      },
      "link-is-a-folder": {
        spoil: async () => {
          await rm(join(tags, "link-is-a-folder/current/link"));
          await mkdir(join(tags, "link-is-a-folder/current/link"));
        },
        why: "is no regular file",
      },
      "tag-is-a-file": {
        spoil: async () => {
          await rm(join(tags, "tag-is-a-file"), { recursive: true });
          await writeFile(join(tags, "tag-is-a-file"), "");
        },
        why: "is missing",
      },
    };
    await tree.image("app", image, "fine", ...Object.keys(spoiled));
    expect(await adopt()).toMatchObject({ complete: true, tags: 9 });
    for (const { spoil } of Object.values(spoiled)) await spoil();
    await mkdir(join(tags, "begun/index"), { recursive: true });
    await mkdir(join(tags, "-no tag-"));
    const report = await adopt({ deletedTags: "remove" });
    const expected = [...Object.entries(spoiled).map(([tag, { why }]) => [tag, why] as const), ["begun", "is missing"] as const];
    expect(new Map(report.incomplete.map(({ reference, why }) => [reference, why]))).toEqual(
      new Map(expected.map(([tag, why]) => [tag, expect.stringContaining(why)])),
    );
    expect(report.skipped).toEqual([{ repository: "app", reference: "-no tag-", why: expect.stringContaining("is no tag") }]);
    expect(report).toMatchObject({ complete: false, removed: [] });
    for (const tag of ["fine", ...Object.keys(spoiled)]) expect(await standsAt("app", tag)).toBe(image.digest);
    expect(await standsAt("app", "begun")).toBe("absent");
  });

  test.skipIf(process.platform === "win32")("that are symbolic links come, or are reported where those lead out of the tree", async () => {
    const image = makeImage();
    const tags = join(folder, tree.repository("app"), "_manifests/tags");
    const elsewhere = temporaryFolder();
    await tree.image("app", image, "fine");
    await symlink(join(tags, "fine"), join(tags, "alias"));
    await symlink(elsewhere, join(tags, "outside"));
    await mkdir(join(elsewhere, "current"));
    await writeFile(join(elsewhere, "current/link"), image.digest);
    const report = await adopt();
    expect(report.incomplete).toEqual([{ repository: "app", reference: "outside", why: expect.stringContaining("leads out of its tree") }]);
    expect([await standsAt("app", "alias"), await standsAt("app", "outside")]).toEqual([image.digest, "absent"]);
  });

  test("that point to a manifest which is not to be had are reported", async () => {
    const gone = digestOf(Buffer.from("gone"));
    await tree.image("app", makeImage(), "fine");
    await tree.tag("app", "dangling", gone);
    const report = await adopt();
    expect(report.incomplete).toEqual([{ repository: "app", reference: "dangling", why: expect.stringContaining(gone) }]);
    expect(report.complete).toBe(false);
  });
});

describe("what is damaged or incomplete", () => {
  test("a manifest whose layer is gone, or not its repository's, is reported, and the rest goes on", async () => {
    const [whole, lost, foreign] = [makeImage([1, 2]), makeImage([3, 4]), makeImage([5])];
    await tree.image("app", whole, "whole");
    await tree.image("app", lost, "lost");
    await tree.remove(dataPath(lost.layers[1]?.digest ?? ""));
    await tree.image("other", foreign);
    await tree.tag("app", "foreign", await tree.manifest("app", foreign.manifest));
    const report = await adopt({ concurrency: 1 });
    const of = (reference: string) => report.incomplete.find((problem) => problem.reference === reference)?.why;
    expect(of(lost.digest)).toContain(`${lost.layers[1]?.digest}: its bytes are gone`);
    expect(of(foreign.digest)).toContain("the repository does not have it");
    expect(report.incomplete.map(({ reference }) => reference).sort()).toEqual([foreign.digest, lost.digest, "foreign", "lost"].sort());
    expect(await standsAt("app", "whole")).toBe(whole.digest);
    expect(await standsAt("app", "lost")).toBe("absent");
    expect((await registry.resolveBlob("app", foreign.config.digest)).kind).toBe("absent");
  });

  test("a layer of other bytes is never served, and comes once it is right", async () => {
    const image = makeImage([100_000]);
    const layer = image.layers[0]?.digest ?? "";
    await tree.image("app", image, "1");
    await tree.write(dataPath(layer), randomBytes(100_000));
    const report = await adopt();
    expect(report.incomplete[0]?.why).toContain(layer);
    expect((await registry.resolveBlob("app", layer)).kind).toBe("absent");
    await tree.image("app", image, "1");
    expect((await adopt()).complete).toBe(true);
    expect(await standsAt("app", "1")).toBe(image.digest);
  });

  test("sizes alone are compared where that is wanted, and nothing is read", async () => {
    const [fine, short] = [makeImage([100_000]), makeImage([50_000])];
    await tree.image("app", fine, "fine");
    await tree.image("app", short, "short");
    await tree.write(dataPath(short.layers[0]?.digest ?? ""), randomBytes(49_999));
    const report = await adopt({ verify: "size" });
    expect(report.bytes).toBe(0);
    expect(report.linked).toBe(3);
    expect(report.incomplete[0]?.why).toContain("it has 49999 bytes, and the manifest says 50000");
    expect(await standsAt("app", "fine")).toBe(fine.digest);
  });

  test("a manifest of other bytes, too large, or in a format that is not taken, is reported", async () => {
    await tree.image("app", makeImage(), "fine");
    const damaged = await tree.manifest("app", Buffer.from('{"schemaVersion":2}'));
    await tree.write(dataPath(damaged), "other bytes");
    const large = await tree.manifest("app", Buffer.alloc(4 * 2 ** 20 + 1, " "));
    const old = await tree.manifest("app", Buffer.from('{"schemaVersion":1,"name":"app","fsLayers":[],"history":[],"signatures":[]}'));
    const rubbish = await tree.manifest("app", randomBytes(100));
    const bytesGone = await tree.manifest("app", Buffer.from('{"schemaVersion":2,"layers":[]}'));
    await tree.remove(dataPath(bytesGone));
    const deleted = await tree.manifest("app", Buffer.from("deleted"));
    await tree.remove(`${tree.repository("app")}/_manifests/revisions/${deleted.replace(":", "/")}/link`);
    await mkdir(join(folder, tree.repository("app"), "_manifests/revisions/sha256/deadbeef"), { recursive: true });
    await mkdir(join(folder, tree.repository("app"), "_manifests/revisions/md5/deadbeef"), { recursive: true });
    const report = await adopt();
    const all = [...report.incomplete, ...report.skipped].map(({ reference, why }) => [reference, why]);
    expect(all.sort()).toEqual(
      [
        [damaged, expect.stringContaining("other")],
        [large, expect.stringContaining("4194304")],
        [old, expect.stringContaining("schemaVersion")],
        [rubbish, expect.stringContaining("JSON")],
        [bytesGone, expect.stringContaining("gone")],
        ["sha256:deadbeef", expect.stringContaining("digest")],
        ["md5:deadbeef", expect.stringContaining("digest")],
      ].sort(),
    );
    expect(await standsAt("app", "fine")).not.toBe("absent");
  });

  test("a list keeps to its limit, and the rest is counted", async () => {
    for (let count = 0; count < 8; count++) await tree.manifest("app", randomBytes(100));
    expect(await adopt({ limit: 3 })).toMatchObject({ complete: false, skipped: { length: 3 }, omitted: 5 });
  });

  test("names that are none are passed over, and system folders are not repositories", async () => {
    await tree.image("app", makeImage(), "1");
    await tree.write("docker/registry/v2/repositories/lost+found/x/_manifests/tags/1/current/link", "x");
    await tree.write("docker/registry/v2/repositories/App/_manifests/tags/1/current/link", "x");
    await tree.write("docker/registry/v2/repositories/app/_uploads/5b/data", "half a layer");
    await tree.write("docker/registry/v2/repositories/empty/_uploads/5b/data", "half a layer");
    await tree.write("docker/registry/v2/repositories/a-file", "x");
    const report = await adopt();
    expect(report.skipped.map(({ repository }) => repository)).toEqual(["App", "lost+found"]);
    expect(await repositories()).toEqual(["app"]);
  });

  test.skipIf(process.platform === "win32")("symbolic links out of the tree lead nowhere", async () => {
    const [image, inside] = [makeImage([100]), makeImage([200])];
    const secret = join(temporaryFolder(), "secret");
    await tree.image("app", image, "1");
    await tree.image("app", inside, "2");
    const layer = image.layers[0]?.digest ?? "";
    await writeFile(secret, image.blobs.get(layer) ?? "");
    const path = join(folder, dataPath(layer));
    await rm(path);
    await symlink(secret, path);
    await symlink(folder, join(folder, tree.repository("loop")));
    // Within the tree it is as good as any other file.
    const other = join(folder, dataPath(inside.layers[0]?.digest ?? ""));
    await writeFile(join(folder, "docker/registry/v2/blobs/moved"), inside.blobs.get(inside.layers[0]?.digest ?? "") ?? "");
    await rm(other);
    await symlink(join(folder, "docker/registry/v2/blobs/moved"), other);
    const report = await adopt();
    expect(report.incomplete.find(({ reference }) => reference === image.digest)?.why).toContain("leads out of its tree");
    expect(await standsAt("app", "2")).toBe(inside.digest);
    expect(await repositories()).toEqual(["app"]);
  });

  test.skipIf(process.platform === "win32")(
    "pipes and folders in the place of bytes are reported, and nobody waits for a writer",
    async () => {
      const images = [makeImage([100]), makeImage([200]), makeImage([300])];
      const [asPipe, asFolder, whole] = images;
      for (const [at, image] of images.entries()) await tree.image("app", image, `${at}`);
      const places = [dataPath(asPipe?.layers[0]?.digest ?? ""), dataPath(asFolder?.layers[0]?.digest ?? "")].map((path) =>
        join(folder, path),
      );
      for (const place of places) await rm(place);
      await promisify(execFile)("mkfifo", [places[0] ?? ""]);
      await mkdir(places[1] ?? "");
      const { incomplete } = await adopt();
      const why = expect.stringContaining("is no regular file");
      for (const image of [asPipe, asFolder]) expect(incomplete).toContainEqual({ repository: "app", reference: image?.digest, why });
      expect(await standsAt("app", "2")).toBe(whole?.digest);
    },
  );

  test("no tree at all is an error that says what to pass", async () => {
    await expect(adopt({}, distributionFolder(join(folder, "nowhere")))).rejects.toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringContaining("rootdirectory"),
    });
  });
});

describe("what may be there", () => {
  test("children that are blobs, layers under a second digest, an index without the rest of its platforms", async () => {
    const cache = Buffer.from("a layer of a build cache");
    await tree.layer("app", await tree.data(cache));
    const child = { mediaType: "application/vnd.oci.image.layer.v1.tar", digest: digestOf(cache), size: cache.byteLength };
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [child] }));
    await tree.tag("app", "cache", await tree.manifest("app", index));

    const layer = randomBytes(500);
    const named = digestOf(layer, "sha512");
    await tree.layer("app", named, await tree.data(layer));
    const aliased = makeImage([1], { layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest: named, size: 500 }] });
    await tree.image("app", aliased, "aliased");
    expect(await adopt({ verify: "size" })).toMatchObject({ complete: true, tags: 2 });
    expect(await bytesOf(await registry.getBlob("app", named))).toEqual(layer);
    expect(await bytesOf(await registry.getBlob("app", child.digest))).toEqual(cache);

    const sparse = makeIndex([makeImage([1]), makeImage([2])]);
    await tree.tag("app", "sparse", await tree.manifest("app", sparse.bytes));
    expect((await adopt()).incomplete).toHaveLength(2);
    registry = localRegistry({ storage: memoryStorage(), name: "mirror", sparse: true });
    expect(await adopt()).toMatchObject({ complete: true, tags: 3, linked: 0 });
    expect(await standsAt("app", "sparse")).toBe(sparse.digest);
  });

  test("media types that are in the bytes only by their form, layers not to be distributed, subjects", async () => {
    const image = makeImage([10]);
    await tree.image("app", image);
    const { mediaType: _, ...bare } = JSON.parse(Buffer.from(image.manifest).toString());
    const foreignLayer = {
      mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
      digest: digestOf(Buffer.from("w")),
      size: 1,
    };
    await tree.tag(
      "app",
      "bare",
      await tree.manifest("app", Buffer.from(JSON.stringify({ ...bare, layers: [...bare.layers, foreignLayer] }))),
    );
    const subject = { mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.manifest.byteLength };
    const signature = await tree.manifest("app", Buffer.from(JSON.stringify({ ...bare, subject, artifactType: "application/signature" })));
    expect(await adopt()).toMatchObject({ complete: true, tags: 1, manifests: 3 });
    expect(orThrow(await registry.resolveManifest("app", "bare")).mediaType).toBe(mediaTypes.ociManifest);
    const referrers = orThrow(await registry.listReferrers("app", image.digest, { limit: 10 })).items;
    expect(referrers.map(({ digest }) => digest)).toEqual([signature]);
  });

  test("garbage of the old registry stays there: layers that no manifest names", async () => {
    const unused = await tree.data(Buffer.from("unused"));
    await tree.image("app", makeImage(), "1");
    await tree.layer("app", unused);
    await adopt();
    expect((await registry.resolveBlob("app", unused)).kind).toBe("absent");
  });

  test("untagged manifests come unless they are left out", async () => {
    const [tagged, untagged, child] = [makeImage([1]), makeImage([2]), makeImage([3])];
    await tree.image("app", tagged, "1");
    await tree.image("app", untagged);
    await tree.image("app", child);
    await tree.tag("app", "index", await tree.manifest("app", makeIndex([child]).bytes));
    await adopt({ untagged: false });
    const stored = async () => {
      const found: Digest[] = [];
      for await (const { digest } of allPages((page) => registry.listManifests("app", page))) found.push(digest as Digest);
      return found;
    };
    expect(await stored()).toHaveLength(3);
    expect(await stored()).not.toContain(untagged.digest);
    await adopt();
    expect(await stored()).toContain(untagged.digest);
  });
});

describe("which repositories", () => {
  beforeEach(async () => {
    for (const name of ["a", "a/b", "a/b/c", "a-b", "a.b", "b", "c/d"]) await tree.image(name, makeImage([5]), "1");
  });

  test("patterns choose, mappings rename and choose", async () => {
    await adopt({ repositories: ["a/**", "b"], rename: prefixed("old/") });
    expect(await repositories()).toEqual(["old/a/b", "old/a/b/c", "old/b"]);
    await adopt({ rename: nameTable({ "new/name": "c/d" }) });
    expect(await repositories()).toEqual(["new/name", "old/a/b", "old/a/b/c", "old/b"]);
    await expect(adopt({ repositories: ["a:1"] })).rejects.toMatchObject({ code: "NAME_INVALID" });
    expect((await adopt({ rename: { fromSource: () => "No Name", toSource: () => undefined } })).skipped).toHaveLength(7);
  });

  test("after each repository it can be ended, and goes on behind it", async () => {
    const whole: string[] = [];
    await adoptDistribution(localRegistry({ storage: memoryStorage(), name: "other" }), distributionFolder(folder), {
      progress: ({ after }) => {
        if (after !== undefined && whole.at(-1) !== after) whole.push(after);
      },
    });
    expect(whole).toEqual(["a-b", "a.b", "a", "a/b", "a/b/c", "b", "c/d"]);
    for (const [index, last] of whole.entries()) {
      const controller = new AbortController();
      registry = localRegistry({ storage: memoryStorage(), name: "release" });
      const work = adopt({
        signal: controller.signal,
        progress: ({ after }) => {
          if (after === last) controller.abort(new Error("enough"));
        },
      });
      await expect(work).rejects.toThrow("enough");
      expect(await repositories()).toEqual(whole.slice(0, index + 1).sort());
      await adopt({ after: last });
      expect(await repositories()).toEqual([...whole].sort());
    }
    await expect(adopt({ after: "No Name" })).rejects.toMatchObject({ code: "NAME_INVALID" });
  });
});

describe("an abort", () => {
  /** A source that aborts with the n-th question to it. */
  function abortedAt(at: number, reason: Error) {
    const inner = distributionFolder(folder);
    const controller = new AbortController();
    const questions = { all: 0 };
    const asked = <T>(answer: () => T): T => {
      if (++questions.all === at) controller.abort(reason);
      return answer();
    };
    const source: DistributionStorage = {
      place: inner.place,
      list: (path, page, what) => asked(() => inner.list(path, page, what)),
      read: (path, limit) => asked(() => inner.read(path, limit)),
      size: (path) => asked(() => inner.size(path)),
      open: (path) => asked(() => inner.open(path)),
      foreign: (path) => asked(() => inner.foreign(path)),
    };
    return { source, signal: controller.signal, questions };
  }
  const concurrency = 4;

  test.each([1, 10, 150])("with the %ith question to the source is the last but those beside it", async (at) => {
    for (let count = 0; count < 24; count++) await tree.image(`team/app-${count % 3}`, makeImage([10]), `v${count}`);
    const { source, signal, questions } = abortedAt(at, new Error("enough"));
    await expect(adopt({ signal, concurrency }, source)).rejects.toThrow("enough");
    expect(questions.all).toBeLessThan(at + 2 * concurrency);
  });

  test("ends a walk over folders that are no repositories", async () => {
    await tree.image("z", makeImage([10]), "1");
    for (let count = 0; count < 40; count++) await mkdir(join(folder, tree.repository(`team-${count}`)), { recursive: true });
    const { source, signal, questions } = abortedAt(20, new Error("enough"));
    await expect(adopt({ signal, concurrency }, source)).rejects.toThrow("enough");
    expect(questions.all).toBe(20);
  });

  test("whose reason is an error that a damaged item could have had ends the run all the same", async () => {
    await tree.image("app", makeImage([10]), "1");
    const reason = new RegistryError("UNKNOWN", "enough");
    for (const at of [1, 3, 5, 7]) {
      const { source, signal } = abortedAt(at, reason);
      await expect(adopt({ signal, concurrency }, source)).rejects.toBe(reason);
    }
    await expect(adopt({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

test("a store that takes nothing by itself gets the bytes", async () => {
  const image = makeImage([300_000]);
  await tree.image("app", image, "1");
  registry = localRegistry({ storage: memoryStorage(), name: "release" });
  const size = [...image.blobs.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  expect(await adopt()).toMatchObject({ complete: true, linked: 0, copied: 2, bytes: size });
  for (const [digest, bytes] of image.blobs) expect(await bytesOf(await registry.getBlob("app", digest))).toEqual(bytes);
});

test("what vanishes while it is read is an item's problem", async () => {
  const images = Array.from({ length: 4 }, () => makeImage([100]));
  for (const [index, image] of images.entries()) await tree.image("app", image, `tag-${index}`);
  const inner = distributionFolder(folder);
  let vanished = 0;
  const vanishing: DistributionStorage = {
    place: inner.place,
    list: (path, page, what) => inner.list(path, page, what),
    read: (path, limit) => inner.read(path, limit),
    open: (path) => inner.open(path),
    foreign: (path) => inner.foreign(path),
    // Each second blob goes between the look at it and its copy.
    async size(path) {
      const size = await inner.size(path);
      if (path.startsWith("blobs/") && vanished++ % 2 === 1) await rm(join(folder, "docker/registry/v2", path));
      return size;
    },
  };
  const report = await adopt({ concurrency: 1 }, vanishing);
  expect(report.incomplete.length).toBeGreaterThan(0);
  expect(report.items).toBe(report.done);
});

test("runs that fail at any change of the records are made up for by the next one, and leave nothing that is not collected", async () => {
  const [amd64, arm64] = [makeImage([1000]), makeImage([2000])];
  for (const image of [amd64, arm64]) await tree.image("app", image, image.digest.slice(7, 12));
  await tree.tag("app", "index", await tree.manifest("app", makeIndex([amd64, arm64]).bytes));
  await tree.image("other", amd64, "1");
  const [blobs, metadata] = [fileBlobStore(temporaryFolder()), memoryMetadataStore()];
  let left = 0;
  const failing: typeof metadata = {
    ...metadata,
    async commit(conditions, changes) {
      if (left-- > 0) return metadata.commit(conditions, changes);
      // Each second failure is one whose change was made.
      if (changes.length % 2 === 0) await metadata.commit(conditions, changes);
      throw new Error("the records are gone");
    },
  };
  registry = localRegistry({ storage: { blobs, metadata: failing }, name: "release" });
  let failed = 0;
  for (let round = 0; ; round++) {
    left = round % 3;
    const error = await adopt().then(
      ({ complete }) => (complete ? undefined : "it is not complete"),
      (reason: Error) => reason.message,
    );
    if (error === undefined) break;
    expect(error).toBe("the records are gone");
    failed++;
  }
  expect(failed).toBeGreaterThan(5);
  expect(await standsAt("app", "index")).toBe(makeIndex([amd64, arm64]).digest);
  for (const image of [amd64, arm64])
    for (const [digest, bytes] of image.blobs) expect(await bytesOf(await registry.getBlob("app", digest))).toEqual(bytes);
  // Bytes whose record may have been written stay until it is sure that it was not.
  const later = { now: () => Date.now() + 48 * 3_600_000, elapsed: () => performance.now(), sleep: async () => {} };
  await collectGarbage(withoutClock({ blobs, metadata }), { clock: later });
  expect((await blobs.list({ limit: 100 })).items).toHaveLength(4);
  for (const [digest, bytes] of amd64.blobs) expect(await bytesOf(await registry.getBlob("app", digest))).toEqual(bytes);
});

test("a full quota ends the run", async () => {
  await tree.image("app", makeImage([300_000]), "1");
  registry = localRegistry({ storage: memoryStorage(), name: "release", maxBytes: "1KiB" });
  await expect(adopt()).rejects.toMatchObject({ code: "DENIED" });
});

test("more folders than fit a page are listed page by page, in order, each once", async () => {
  const path = join(folder, "docker/registry/v2/repositories/app/_manifests/tags");
  const names = Array.from({ length: 500 }, (_, index) => `t${index}`);
  for (const name of names) await mkdir(join(path, name), { recursive: true });
  const source = distributionFolder(folder);
  const seen: string[] = [];
  for await (const name of allPages((page) => source.list("repositories/app/_manifests/tags", page), 97)) seen.push(name);
  expect(seen).toEqual([...names].sort());
});
