import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { aggregate, cached, localRegistry, mediaTypes, type Registry } from "oci-manifold";
import { chunksOf, digestOf, type StoringRegistry } from "oci-manifold/extend";
import { exportLayout, importLayout, type LayoutEntry } from "oci-manifold/layout";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { put, rejection, store } from "../maintenance/support.js";
import { contentsOf, layoutOf, local, named, pathOf, refName, standsAt, subjectOf, writeArchive, writeFolder } from "./support.js";

/** One of everything that a repository may hold. */
async function filled(): Promise<StoringRegistry> {
  const registry = local("staging");
  const image = await pushImage(registry, "app", "image", makeImage([0, 1000, 1_200_000]));
  const other = await pushImage(registry, "app", "bare", makeImage([]));
  const index = makeIndex([image, other]);
  await put(registry, "app", "index", index.bytes);
  const nested = { mediaType: mediaTypes.ociIndex, digest: index.digest, size: index.bytes.byteLength };
  await put(
    registry,
    "app",
    "nested",
    Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [nested] })),
  );
  const signature = makeImage([10], { ...subjectOf(image), artifactType: "application/x.signature" });
  await pushBlobs(registry, "app", signature);
  await put(registry, "app", signature.digest, signature.manifest);
  const attestation = makeImage([11], subjectOf(signature));
  await pushBlobs(registry, "app", attestation);
  await put(registry, "app", attestation.digest, attestation.manifest);
  // Under sha512, with a layer that has a sha512 digest, and one that nobody may distribute.
  const [long, foreign] = [randomBytes(500), randomBytes(300)];
  const layers = [
    { mediaType: "application/vnd.oci.image.layer.v1.tar", digest: digestOf(long, "sha512"), size: 500 },
    {
      mediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar",
      digest: digestOf(foreign),
      size: 300,
      urls: ["https://example.com/l"],
    },
    {
      mediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar",
      digest: digestOf(randomBytes(9)),
      size: 9,
      urls: ["https://example.com/m"],
    },
  ];
  await store(registry, "app", digestOf(long, "sha512"), long);
  await store(registry, "app", digestOf(foreign), foreign);
  // Without the field mediaType, as umoci writes it.
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, config: image.config, layers }));
  await registry.putManifest("app", digestOf(manifest, "sha512"), { bytes: manifest }, { tags: ["long"] });
  const docker = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.dockerManifest, config: image.config, layers: [] }));
  await put(registry, "app", "docker", docker);
  return registry;
}

describe.each(["folder", "archive"] as const)("by a %s", (format) => {
  test("everything comes back byte for byte; a second run takes nothing", async () => {
    const staging = await filled();
    const path = join(temporaryFolder(), "layout");
    const exported = await exportLayout(staging, path, { repository: "app", referrers: true, format });
    expect(exported).toMatchObject({ sparse: false, omitted: 0, done: exported.items });
    expect(exported.images).toHaveLength(8);

    const release = local("release");
    const imported = await importLayout(release, path, { repository: "team/app" });
    expect(imported).toMatchObject({ items: exported.items + 6, done: exported.items + 6, bytes: exported.bytes, missing: [] });
    const before = await contentsOf(staging, "app");
    expect(Object.keys(before).filter((key) => key.startsWith("tag "))).toHaveLength(6);
    expect(await contentsOf(release, "team/app")).toEqual(before);

    const { registry, calls } = spied(release);
    expect(await importLayout(registry, path, { repository: "team/app" })).toMatchObject({ ...imported, bytes: 0 });
    expect(calls.filter((call) => !call.startsWith("resolve"))).toEqual([]);
  });

  test("what is behind connectors and caches goes along", async () => {
    const staging = await filled();
    const hub = cached(staging, { storage: memoryStorage(), name: "hub" });
    const all = aggregate({ local: local("all"), connectors: [{ name: "hub", source: hub }] });
    const path = join(temporaryFolder(), "layout");
    await exportLayout(all, path, { repository: "app", references: ["index", "long"], format });
    const release = aggregate({ local: local("release"), connectors: [] });
    await importLayout(release, path, { repository: "app" });
    for (const tag of ["index", "long"]) expect(await standsAt(release, "app", tag)).toBe(await standsAt(staging, "app", tag));
    await all.close();
  });

  test("into an aggregate it is stored in its local registry, though a connector has it", async () => {
    const staging = await filled();
    const path = join(temporaryFolder(), "layout");
    await exportLayout(staging, path, { repository: "app", referrers: true, format });
    const release = local("release");
    const all = aggregate({ local: release, connectors: [{ name: "staging", source: staging }] });
    await all.ready();
    await importLayout(all, path, { repository: "app" });
    expect(await contentsOf(release, "app")).toEqual(await contentsOf(staging, "app"));
    expect((await release.listBlobReferences("app", { limit: 100 })).items.filter(({ origin }) => origin)).toEqual([]);
    await all.close();
  });

  test("an import that is ended anywhere goes on there, and every blob is put once", async () => {
    const staging = await filled();
    const path = join(temporaryFolder(), "layout");
    await exportLayout(staging, path, { repository: "app", referrers: true, format });
    const whole = await contentsOf(staging, "app");
    const blobs = Object.keys(whole).filter((key) => key.startsWith("blob ")).length;
    const { items } = await importLayout(local("count"), path, { repository: "app" });
    for (let last = 1; last < items; last += 3) {
      const release = local("release");
      const { registry, calls } = spied(release);
      const controller = new AbortController();
      const ended = importLayout(registry, path, {
        repository: "app",
        concurrency: 1,
        signal: controller.signal,
        progress: ({ done }) => done >= last && controller.abort(new Error("enough")),
      });
      expect(await rejection(ended)).toMatchObject({ message: "enough" });
      // Tags come last: what a tag leads to is whole, always.
      const soFar = await contentsOf(release, "app");
      if (Object.keys(soFar).some((key) => key.startsWith("tag "))) {
        expect(Object.keys(soFar).filter((key) => !key.startsWith("tag "))).toEqual(
          Object.keys(whole).filter((key) => !key.startsWith("tag ")),
        );
      }
      await importLayout(registry, path, { repository: "app" });
      expect(await contentsOf(release, "app")).toEqual(whole);
      expect(calls.filter((call) => call === "putBlob app")).toHaveLength(blobs);
    }
  });

  test("a signal that aborted before ends it at once", async () => {
    const path = join(temporaryFolder(), "layout");
    const signal = AbortSignal.abort(new Error("before"));
    expect(await rejection(exportLayout(await filled(), path, { repository: "app", format, signal }))).toMatchObject({ message: "before" });
    expect(await rejection(importLayout(local("release"), path, { repository: "app", signal }))).toMatchObject({ message: "before" });
  });
});

describe("an index of which the layout has one platform", () => {
  const [here, elsewhere] = [makeImage([10]), makeImage([20])];
  const index = makeIndex([here, elsewhere]);
  const path = () => {
    const files = layoutOf([here], [{ ...named(index.bytes, "1"), mediaType: mediaTypes.ociIndex }]);
    files.set(pathOf(index.digest), index.bytes);
    return writeFolder(temporaryFolder(), files);
  };

  test("is refused with what to do about it", async () => {
    const error = await rejection(importLayout(local("release"), path(), { repository: "app" }));
    expect(error).toMatchObject({
      code: "MANIFEST_BLOB_UNKNOWN",
      message: expect.stringMatching(/docker save --platform .*by its digest/),
    });
  });

  test("gives that one by its digest, and says which are not there", async () => {
    const release = local("release");
    const { images } = await importLayout(release, path(), { repository: "app", references: [here.digest], tag: "amd64" });
    expect(images).toEqual([{ repository: "app", tag: "amd64", digest: here.digest }]);
    expect(await standsAt(release, "app", "amd64")).toBe(here.digest);
    const error = await rejection(importLayout(release, path(), { repository: "app", references: [elsewhere.digest] }));
    expect(error).toMatchObject({ code: "MANIFEST_UNKNOWN", message: expect.stringContaining(elsewhere.digest) });
  });
});

describe("what goes where", () => {
  const [one, two] = [makeImage([10]), makeImage([20])];
  const whole = (image: typeof one, name: string, tag: string) => ({
    ...named(image.manifest),
    annotations: { "io.containerd.image.name": name, [refName]: tag },
  });
  const folderWith = (entries: readonly object[]) => writeFolder(temporaryFolder(), layoutOf([one, two], entries));

  test.each([
    ["1.0", { name: "1.0", tag: "1.0" }],
    ["docker.io/library/app:1.0", { name: "docker.io/library/app:1.0", repository: "library/app", tag: "1.0" }],
    ["localhost/app:latest", { name: "localhost/app:latest", repository: "app", tag: "latest" }],
    ["localhost:5000/team/app:2", { name: "localhost:5000/team/app:2", repository: "team/app", tag: "2" }],
    ["team/app", { name: "team/app", repository: "team/app" }],
    ["team/app:1@sha256:00", { name: "team/app:1@sha256:00", repository: "team/app", tag: "1" }],
    ["registry.example/app@sha256:00", { name: "registry.example/app@sha256:00", repository: "app" }],
    ["../../etc/passwd:x", { name: "../../etc/passwd:x", tag: "x" }],
    ["not a tag", { name: "not a tag" }],
    ["", { name: "" }],
    [undefined, {}],
  ])("the name %j", async (name, expected) => {
    const seen: LayoutEntry[] = [];
    await importLayout(local("release"), folderWith([named(one.manifest, name)]), {
      repository: "app",
      rename: (entry) => {
        seen.push(entry);
        return {};
      },
    });
    expect(seen).toEqual([{ ...expected, descriptor: expect.objectContaining({ digest: one.digest }) }]);
  });

  test("one archive of several names goes into several repositories, shared blobs by mounts", async () => {
    const release = local("release");
    const { registry, calls } = spied(release);
    const path = join(temporaryFolder(), "names.tar");
    const entries = [
      whole(one, "docker.io/library/one:1", "1"),
      whole(two, "docker.io/library/two:1", "1"),
      whole(one, "docker.io/team/again:1", "1"),
    ];
    await writeArchive(path, layoutOf([one, two], entries));
    const report = await importLayout(registry, path, {
      rename: ({ repository = "", tag }) => (repository.startsWith("team/") ? { repository: "again", tag: `v${tag}` } : { repository }),
    });
    expect(report.images).toEqual([
      { repository: "library/one", tag: "1", digest: one.digest },
      { repository: "library/two", tag: "1", digest: two.digest },
      { repository: "again", tag: "v1", digest: one.digest },
    ]);
    expect(await standsAt(release, "again", "v1")).toBe(one.digest);
    expect(calls.filter((call) => call.startsWith("putBlob again"))).toEqual([]);
    expect((await release.listBlobReferences("again", { limit: 10 })).items).toHaveLength(2);
  });

  test("some by tag, by whole name, by digest; rename leaves some out", async () => {
    const folder = folderWith([whole(one, "docker.io/library/one:1", "1"), named(two.manifest)]);
    for (const reference of ["1", "docker.io/library/one:1", one.digest]) {
      const { images } = await importLayout(local("release"), folder, { repository: "app", references: [reference] });
      expect(images).toEqual([{ repository: "app", tag: "1", digest: one.digest }]);
    }
    const { images } = await importLayout(local("release"), folder, { repository: "app", references: [two.digest] });
    expect(images).toEqual([{ repository: "app", digest: two.digest }]);
    const without = await importLayout(local("release"), folder, {
      repository: "app",
      rename: ({ tag }) => (tag === "1" ? undefined : {}),
    });
    expect(without.images).toEqual([{ repository: "app", digest: two.digest }]);
    expect(await rejection(importLayout(local("release"), folder, { repository: "app", references: ["1", "2"] }))).toMatchObject({
      code: "MANIFEST_UNKNOWN",
      message: `2 is not in ${folder}, which holds "docker.io/library/one:1", ${two.digest}`,
    });
  });

  test("the only image takes the tag that is wished for", async () => {
    const release = local("release");
    await importLayout(release, folderWith([named(one.manifest)]), { repository: "app", tag: "mine" });
    expect(await standsAt(release, "app", "mine")).toBe(one.digest);
    const both = folderWith([named(one.manifest, "1"), named(two.manifest, "2")]);
    expect(await rejection(importLayout(release, both, { repository: "app", tag: "mine" }))).toMatchObject({ code: "MANIFEST_INVALID" });
    await importLayout(release, both, { repository: "app", tag: "mine", references: ["2"] });
    expect(await standsAt(release, "app", "mine")).toBe(two.digest);
  });

  test.each<[string, Parameters<typeof importLayout>[2], string]>([
    ["no repository", {}, "NAME_INVALID"],
    ["a bad repository", { repository: "No" }, "NAME_INVALID"],
    ["a bad repository from rename", { repository: "app", rename: () => ({ repository: "../up" }) }, "NAME_INVALID"],
    ["a bad tag from rename", { repository: "app", rename: () => ({ tag: "a/b" }) }, "MANIFEST_INVALID"],
    ["two images of one tag", { repository: "app", rename: () => ({ tag: "same" }) }, "MANIFEST_INVALID"],
    ["no concurrency", { repository: "app", concurrency: 0 }, "UNKNOWN"],
  ])("%s is refused before anything is written", async (_, options, code) => {
    const { registry, calls } = spied(local("release"));
    const folder = folderWith([named(one.manifest, "1"), named(two.manifest, "2")]);
    expect(await rejection(importLayout(registry, folder, options))).toMatchObject({ code });
    expect(calls.filter((call) => call.startsWith("put"))).toEqual([]);
  });

  test("a tag that stands elsewhere moves, and reports stop at their limit", async () => {
    const release = local("release");
    await pushImage(release, "app", "1");
    const report = await importLayout(release, folderWith([named(one.manifest, "1"), named(two.manifest, "2")]), {
      repository: "app",
      limit: 1,
    });
    expect(report).toMatchObject({ images: [{ tag: "1" }], omitted: 1 });
    expect(await standsAt(release, "app", "1")).toBe(one.digest);
  });

  test("entries that are neither image nor artifact are left out; an index may list blobs", async () => {
    const release = local("release");
    const cache = Buffer.from("a layer of a build cache");
    const list = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociIndex,
        manifests: [{ mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: digestOf(cache), size: cache.byteLength }],
      }),
    );
    const xml = { mediaType: "application/xml", digest: digestOf(Buffer.from("<x/>")), size: 4, annotations: { [refName]: "xml" } };
    const folder = writeFolder(temporaryFolder(), layoutOf([], [xml, named(list, "cache", mediaTypes.ociIndex)], [cache, list]));
    expect((await importLayout(release, folder, { repository: "app" })).images).toHaveLength(1);
    expect((await release.resolveBlob("app", digestOf(cache))).kind).toBe("found");
  });
});

test("an import that is ended within a blob leaves nothing of it", async () => {
  const image = makeImage([9 * 1024 * 1024]);
  const folder = writeFolder(temporaryFolder(), layoutOf([image], [named(image.manifest, "1")]));
  const storage = memoryStorage();
  const release = localRegistry({ storage, name: "release" });
  const controller = new AbortController();
  const progress = ({ bytes }: { bytes: number }) => bytes > 4 * 1024 * 1024 && controller.abort(new Error("enough"));
  const ended = importLayout(release, folder, { repository: "app", concurrency: 1, signal: controller.signal, progress });
  expect(await rejection(ended)).toMatchObject({ message: "enough" });
  expect((await storage.blobs.list({ limit: 10 })).items).toHaveLength(1);
  await importLayout(release, folder, { repository: "app" });
  expect(await standsAt(release, "app", "1")).toBe(image.digest);
});

test("a failure ends the other copies, and nothing reads any more when it is told", async () => {
  const image = makeImage([300_000, 300_000, 300_000, 300_000]);
  const path = await writeArchive(join(temporaryFolder(), "l.tar"), layoutOf([image], [named(image.manifest, "1")]));
  const release = local("release");
  let running = 0;
  const failing: Registry = {
    ...release,
    async putBlob(repository, expected, source, o) {
      running++;
      try {
        if (expected.digest === image.layers[1]?.digest) throw new Error("the target broke");
        return await release.putBlob(repository, expected, source, o);
      } finally {
        running--;
      }
    },
  };
  expect(await rejection(importLayout(failing, path, { repository: "app" }))).toMatchObject({ message: "the target broke" });
  expect(running).toBe(0);
  expect(await standsAt(release, "app", "1")).toBe("absent");
  await importLayout(release, path, { repository: "app" });
  expect(await standsAt(release, "app", "1")).toBe(image.digest);
});

test("what the registry has need not be in the layout", async () => {
  const image = makeImage([10, 20]);
  const files = layoutOf([image], [named(image.manifest, "1")]);
  const [layer] = image.layers;
  const [digest, bytes] = [layer?.digest ?? "", image.blobs.get(layer?.digest ?? "") ?? Buffer.alloc(0)];
  files.delete(`blobs/${digest.replace(":", "/")}`);
  const folder = writeFolder(temporaryFolder(), files);
  const release = local("release");
  expect(await rejection(importLayout(release, folder, { repository: "app" }))).toMatchObject({
    code: "MANIFEST_BLOB_UNKNOWN",
    message: expect.stringContaining(digest),
  });
  await release.putBlob("app", { digest }, chunksOf(bytes));
  await importLayout(release, folder, { repository: "app" });
  expect(await standsAt(release, "app", "1")).toBe(image.digest);
});
