import { execFileSync } from "node:child_process";
import { linkSync, mkdirSync, renameSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { importLayout } from "oci-manifold/layout";
import { describe, expect, test } from "vitest";
import { makeImage, makeIndex } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { rejection } from "../maintenance/support.js";
import {
  type Files,
  layoutOf,
  local,
  named,
  pathOf,
  standsAt,
  type TarEntry,
  tarBytes,
  writeArchive,
  writeChecksum,
  writeFolder,
} from "./support.js";

const image = makeImage([100, 2000]);
const [layer = image.config, second = image.config] = image.layers;
const good = () => layoutOf([image], [named(image.manifest, "1")]);
const bytesOf = (digest: string) => image.blobs.get(digest) ?? Buffer.alloc(0);

/** Refused, by an error with this code and words in its message, and nothing was written. */
async function refused(path: string, code: string, ...words: string[]): Promise<void> {
  const { registry, calls } = spied(local("release"));
  const error = await rejection(importLayout(registry, path, { repository: "app" }));
  expect(error).toMatchObject({ code });
  for (const word of words) expect(error).toMatchObject({ message: expect.stringContaining(word) });
  expect(calls.filter((call) => /^(?:put|mount|start)/.test(call) && code !== "DIGEST_INVALID")).toEqual([]);
  expect(await standsAt(registry, "app", "1")).toBe("absent");
}

const replace = (file: string, content: string | Uint8Array) => (files: Files) => {
  files.set(file, typeof content === "string" ? Buffer.from(content) : content);
};
const entry = (more: object) =>
  replace("index.json", JSON.stringify({ schemaVersion: 2, manifests: [{ ...named(image.manifest, "1"), ...more }] }));
/** Another manifest in place of the image's. */
const manifest = (content: object) => (files: Files) => {
  const bytes = Buffer.from(
    JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: image.config, layers: [], ...content }),
  );
  files.set(pathOf(digestOf(bytes)), bytes);
  replace("index.json", JSON.stringify({ schemaVersion: 2, manifests: [named(bytes, "1")] }))(files);
};
const other = Buffer.alloc(layer.size, "x");

const cases: readonly [title: string, spoil: (files: Files) => unknown, code: string, ...words: string[]][] = [
  ["no index.json", (files) => files.delete("index.json"), "UNSUPPORTED", "no index.json"],
  ["no oci-layout", (files) => files.delete("oci-layout"), "UNSUPPORTED", "no file oci-layout"],
  ["another version", replace("oci-layout", '{"imageLayoutVersion":"2.0.0"}'), "UNSUPPORTED", "2.0.0"],
  ["no version", replace("oci-layout", "{}"), "UNSUPPORTED", "no version"],
  ["an oci-layout that is no JSON", replace("oci-layout", "{"), "UNSUPPORTED"],
  ["a large oci-layout", replace("oci-layout", Buffer.alloc(70_000, " ")), "MANIFEST_INVALID", "oci-layout"],
  ["an index.json that is no JSON", replace("index.json", "{"), "MANIFEST_INVALID", "index.json"],
  ["an index.json that is an image", replace("index.json", image.manifest), "MANIFEST_INVALID", "index.json"],
  ["an index.json of brackets", replace("index.json", "[".repeat(100_000)), "MANIFEST_INVALID", "deeper"],
  ["a large index.json", replace("index.json", Buffer.alloc(4 * 1024 * 1024 + 1, " ")), "MANIFEST_INVALID", "larger than"],
  [
    "too many entries",
    replace("index.json", JSON.stringify({ schemaVersion: 2, manifests: Array.from({ length: 10_001 }, () => named(Buffer.of(1))) })),
    "MANIFEST_INVALID",
    "10000",
  ],
  ["an empty index.json", replace("index.json", '{"schemaVersion":2,"manifests":[]}'), "MANIFEST_UNKNOWN", "no image"],
  ["a digest that is a path", entry({ digest: "sha256:../../../../etc/passwd" }), "MANIFEST_INVALID", "digest"],
  ["a digest of another algorithm", entry({ digest: "../blobs:00" }), "MANIFEST_INVALID", "digest"],
  ["a digest in upper case", entry({ digest: image.digest.toUpperCase() }), "MANIFEST_INVALID", "digest"],
  ["a negative size", entry({ size: -1 }), "MANIFEST_INVALID", "size"],
  ["a manifest of another size", entry({ size: 5 }), "SIZE_INVALID", image.digest.slice(7), "should have 5"],
  ["a manifest that is not there", (files) => files.delete(pathOf(image.digest)), "MANIFEST_BLOB_UNKNOWN", image.digest],
  [
    "a manifest with other bytes",
    replace(pathOf(image.digest), Buffer.alloc(image.manifest.byteLength, " ")),
    "DIGEST_INVALID",
    image.digest.slice(7),
  ],
  ["a manifest that is none", manifest({ config: "none" }), "MANIFEST_INVALID", "config"],
  ["a manifest of another type", entry({ mediaType: mediaTypes.ociIndex }), "MANIFEST_INVALID", image.digest.slice(7)],
  ["a layer with a path for a digest", manifest({ layers: [{ ...layer, digest: "sha256:/etc/passwd" }] }), "MANIFEST_INVALID", "digest"],
  ["a layer that is cut short", replace(pathOf(layer.digest), bytesOf(layer.digest).subarray(1)), "SIZE_INVALID", layer.digest.slice(7)],
  ["a layer that is longer", replace(pathOf(layer.digest), Buffer.alloc(500)), "SIZE_INVALID", layer.digest.slice(7)],
  ["a layer of two sizes", manifest({ layers: [layer, { ...layer, size: 7 }] }), "SIZE_INVALID", layer.digest],
  ["a layer with other bytes", replace(pathOf(layer.digest), other), "DIGEST_INVALID", layer.digest.slice(7)],
  ["a layer that is not there", (files) => files.delete(pathOf(second.digest)), "MANIFEST_BLOB_UNKNOWN", second.digest],
];

describe.each(["folder", "archive"])("a %s with", (format) => {
  test.each(cases)("%s", async (_, spoil, code, ...words) => {
    const files = good();
    spoil(files);
    const path = join(temporaryFolder(), "layout");
    if (format === "folder") writeFolder(path, files);
    else await writeArchive(path, files);
    await refused(path, code, path, ...words);
  });

  test("what an older docker save wrote says what to do", async () => {
    const path = join(temporaryFolder(), "docker.tar");
    const files: Files = new Map([["manifest.json", Buffer.from("[]")]]);
    if (format === "folder") writeFolder(path, files);
    else await writeArchive(path, files);
    await refused(path, "UNSUPPORTED", "skopeo copy docker-archive:");
  });

  const docker = (layers: readonly string[]) =>
    Buffer.from(JSON.stringify([{ Config: pathOf(image.config.digest), RepoTags: ["app:1"], Layers: layers.map(pathOf) }]));
  const written = async (files: Files) => {
    const path = join(temporaryFolder(), "docker.tar");
    return format === "folder" ? writeFolder(path, files) : writeArchive(path, files);
  };
  const layers = [layer.digest, second.digest];

  test("what docker writes beside: it must tell of the same layers in the same order", async () => {
    const files = good();
    // As version 25.0.0 did, and candidates of it.
    files.set("manifest.json", docker([...layers].reverse()));
    await refused(await written(files), "UNSUPPORTED", image.config.digest, "skopeo copy docker-archive:");
    const without = good();
    manifest({})(without);
    without.set("manifest.json", docker(layers));
    await refused(await written(without), "UNSUPPORTED", image.config.digest, "skopeo copy docker-archive:");
    // The same, a foreign layer under another name, another image, and what says nothing.
    for (const beside of [
      docker(layers),
      docker([layer.digest, image.digest]),
      Buffer.from("[{}, null, 1]"),
      Buffer.from("{"),
      Buffer.from("null"),
    ]) {
      files.set("manifest.json", beside);
      await importLayout(local("release"), await written(files), { repository: "app" });
    }
  });

  test("an empty index of docker 25.0, for an image saved by digest", async () => {
    const files = good();
    files.set("index.json", Buffer.from('{"schemaVersion":2,"manifests":null}'));
    files.set("manifest.json", docker(layers));
    await refused(await written(files), "UNSUPPORTED", "skopeo copy docker-archive:");
  });

  test("a layout with some platforms of an index goes into a sparse registry only", async () => {
    const absent = makeImage();
    const index = makeIndex([image, absent]);
    const path = join(temporaryFolder(), "sparse.tar");
    const files = layoutOf([image], [named(index.bytes, "1", mediaTypes.ociIndex)], [index.bytes]);
    if (format === "folder") writeFolder(path, files);
    else await writeArchive(path, files);
    await refused(path, "MANIFEST_BLOB_UNKNOWN", absent.digest, "sparse: true", "--all");
    const sparse = local("sparse", { sparse: true });
    const report = await importLayout(sparse, path, { repository: "app" });
    expect(report.missing).toEqual([named(absent.manifest)]);
    expect([await standsAt(sparse, "app", "1"), await standsAt(sparse, "app", image.digest)]).toEqual([index.digest, image.digest]);
    // Where the other child is in the registry already, nothing is missing.
    const release = local("release");
    await importLayout(release, writeFolder(temporaryFolder(), layoutOf([absent], [named(absent.manifest)])), { repository: "app" });
    expect((await importLayout(release, path, { repository: "app" })).missing).toEqual([]);
    expect(await standsAt(release, "app", "1")).toBe(index.digest);
  });

  test("indexes nested too deep", async () => {
    const files = good();
    let inner = named(image.manifest);
    for (let depth = 0; depth < 20; depth++) {
      const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [inner] }));
      files.set(pathOf(digestOf(bytes)), bytes);
      inner = named(bytes, undefined, mediaTypes.ociIndex);
    }
    files.set("index.json", Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [inner] })));
    const path = join(temporaryFolder(), "deep.tar");
    if (format === "folder") writeFolder(path, files);
    else await writeArchive(path, files);
    await refused(path, "MANIFEST_INVALID", "indexes deep");
  });
});

describe("a folder with links", () => {
  const outside = writeFolder(temporaryFolder(), good());
  const withLink = (file: string, target: string) => {
    const folder = writeFolder(temporaryFolder(), good());
    renameSync(join(folder, file), join(folder, "moved"));
    symlinkSync(target, join(folder, file));
    return folder;
  };

  test.each(["index.json", "oci-layout", "blobs", "blobs/sha256", pathOf(image.digest), pathOf(layer.digest)])(
    "%s leads out of it: refused",
    async (file) => {
      await refused(withLink(file, join(outside, file)), "UNSUPPORTED", "leads out of the layout");
    },
  );

  test("to the root, through a folder beside with the same beginning, or in a circle: refused", async () => {
    await refused(withLink("index.json", "/etc/passwd"), "UNSUPPORTED", "leads out");
    const folder = withLink("index.json", "../beside/index.json");
    const beside = `${folder}-beside`;
    writeFolder(beside, good());
    await refused(withLink("index.json", join(beside, "index.json")), "UNSUPPORTED", "leads out");
    await refused(withLink("index.json", "index.json"), "UNAVAILABLE", "index.json");
  });

  test("within it, and a layout that is reached by one, are read", async () => {
    const folder = withLink(pathOf(layer.digest), "../../moved");
    const link = join(temporaryFolder(), "link");
    symlinkSync(folder, link);
    await importLayout(local("release"), link, { repository: "app" });
  });

  test("a pipe or a folder in the place of a file does not hang: refused", async () => {
    const pipe = writeFolder(temporaryFolder(), good());
    renameSync(join(pipe, pathOf(layer.digest)), join(pipe, "moved"));
    execFileSync("mkfifo", [join(pipe, pathOf(layer.digest))]);
    await refused(pipe, "UNSUPPORTED", "no plain file");
    const folder = writeFolder(temporaryFolder(), good());
    renameSync(join(folder, "index.json"), join(folder, "moved"));
    mkdirSync(join(folder, "index.json"));
    await refused(folder, "UNSUPPORTED", "no plain file");
    await refused(join(pipe, pathOf(layer.digest)), "UNSUPPORTED", "neither a folder nor a file");
  });
});

describe("an archive", () => {
  const archive = async (entries: readonly TarEntry[]) => {
    const path = join(temporaryFolder(), "l.tar");
    writeFileSync(path, await tarBytes(entries));
    return path;
  };
  const entries = (): TarEntry[] => [...good()].map(([name, bytes]) => [{ name }, bytes]);

  test.each([
    ["gzip", (bytes: Buffer) => gzipSync(bytes), "gunzip"],
    ["zstd", () => Buffer.from("28b52ffd00", "hex"), "unzstd"],
    ["xz", () => Buffer.from("fd377a585a0000", "hex"), "unxz"],
    ["bzip2", () => Buffer.from("BZh91AY"), "bunzip2"],
  ])("compressed by %s says what to do", async (_, compress, tool) => {
    const path = join(temporaryFolder(), "l.tar.gz");
    writeFileSync(path, compress(await tarBytes(entries())));
    await refused(path, "UNSUPPORTED", path, tool);
  });

  test("that is none, is empty or cut short", async () => {
    const path = await archive(entries());
    for (const [size, code] of [
      [0, "UNSUPPORTED"],
      [700, "MANIFEST_INVALID"],
      [3000, "MANIFEST_INVALID"],
    ] as const) {
      truncateSync(path, size);
      await refused(path, code, path);
      writeFileSync(path, await tarBytes(entries()));
    }
    writeFileSync(path, Buffer.alloc(5000, "no archive"));
    await refused(path, "MANIFEST_INVALID", path);
    await refused(join(temporaryFolder(), "nothing"), "UNAVAILABLE", "nothing");
  });

  test.each(["symlink", "link"] as const)("with a %s to what is not in it, in the place of a file", async (type) => {
    for (const name of ["index.json", pathOf(layer.digest)]) {
      for (const linkname of ["/etc/passwd", "../../../../etc/passwd", "gone", name]) {
        const spoiled = entries().map((entry): TarEntry => (entry[0].name === name ? [{ name, type, linkname }] : entry));
        await refused(await archive(spoiled), "UNSUPPORTED", name, "tar -h --hard-dereference");
      }
    }
  });

  test.each([
    ["a symlink beside it", pathOf(layer.digest), "symlink", "../../rootfs.tar.gz", "rootfs.tar.gz"],
    ["a hard link, as GNU tar writes", pathOf(layer.digest), "link", "./rootfs.tar.gz", "./rootfs.tar.gz"],
    ["a linked index", "index.json", "symlink", "older/index.json", "older/index.json"],
  ] as const)("with a link in the place of a file, to what is in it: %s", async (_, name, type, linkname, moved) => {
    // The link in front of what it leads to, and behind it.
    for (const turned of [false, true]) {
      const rest = entries().filter(([header]) => header.name !== name);
      const [, bytes] = entries().find(([header]) => header.name === name) ?? [];
      const pair: TarEntry[] = [[{ name, type, linkname }], [{ name: moved }, bytes ?? Buffer.alloc(0)]];
      const release = local("release");
      await importLayout(release, await archive([...(turned ? pair.reverse() : pair), ...rest]), { repository: "app" });
      expect(await standsAt(release, "app", "1")).toBe(image.digest);
    }
  });

  test("made by tar of a folder whose files are linked", async () => {
    const folder = writeFolder(temporaryFolder(), good());
    renameSync(join(folder, pathOf(layer.digest)), join(folder, "rootfs.tar"));
    linkSync(join(folder, "rootfs.tar"), join(folder, pathOf(layer.digest)));
    const path = join(temporaryFolder(), "l.tar");
    execFileSync("tar", ["-c", "-f", path, "-C", folder, "."]);
    const release = local("release");
    await importLayout(release, path, { repository: "app" });
    expect(await standsAt(release, "app", "1")).toBe(image.digest);
  });

  test("with other entries: they are not looked at", async () => {
    const path = await archive([
      [{ name: "blobs/", type: "directory" }],
      [{ name: "layer.tar", type: "symlink", linkname: "/etc/passwd" }],
      [{ name: "../../outside" }, Buffer.from("x")],
      [{ name: "/etc/passwd" }, Buffer.from("x")],
      [{ name: "x".repeat(300) }, Buffer.from("x")],
      [{ name: "manifest.json" }, Buffer.from("[]")],
      ...entries(),
    ]);
    await importLayout(local("release"), path, { repository: "app" });
  });

  test("made by tar itself of a folder", async () => {
    const folder = writeFolder(temporaryFolder(), good());
    for (const format of ["gnu", "pax", "ustar", "oldgnu"]) {
      const path = join(temporaryFolder(), "l.tar");
      execFileSync("tar", ["-c", `--format=${format}`, "-f", path, "-C", folder, "."]);
      const release = local("release");
      await importLayout(release, path, { repository: "app" });
      expect(await standsAt(release, "app", "1")).toBe(image.digest);
    }
  });

  test("with two files of a name: a second index is refused, a second blob must be right", async () => {
    const evil = Buffer.from('{"schemaVersion":2,"manifests":[]}');
    await refused(await archive([...entries(), [{ name: "./index.json" }, evil]]), "MANIFEST_INVALID", "two files index.json");
    await importLayout(local("release"), await archive([...entries(), [{ name: pathOf(layer.digest) }, bytesOf(layer.digest)]]), {
      repository: "app",
    });
    await refused(await archive([...entries(), [{ name: pathOf(layer.digest) }, other]]), "DIGEST_INVALID", layer.digest.slice(7));
  });

  test.each([0x81, 0xc0, 0xfe])("with a size in binary that begins with %i, which is none, does not hang: refused", async (first) => {
    const bytes = await tarBytes([...good()].map(([name, content]): TarEntry => [{ name }, content]));
    // Of its second entry too, behind which more would follow.
    for (const start of [0, 1024]) {
      const spoiled = Buffer.from(bytes);
      spoiled[start + 124] = first;
      writeChecksum(spoiled.subarray(start, start + 512));
      const path = join(temporaryFolder(), "layout.tar");
      writeFileSync(path, spoiled);
      await refused(path, "MANIFEST_INVALID", "an entry has no size");
    }
  });

  test("with a folder that states a size does not hang: it goes in", async () => {
    const folder = Buffer.alloc(512);
    folder.write("blobs/");
    folder.write("0000755\0", 100);
    folder.write("00000000100\0", 124);
    folder.write("5", 156);
    folder.write("ustar\x0000", 257);
    writeChecksum(folder);
    const bytes = await tarBytes([...good()].map(([name, content]): TarEntry => [{ name }, content]));
    const path = join(temporaryFolder(), "layout.tar");
    writeFileSync(path, Buffer.concat([folder, bytes]));
    const registry = local("release");
    await importLayout(registry, path, { repository: "app" });
    expect(await standsAt(registry, "app", "1")).toBe(image.digest);
  });

  test("with more attributes or padding than any has", async () => {
    const pax = (records: number) => Buffer.from(Array.from({ length: records }, (_, i) => record(`k${i}=v`)).join(""));
    const headers = async (bytes: Buffer) => {
      const made = await tarBytes([[{ name: "PaxHeader" }, bytes]]);
      // The type of a header for all entries, and its checksum.
      made.write("g", 156);
      writeChecksum(made.subarray(0, 512));
      return made.subarray(0, -1024);
    };
    const rest = await tarBytes(entries());
    const path = join(temporaryFolder(), "l.tar");
    writeFileSync(path, Buffer.concat([await headers(pax(10)), rest]));
    await importLayout(local("release"), path, { repository: "app" });
    writeFileSync(path, Buffer.concat([await headers(pax(50_000)), await tarBytes([[{ name: "ü" }, Buffer.of(1)]]), rest]));
    await refused(path, "MANIFEST_INVALID", "attributes");
    writeFileSync(path, Buffer.concat([rest, Buffer.alloc(3 * 1024 * 1024)]));
    await refused(path, "MANIFEST_INVALID", "nothing that is known");
  });

  test("is read only with tar-stream, a folder without", async () => {
    const tarStream = () => Promise.reject(new Error("Cannot find package"));
    const path = await archive(entries());
    expect(await rejection(importLayout(local("release"), path, { repository: "app", tarStream }))).toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringContaining("npm install tar-stream"),
    });
    await importLayout(local("release"), writeFolder(temporaryFolder(), good()), { repository: "app", tarStream });
  });
});

/** A record of pax: its length, itself included, a key and a value. */
function record(text: string): string {
  const rest = text.length + 2;
  const length = rest + String(rest + String(rest).length).length;
  return `${length} ${text}\n`;
}
