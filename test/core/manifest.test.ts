import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { digestOf } from "../../src/core/digest.js";
import { isRegistryError } from "../../src/core/errors.js";
import { followManifest, parseManifest } from "../../src/core/manifest.js";
import { mediaTypes } from "../../src/core/media-types.js";

const digest = digestOf(Buffer.from("x"));
const blob = { mediaType: "application/vnd.oci.image.layer.v1.tar", digest, size: 1 };
const bytes = (value: unknown) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
const image = {
  schemaVersion: 2,
  mediaType: mediaTypes.ociManifest,
  config: { ...blob, mediaType: "application/vnd.x.config" },
  layers: [blob],
};

describe("what is understood", () => {
  test("an image", () => {
    expect(parseManifest(bytes(image), `${mediaTypes.ociManifest}; charset=utf-8`)).toMatchObject({
      kind: "image",
      artifactType: "application/vnd.x.config",
      layers: [blob],
    });
  });
  test("an index, nested and empty", () => {
    const child = { mediaType: mediaTypes.ociIndex, digest, size: 5, platform: { os: "linux", architecture: "arm64" } };
    expect(parseManifest(bytes({ schemaVersion: 2, manifests: [child] }))).toMatchObject({
      kind: "index",
      mediaType: mediaTypes.ociIndex,
      children: [child],
    });
    expect(parseManifest(bytes({ manifests: [] }), mediaTypes.dockerList)).toEqual({
      kind: "index",
      mediaType: mediaTypes.dockerList,
      layers: [],
      children: [],
    });
  });
  test("subject, artifact type, annotations, custom fields", () => {
    const parsed = parseManifest(
      bytes({ ...image, subject: { ...blob, mediaType: mediaTypes.ociManifest }, artifactType: "a/b", annotations: { k: "v" }, custom: 1 }),
    );
    expect(parsed).toMatchObject({ subject: { digest }, artifactType: "a/b", annotations: { k: "v" } });
  });
  test("an index has no artifact type of its own making; the deprecated artifact manifest has blobs", () => {
    expect(parseManifest(bytes({ manifests: [] }), mediaTypes.ociIndex).artifactType).toBeUndefined();
    expect(parseManifest(bytes({ blobs: [blob] }), mediaTypes.ociArtifact).layers).toEqual([blob]);
  });
});

test.each([
  ["no JSON", "{"],
  ["a list", "[]"],
  ["broken UTF-8", Buffer.from([0x7b, 0xff, 0x7d])],
  ["another type than sent", { ...image, mediaType: mediaTypes.ociIndex }],
  ["no config", { layers: [] }],
  ["a bad digest", { ...image, layers: [{ ...blob, digest: "sha256:x" }] }],
  ["a negative size", { ...image, layers: [{ ...blob, size: -1 }] }],
  ["a size that is no safe integer", { ...image, layers: [{ ...blob, size: 2 ** 53 }] }],
  ["a media type that is none", { ...image, layers: [{ ...blob, mediaType: "text/html\r\nX: y" }] }],
  ["too many layers", { ...image, layers: Array(10_001).fill(blob) }],
  ["annotations that are no text", { ...image, annotations: { a: 1 } }],
])("refused: %s", (_, value) => {
  expect(() => parseManifest(value instanceof Buffer ? value : bytes(value), mediaTypes.ociManifest)).toThrow(
    expect.objectContaining({ code: "MANIFEST_INVALID", status: 400 }),
  );
});

test("more than 4 MiB is 413; 3.9 MB of annotations are fine", () => {
  expect(() => parseManifest(Buffer.alloc(4 * 1024 * 1024 + 1, " "))).toThrow(
    expect.objectContaining({ code: "MANIFEST_INVALID", status: 413 }),
  );
  expect(parseManifest(bytes({ ...image, annotations: { big: "x".repeat(3_900_000) } })).kind).toBe("image");
});

test("any JSON is either read or refused as MANIFEST_INVALID", () => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.constantFrom(undefined, ...Object.values(mediaTypes)), (value, type) => {
      try {
        parseManifest(bytes(JSON.stringify(value)), type);
      } catch (error) {
        expect(isRegistryError(error) && error.code).toBe("MANIFEST_INVALID");
      }
    }),
  );
  expect(parseManifest(bytes('{"__proto__":{"x":1},"manifests":[]}')).kind).toBe("index");
});

test("a type is compared without regard to case, and kept in its usual spelling", () => {
  expect(parseManifest(bytes(image), mediaTypes.ociManifest.toUpperCase()).mediaType).toBe(mediaTypes.ociManifest);
});

test("manifest bombs are refused before they are built", () => {
  const code = (message: RegExp) => expect.objectContaining({ code: "MANIFEST_INVALID", message: expect.stringMatching(message) });
  const deep = (levels: number) => bytes(`{"schemaVersion":2,"manifests":[],"x":${"[".repeat(levels)}${"]".repeat(levels)}}`);
  expect(parseManifest(deep(63)).kind).toBe("index");
  expect(() => parseManifest(deep(64))).toThrow(code(/nests deeper/));
  expect(() => parseManifest(bytes(`{"x":${"[".repeat(2_000_000)}`))).toThrow(code(/nests deeper/));
  // Brackets within strings are text.
  expect(parseManifest(bytes({ ...image, annotations: { x: `"\\${"[{".repeat(100)}` } })).kind).toBe("image");
  const annotations = Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`k${i}`, ""]));
  expect(() => parseManifest(bytes({ ...image, annotations }))).toThrow(code(/more than 20000 keys/));
  expect(() => parseManifest(bytes(`{"x":[${"{},".repeat(60_000)}{}]}`))).toThrow(code(/more than 60000 objects and lists/));
  // Repeated keys of descriptors, and keys that are spelt with escapes to look like them.
  expect(() => parseManifest(bytes(`{"x":{${'"os":1,'.repeat(200_000)}"os":1}}`))).toThrow(code(/more than 20000 keys/));
  expect(() => parseManifest(bytes(`{"x":{${'"\\u006fs":1,'.repeat(20_000)}"os":1}}`))).toThrow(code(/more than 20000 keys/));
  expect(() => parseManifest(bytes({ ...image, schemaVersion: 1 }))).toThrow(code(/schemaVersion/));
});

test("an index of 10,000 children with every field of a descriptor and a platform is read", () => {
  const platform = { architecture: "arm64", os: "linux", variant: "v8", "os.version": "1", "os.features": ["a"] };
  const child = { mediaType: mediaTypes.ociManifest, digest, size: 1, platform, artifactType: "a/b", annotations: {}, urls: [] };
  const manifests = Array(10_000).fill(child);
  expect(parseManifest(bytes({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests })).children).toHaveLength(10_000);
});

describe("a body is of one kind", () => {
  const index = { schemaVersion: 2, manifests: [{ ...blob, mediaType: mediaTypes.ociManifest }] };
  const untyped = { schemaVersion: 2, config: image.config, layers: image.layers };
  test.each([
    ["an image as an OCI index", untyped, mediaTypes.ociIndex, /has no config/],
    ["an image as a Docker list", { ...untyped, config: null }, mediaTypes.dockerList, /has no layers/],
    ["an image as an artifact manifest", untyped, mediaTypes.ociArtifact, /has no config/],
    ["an index as an image", { ...index, config: image.config }, mediaTypes.ociManifest, /has no manifests/],
    ["an index as a Docker image", { ...index, config: image.config }, mediaTypes.dockerManifest, /has no manifests/],
    ["layers of schema 1 in an index", { ...index, fsLayers: [{ blobSum: digest }] }, mediaTypes.ociIndex, /has no fsLayers/],
    ["both, without any type", { ...untyped, ...index }, undefined, /has no manifests/],
    ["manifests that are no list", { ...untyped, manifests: "none" }, mediaTypes.ociManifest, /has no manifests/],
  ])("refused: %s", (_, body, type, message) => {
    expect(() => parseManifest(bytes(body), type)).toThrow(
      expect.objectContaining({ code: "MANIFEST_INVALID", status: 400, message: expect.stringMatching(message) }),
    );
  });
  test("absent fields, null and empty lists are none", () => {
    expect(parseManifest(bytes({ ...untyped, layers: null, manifests: null })).kind).toBe("image");
    expect(parseManifest(bytes({ ...untyped, manifests: [] }), mediaTypes.ociManifest).kind).toBe("image");
    expect(parseManifest(bytes({ schemaVersion: 2, manifests: null, layers: [], config: null })).kind).toBe("index");
    expect(parseManifest(bytes({ schemaVersion: 2 }), mediaTypes.ociIndex)).toMatchObject({ kind: "index", children: [] });
  });
  test.each(Object.values(mediaTypes))("what was stored as %s is followed by its body", (type) => {
    expect(followManifest(bytes(untyped), type)).toMatchObject({ kind: "image", config: { digest }, layers: [blob] });
    expect(followManifest(bytes(index), type)).toMatchObject({ kind: "index", children: index.manifests });
    // Stored before both were refused: nothing that either reading names may be lost.
    expect(followManifest(bytes({ ...untyped, ...index }), type)).toMatchObject({ layers: [blob], children: index.manifests });
  });
});

test("a buffer that its owner fills with another manifest is read again", () => {
  const other = digestOf(Buffer.from("y"));
  const buffer = bytes(image);
  expect(parseManifest(buffer).layers[0]?.digest).toBe(digest);
  bytes({ ...image, layers: [{ ...blob, digest: other }] }).copy(buffer);
  expect(parseManifest(buffer).layers[0]?.digest).toBe(other);
  bytes(image).copy(buffer);
  expect(parseManifest(buffer).layers[0]?.digest).toBe(digest);
});

test("a platform is only what the specification names", () => {
  const platform = {
    os: "windows",
    architecture: "amd64",
    "os.version": "10.0",
    "os.features": ["win32k"],
    extra: { deep: true },
    variant: 7,
  };
  const [child] = parseManifest(bytes({ manifests: [{ ...blob, platform }] })).children;
  expect(child?.platform).toEqual({ os: "windows", architecture: "amd64", "os.version": "10.0", "os.features": ["win32k"] });
});
