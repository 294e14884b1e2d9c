import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { mediaTypes, type Registry } from "oci-manifold";
import { chunksOf, digestOf, type StoringRegistry } from "oci-manifold/extend";
import { type ExportLayoutOptions, exportLayout, importLayout } from "oci-manifold/layout";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { type Image, makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { corrupting, put, rejection, switchable } from "../maintenance/support.js";
import { contentsOf, filesIn, local, pathOf, refName, standsAt, subjectOf, writeFolder } from "./support.js";

let registry: StoringRegistry;
let image: Image;
let folder = "";
const app = (more: Partial<ExportLayoutOptions> = {}): ExportLayoutOptions => ({ repository: "app", ...more });

beforeEach(async () => {
  registry = local("staging");
  image = await pushImage(registry, "app", "1");
  folder = join(temporaryFolder(), "layout");
});

const indexOf = (
  path: string,
): { manifests: { digest: string; annotations?: Record<string, string>; urls?: string[] }[]; annotations?: object } =>
  JSON.parse(readFileSync(join(path, "index.json"), "utf8"));
const names = (path: string) => indexOf(path).manifests.map(({ digest, annotations }) => [annotations?.[refName], digest]);

test("a folder has exactly the files that the specification names, and the one that docker reads", async () => {
  const report = await exportLayout(registry, folder, app());
  expect(report).toEqual({
    items: 4,
    done: 4,
    bytes: 201_000 + image.config.size,
    images: [{ tag: "1", digest: image.digest }],
    omitted: 0,
    warnings: [],
    sparse: false,
  });
  expect(Object.keys(filesIn(folder))).toEqual(
    ["index.json", "manifest.json", "oci-layout", ...[image.digest, ...image.blobs.keys()].map(pathOf)].sort(),
  );
  for (const [digest, bytes] of image.blobs) expect(readFileSync(join(folder, pathOf(digest)))).toEqual(Buffer.from(bytes));
  expect(readFileSync(join(folder, "oci-layout"), "utf8")).toBe('{"imageLayoutVersion":"1.0.0"}');
  expect(indexOf(folder)).toEqual({
    schemaVersion: 2,
    mediaType: mediaTypes.ociIndex,
    manifests: [
      { mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.manifest.byteLength, annotations: { [refName]: "1" } },
    ],
  });
});

describe("manifest.json", () => {
  const listed = () =>
    JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as { Config: string; RepoTags: string[]; Layers: string[] }[];

  test("names an image once, with all its tags, and its files", async () => {
    await pushImage(registry, "app", "latest", image);
    await exportLayout(registry, folder, app());
    expect(listed()).toEqual([
      { Config: pathOf(image.config.digest), RepoTags: ["app:1", "app:latest"], Layers: image.layers.map(({ digest }) => pathOf(digest)) },
    ]);
  });

  test("of an index names the image for linux/amd64; an artifact is not in it", async () => {
    const other = makeImage();
    for (const one of [image, other])
      await registry.putManifest("app", (await pushImage(registry, "app", "part", one)).digest, { bytes: one.manifest });
    const index = makeIndex([other, image]);
    await registry.putManifest("app", "index", { bytes: index.bytes });
    const artifact = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        artifactType: "a/b",
        config: { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(Buffer.from("{}")), size: 2 },
        layers: [],
      }),
    );
    await registry.putBlob("app", { digest: digestOf(Buffer.from("{}")) }, chunksOf(Buffer.from("{}")));
    await registry.putManifest("app", "artifact", { bytes: artifact });
    await exportLayout(registry, folder, app({ references: ["index", "artifact"] }));
    expect(listed().map(({ Config, RepoTags }) => [Config, RepoTags])).toEqual([[pathOf(other.config.digest), ["app:index"]]]);
  });

  test("keeps what is there, and moves a tag that has moved", async () => {
    await exportLayout(registry, folder, app());
    const next = await pushImage(registry, "app", "1", makeImage());
    await exportLayout(registry, folder, app());
    expect(listed().map(({ Config, RepoTags }) => [Config, RepoTags])).toEqual([
      [pathOf(image.config.digest), []],
      [pathOf(next.config.digest), ["app:1"]],
    ]);
  });
});

test("the same content makes the same archive", async () => {
  const hash = async (name: string, from: Registry) => {
    const path = join(temporaryFolder(), name);
    await exportLayout(from, path, app());
    return createHash("sha256").update(readFileSync(path)).digest("hex");
  };
  const other = local("other");
  await pushImage(other, "app", "1", image);
  expect(await hash("a.tar", registry)).toBe(await hash("b.tar", other));
});

describe("a folder that holds a layout is added to", () => {
  test("what is there is not read again; names are replaced, what others wrote stays", async () => {
    await exportLayout(registry, folder, app());
    const theirs = { mediaType: "application/xml", digest: digestOf(Buffer.from("<x/>")), size: 4, urls: ["https://example.com"] };
    writeFileSync(
      join(folder, "index.json"),
      JSON.stringify({ ...indexOf(folder), manifests: [theirs, ...indexOf(folder).manifests], annotations: { by: "them" } }),
    );
    const next = makeImage([5]);
    await pushImage(registry, "app", "1", next);
    await pushImage(registry, "app", "old", image);
    const { registry: source, calls } = spied(registry);
    expect((await exportLayout(source, folder, app())).bytes).toBe(5 + next.config.size);
    expect(calls.filter((call) => call.startsWith("getBlob")).sort()).toEqual(
      [...next.blobs.keys()].map((digest) => `getBlob app ${digest}`).sort(),
    );
    expect(names(folder)).toEqual([
      [undefined, theirs.digest],
      ["1", next.digest],
      ["old", image.digest],
    ]);
    expect(indexOf(folder)).toMatchObject({ annotations: { by: "them" }, manifests: [{ urls: theirs.urls }, {}, {}] });
  });

  test("by digest an image has no name, and is listed once", async () => {
    for (let round = 0; round < 2; round++) await exportLayout(registry, folder, app({ references: [image.digest, image.digest] }));
    expect(names(folder)).toEqual([[undefined, image.digest]]);
  });

  test("a blob with another size is written again", async () => {
    await exportLayout(registry, folder, app());
    const path = join(folder, pathOf(image.layers[0]?.digest ?? ""));
    writeFileSync(path, "torn");
    await exportLayout(registry, folder, app());
    expect(statSync(path).size).toBe(1000);
  });

  test("what a killed export has left is removed once they are old; its folder can be used", async () => {
    mkdirSync(folder);
    const partial = join(folder, ".oci-layout-0123456789abcdef.partial");
    writeFileSync(partial, "half");
    utimesSync(partial, 0, 1000);
    await exportLayout(registry, folder, app({ clock: fakeClock(1_000_000) }));
    expect(readdirSync(folder)).toContain(".oci-layout-0123456789abcdef.partial");
    await exportLayout(registry, folder, app({ clock: fakeClock(1_000_001 + 24 * 60 * 60 * 1000) }));
    expect(readdirSync(folder).sort()).toEqual(["blobs", "index.json", "manifest.json", "oci-layout"]);
  });

  test("an export that is ended anywhere leaves no name, and goes on", async () => {
    await pushImage(registry, "app", "2", makeImage([9 * 1024 * 1024]));
    const whole = join(temporaryFolder(), "whole");
    const { items } = await exportLayout(registry, whole, app());
    for (let last = 1; last < items; last++) {
      const path = join(temporaryFolder(), "layout");
      const controller = new AbortController();
      const { registry: source, calls } = spied(registry);
      const options = { concurrency: 1, signal: controller.signal };
      const progress = ({ done }: { done: number }) => done >= last && controller.abort(new Error("enough"));
      expect(await rejection(exportLayout(source, path, app({ ...options, progress })))).toMatchObject({ message: "enough" });
      expect(readdirSync(path).sort()).toEqual(["blobs", "oci-layout"]);
      await exportLayout(source, path, app());
      expect(filesIn(path)).toEqual(filesIn(whole));
      expect(calls.filter((call) => call.startsWith("getBlob"))).toHaveLength(items - 2);
    }
  });
});

describe.each(["folder", "archive"] as const)("into a %s", (format) => {
  const nothingOf = (path: string) => {
    const left = readdirSync(join(path, "..")).filter((name) => name !== "layout" || format === "archive");
    expect(left).toEqual([]);
    if (format === "folder")
      expect(
        readdirSync(path, { recursive: true }).filter(
          (name) => !/^(?:oci-layout|blobs(?:\/sha256)?|blobs\/sha256\/[a-f0-9]{64})$/.test(String(name)),
        ),
      ).toEqual([]);
  };

  test("wrong bytes at the source are never in it", async () => {
    const corrupt = new Set<string>([image.layers[1]?.digest ?? ""]);
    const error = await rejection(exportLayout(corrupting(registry, corrupt), folder, app({ format })));
    expect(error).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining([...corrupt].join()) });
    nothingOf(folder);
    expect(Object.keys(format === "folder" ? filesIn(folder) : {})).not.toContain(pathOf([...corrupt].join()));
    await exportLayout(registry, folder, app({ format }));
    await importLayout(local("release"), folder, { repository: "app" });
  });

  test.each(["more", "less"])("%s bytes than the manifest says", async (how) => {
    const size = 200_000 + (how === "more" ? 100 : -100);
    const source: Registry = {
      ...registry,
      async getBlob(repository, digest, o) {
        const lookup = await registry.getBlob(repository, digest, o);
        if (lookup.kind !== "found" || digest !== image.layers[1]?.digest) return lookup;
        return { ...lookup, value: { ...lookup.value, content: { kind: "bytes", bytes: Buffer.alloc(size) } } };
      },
    };
    expect(await rejection(exportLayout(source, folder, app({ format })))).toMatchObject({ code: "UNAVAILABLE" });
    nothingOf(folder);
  });

  test("a manifest with other bytes than its digest", async () => {
    const source: Registry = {
      ...registry,
      async getManifest(repository, reference, o) {
        const lookup = await registry.getManifest(repository, reference, o);
        if (lookup.kind !== "found" || reference === "1") return lookup;
        return { ...lookup, value: { ...lookup.value, bytes: Buffer.from(String(Buffer.from(lookup.value.bytes)).replace("2", "3")) } };
      },
    };
    expect(await rejection(exportLayout(source, folder, app({ format })))).toMatchObject({ code: "DIGEST_INVALID" });
    nothingOf(folder);
  });

  test("ended within a blob, nothing half is left", async () => {
    await pushImage(registry, "app", "1", makeImage([9 * 1024 * 1024]));
    const controller = new AbortController();
    const progress = ({ bytes }: { bytes: number }) => bytes > 4 * 1024 * 1024 && controller.abort(new Error("enough"));
    expect(await rejection(exportLayout(registry, folder, app({ format, progress, signal: controller.signal })))).toMatchObject({
      message: "enough",
    });
    nothingOf(folder);
  });

  test("what the registry lacks, or cannot tell, is said before anything is written", async () => {
    const flaky = switchable(registry);
    flaky.down = true;
    expect(await rejection(exportLayout(flaky.registry, folder, app({ format })))).toMatchObject({ code: "UNAVAILABLE" });
    expect(await rejection(exportLayout(registry, folder, app({ format, references: ["1", "2"] })))).toMatchObject({
      code: "MANIFEST_UNKNOWN",
      message: expect.stringContaining("2"),
    });
    expect(await rejection(exportLayout(registry, folder, app({ format, repository: "none" })))).toMatchObject({ code: "NAME_UNKNOWN" });
    await registry.deleteBlob("app", image.config.digest);
    expect(await rejection(exportLayout(registry, folder, app({ format })))).toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
    expect(readdirSync(join(folder, ".."))).toEqual([]);
  });

  test("some platforms of an index, which stays as it is", async () => {
    const arm = await pushImage(registry, "app", "arm");
    const index = makeIndex([image, arm]);
    await put(registry, "app", "both", index.bytes);
    const report = await exportLayout(registry, folder, app({ format, references: ["both"], platforms: ["linux/arm64"] }));
    expect(report.sparse).toBe(true);
    expect(await rejection(importLayout(local("release"), folder, { repository: "app" }))).toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
    const sparse = local("sparse", { sparse: true });
    expect((await importLayout(sparse, folder, { repository: "app" })).missing.map(({ digest }) => digest)).toEqual([image.digest]);
    expect([await standsAt(sparse, "app", "both"), await standsAt(sparse, "app", arm.digest)]).toEqual([index.digest, arm.digest]);
  });

  test("referrers only when asked for", async () => {
    const signature = makeImage([10], subjectOf(image));
    await pushBlobs(registry, "app", signature);
    await put(registry, "app", signature.digest, signature.manifest);
    await exportLayout(registry, folder, app({ format }));
    const without = local("without");
    await importLayout(without, folder, { repository: "app" });
    expect(await standsAt(without, "app", signature.digest)).toBe("absent");
    const report = await exportLayout(registry, folder, app({ format, referrers: true }));
    expect(report.images).toEqual([{ tag: "1", digest: image.digest }, { digest: signature.digest }]);
    const release = local("release");
    await importLayout(release, folder, { repository: "app" });
    expect(await contentsOf(release, "app")).toEqual(await contentsOf(registry, "app"));
    expect(await release.listReferrers("app", image.digest, { limit: 5 })).toMatchObject({
      value: { items: [{ digest: signature.digest }] },
    });
  });
});

test("a folder far below one that is there is made; the name may be relative", async () => {
  const path = join(temporaryFolder(), "a/b/../c/layout");
  await exportLayout(registry, relative(process.cwd(), path), app());
  expect(names(path)).toEqual([["1", image.digest]]);
});

test("an image that is deleted meanwhile is named", async () => {
  const source: Registry = {
    ...registry,
    getManifest: async (...args) => (args[1] === "1" ? registry.getManifest(...args) : { kind: "absent" }),
  };
  expect(await rejection(exportLayout(source, folder, app()))).toMatchObject({
    code: "MANIFEST_UNKNOWN",
    message: expect.stringContaining(image.digest),
  });
});

test("more tags than a layout takes are refused before they are looked at", async () => {
  const { registry: source, calls } = spied({
    ...registry,
    listTags: async (_, { limit, after = "" }) => {
      const items = Array.from({ length: limit }, (_, i) => `${after}a${i}`.slice(-100));
      return { kind: "found", value: { items, next: `${items.at(-1)}` }, served: { member: ["x"] } };
    },
  });
  expect(await rejection(exportLayout(source, folder, app()))).toMatchObject({
    code: "MANIFEST_INVALID",
    message: expect.stringContaining("references"),
  });
  expect(calls.filter((call) => call.startsWith("getManifest"))).toEqual([]);
});

test("an archive that is there stays until the new one is whole", async () => {
  const path = join(temporaryFolder(), "app.tar");
  await exportLayout(registry, path, app());
  const before = readFileSync(path);
  await pushImage(registry, "app", "2", makeImage([9 * 1024 * 1024]));
  const controller = new AbortController();
  const progress = () => controller.abort(new Error("enough"));
  expect(await rejection(exportLayout(registry, path, app({ progress, signal: controller.signal })))).toMatchObject({ message: "enough" });
  expect(readFileSync(path)).toEqual(before);
  expect(readdirSync(join(path, ".."))).toEqual(["app.tar"]);
  await exportLayout(registry, path, app());
  expect(readFileSync(path).byteLength).toBeGreaterThan(9 * 1024 * 1024);
});

describe("a target that cannot be used", () => {
  test.each<[string, () => string, Partial<ExportLayoutOptions>, string]>([
    ["a folder of something else", () => writeFolder(temporaryFolder(), new Map([["notes.txt", Buffer.of(1)]])), {}, "UNSUPPORTED"],
    [
      "a layout of another version",
      () => writeFolder(temporaryFolder(), new Map([["oci-layout", Buffer.from('{"imageLayoutVersion":"9"}')]])),
      {},
      "UNSUPPORTED",
    ],
    ["a file", () => join(writeFolder(temporaryFolder(), new Map([["file", Buffer.of(1)]])), "file"), {}, "UNSUPPORTED"],
    ["a folder for an archive", () => temporaryFolder(), { format: "archive" }, "UNSUPPORTED"],
    ["a folder that is not there for an archive", () => join(temporaryFolder(), "none/app.tar"), {}, "UNAVAILABLE"],
    ["a compressed archive", () => join(temporaryFolder(), "app.tar.gz"), {}, "UNSUPPORTED"],
  ])("%s", async (_, make, more, code) => {
    expect(await rejection(exportLayout(registry, make(), app(more)))).toMatchObject({ code });
  });

  test("a layout whose blobs lead elsewhere", async () => {
    const outside = temporaryFolder();
    writeFolder(folder, new Map([["oci-layout", Buffer.from('{"imageLayoutVersion":"1.0.0"}')]]));
    symlinkSync(outside, join(folder, "blobs"));
    expect(await rejection(exportLayout(registry, folder, app()))).toMatchObject({
      code: "UNSUPPORTED",
      message: expect.stringContaining("leads out"),
    });
    expect(readdirSync(outside)).toEqual([]);
  });

  test.skipIf(process.getuid?.() === 0)("a folder that may not be written to", async () => {
    mkdirSync(folder);
    chmodSync(folder, 0o500);
    expect(await rejection(exportLayout(registry, folder, app()))).toMatchObject({ code: "UNAVAILABLE" });
  });

  test("more images than an index may list are refused before anything is copied", async () => {
    const full = Array.from({ length: 10_000 }, (_, i) => ({
      mediaType: "application/xml",
      digest: digestOf(Buffer.from(`${i}`)),
      size: 1,
    }));
    writeFolder(
      folder,
      new Map([
        ["oci-layout", Buffer.from('{"imageLayoutVersion":"1.0.0"}')],
        ["index.json", Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: full }))],
      ]),
    );
    expect(await rejection(exportLayout(registry, folder, app()))).toMatchObject({
      code: "MANIFEST_INVALID",
      message: expect.stringContaining("references"),
    });
    expect(readdirSync(folder).sort()).toEqual(["index.json", "oci-layout"]);
  });
});

test("an archive is written only with tar-stream, a folder without; the host's own module will do", async () => {
  const tarStream = () => Promise.reject(new Error("Cannot find package"));
  const path = join(temporaryFolder(), "app.tar");
  expect(await rejection(exportLayout(registry, path, app({ tarStream })))).toMatchObject({
    code: "UNAVAILABLE",
    message: expect.stringContaining("npm install tar-stream"),
  });
  await exportLayout(registry, folder, app({ tarStream }));
  for (const given of [await import("tar-stream"), () => import("tar-stream")]) {
    await exportLayout(registry, path, app({ tarStream: given }));
    await importLayout(local("release"), path, { repository: "app", tarStream: given });
  }
  const other = { extract: "no", pack: "tar-stream" };
  expect(await rejection(exportLayout(registry, path, app({ tarStream: other })))).toMatchObject({ code: "UNAVAILABLE" });
});

test("an archive that breaks at any moment has no name", async () => {
  const broken = new Error("the archive broke");
  for (const moment of ["at once", "soon", "later"]) {
    const path = join(temporaryFolder(), "app.tar");
    const tarStream = async () => {
      const module = await import("tar-stream");
      const failing = () => {
        const made = module.pack();
        const breakIt = () => made.destroy(broken);
        if (moment === "at once") process.nextTick(breakIt);
        else if (moment === "soon") setImmediate(breakIt);
        else made.once("data", breakIt).pause();
        return made;
      };
      return { ...module, pack: failing };
    };
    expect(await rejection(exportLayout(registry, path, app({ tarStream })))).toMatchObject({
      message: expect.stringMatching(/the archive broke|destroyed/),
    });
    expect(readdirSync(join(path, ".."))).toEqual([]);
  }
});
