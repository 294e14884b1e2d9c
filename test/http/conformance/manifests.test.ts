import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import type { Client } from "./client.js";
import {
  type Algorithm,
  absentDigest,
  algorithms,
  configType,
  type Document,
  describing,
  descriptorOf,
  documentOf,
  freshName,
  layerType,
  makeArtifact,
  makeImage,
  makeIndex,
  push,
  pushImage,
  sizeLimit,
} from "./content.js";
import { everywhere } from "./registries.js";

type Make = (on: Client, repository: string, algorithm: Algorithm) => Promise<Document>;

async function children(on: Client, repository: string, algorithm: Algorithm, more: object = {}) {
  const images = [await makeImage(on, repository, more, algorithm), await makeImage(on, repository, more, algorithm)];
  for (const image of images) await push(on, repository, image);
  return images.map((image, i) => ({ ...descriptorOf(image), platform: { os: "linux", architecture: i === 0 ? "amd64" : "arm64" } }));
}

const nonDistributable = [
  "application/vnd.oci.image.layer.nondistributable.v1.tar",
  "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
  "application/vnd.docker.image.rootfs.foreign.diff.tar",
  "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
  "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
];

/** What the conformance program pushes, and what clients push beside it. */
const documents: Record<string, Make> = {
  "an image": (on, repository, algorithm) => makeImage(on, repository, {}, algorithm),
  "an image without mediaType": (on, repository, algorithm) => makeImage(on, repository, { mediaType: undefined }, algorithm),
  "an image without layers": (on, repository, algorithm) => makeImage(on, repository, { layers: [] }, algorithm),
  "an image with 3.9 MB of annotations": (on, repository, algorithm) => {
    const annotations = Object.fromEntries(Array.from({ length: 390 }, (_, i) => [`large-annotation-${i}`, "A".repeat(10_000)]));
    return makeImage(on, repository, { annotations }, algorithm);
  },
  "a Docker image": async (on, repository, algorithm) => {
    const config = Buffer.from(randomBytes(20).toString("hex"));
    await on.pushBlob(repository, config, algorithm);
    const descriptor = describing(config, "application/vnd.docker.container.image.v1+json", algorithm);
    return makeImage(on, repository, { mediaType: mediaTypes.dockerManifest, config: descriptor, layers: [] }, algorithm);
  },
  "helm: a config of another type": async (on, repository, algorithm) => {
    const config = Buffer.from('{"name":"chart"}');
    await on.pushBlob(repository, config, algorithm);
    return makeImage(on, repository, { config: describing(config, "application/vnd.cncf.helm.config.v1+json", algorithm) }, algorithm);
  },
  "an index": async (on, repository, algorithm) => makeIndex(await children(on, repository, algorithm), {}, algorithm),
  "a Docker list": async (on, repository, algorithm) =>
    makeIndex(await children(on, repository, algorithm), { mediaType: mediaTypes.dockerList }, algorithm),
  "an index of indexes": async (on, repository, algorithm) => {
    const inner = [];
    for (let i = 0; i < 2; i++) inner.push(await push(on, repository, makeIndex(await children(on, repository, algorithm), {}, algorithm)));
    return makeIndex(inner.map(descriptorOf), {}, algorithm);
  },
  "an empty index": async (_, repository, algorithm) => makeIndex([], { annotations: { in: repository } }, algorithm),
  "BuildKit: an index whose children are blobs": async (on, repository, algorithm) => {
    const [layer, config] = [randomBytes(100), randomBytes(10)];
    for (const bytes of [layer, config]) await on.pushBlob(repository, bytes, algorithm);
    return makeIndex(
      [describing(layer, layerType, algorithm), describing(config, "application/vnd.buildkit.cacheconfig.v0", algorithm)],
      {},
      algorithm,
    );
  },
  "an artifact": async (on, repository, algorithm) => {
    const layer = randomBytes(50);
    await on.pushBlob(repository, layer, algorithm);
    return makeArtifact(on, repository, { layers: [describing(layer, "application/vnd.example.data", algorithm)] }, algorithm);
  },
  "an artifact without layers": (on, repository, algorithm) => makeArtifact(on, repository, {}, algorithm),
  "an index of artifacts": async (on, repository, algorithm) => {
    const artifact = await push(on, repository, await makeArtifact(on, repository, {}, algorithm));
    return makeIndex([descriptorOf(artifact)], { artifactType: "application/vnd.example.artifact" }, algorithm);
  },
  "an artifact with a subject": async (on, repository, algorithm) => {
    const subject = await push(on, repository, await makeImage(on, repository, {}, algorithm));
    return makeArtifact(on, repository, { subject: descriptorOf(subject) }, algorithm);
  },
  "an image with a subject": async (on, repository, algorithm) => {
    const subject = await push(on, repository, await makeImage(on, repository, {}, algorithm));
    return makeImage(on, repository, { subject: descriptorOf(subject) }, algorithm);
  },
  "an index with a subject": async (on, repository, algorithm) => {
    const subject = await push(on, repository, await makeImage(on, repository, {}, algorithm));
    return makeIndex(await children(on, repository, algorithm), { subject: descriptorOf(subject) }, algorithm);
  },
  "an artifact whose subject is missing": (on, repository, algorithm) =>
    makeArtifact(on, repository, { subject: { mediaType: mediaTypes.ociManifest, digest: absentDigest(algorithm), size: 123 } }, algorithm),
  "descriptors with data": async (on, repository, algorithm) => {
    const layer = randomBytes(40);
    await on.pushBlob(repository, layer, algorithm);
    return makeImage(on, repository, { layers: [describing(layer, layerType, algorithm, { data: layer.toString("base64") })] }, algorithm);
  },
  "non-distributable layers that are nowhere": (on, repository, algorithm) => {
    const layers = nonDistributable.map((mediaType) => ({
      mediaType,
      digest: absentDigest(algorithm),
      size: 12_345,
      urls: ["https://store.example.com/layer"],
    }));
    return makeImage(on, repository, { layers }, algorithm);
  },
  "fields nobody knows": async (on, repository, algorithm) => {
    const [child] = await children(on, repository, algorithm, { "org.example.unknown": "x" });
    return makeIndex(child ? [{ ...child, "org.example.inner": 1 }] : [], { "org.example.unknown": { deep: [1, null] } }, algorithm);
  },
};

everywhere((on) => {
  describe.each(algorithms)("%s", (algorithm) => {
    test.each(Object.entries(documents))("push, list, head, pull and delete %s", async (_, make) => {
      const repository = freshName();
      const document = await make(on, repository, algorithm);
      const { bytes, digest, mediaType, subject } = document;
      const byDigest = `/v2/${repository}/manifests/${digest}`;
      const byTag = `/v2/${repository}/manifests/v1`;

      const put = await on.put(`${byDigest}?tag=v1`, { "Content-Type": mediaType }, bytes);
      expect(put).toMatchObject({
        status: 201,
        headers: { location: byDigest, "docker-content-digest": digest, "content-length": "0", "oci-tag": "v1" },
      });
      expect(put.headers["oci-subject"]).toBe(subject);

      expect(await on.tags(repository)).toEqual(["v1"]);
      for (const path of [byDigest, byTag]) {
        const got = await on.get(path, { Accept: `${mediaTypes.ociIndex}, ${mediaTypes.ociManifest}` });
        expect(got.body.equals(bytes)).toBe(true);
        for (const answer of [got, await on.head(path)]) {
          expect(answer).toMatchObject({
            status: 200,
            headers: {
              "content-type": mediaType,
              "content-length": String(bytes.length),
              "docker-content-digest": digest,
              etag: `"${digest}"`,
            },
          });
        }
      }
      if (subject) expect((await on.referrers(repository, subject)).map((one) => one.digest)).toEqual([digest]);

      expect((await on.delete(byTag)).status).toBe(202);
      expect((await on.head(byTag)).status).toBe(404);
      expect((await on.get(byDigest)).body.equals(bytes)).toBe(true);
      if (subject) expect(await on.referrers(repository, subject)).toHaveLength(1);

      expect((await on.delete(byDigest)).status).toBe(202);
      expect((await on.head(byDigest)).status).toBe(404);
      expect(await on.tags(repository)).toEqual([]);
      if (subject) expect(await on.referrers(repository, subject)).toEqual([]);
      expect(await on.delete(byDigest)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
    });

    test.each(["  ", "\n"])(
      "bytes that are others than the digest says are DIGEST_INVALID, and nothing is stored (%j appended)",
      async (added) => {
        const repository = freshName();
        const { bytes, digest, mediaType } = await makeImage(on, repository, {}, algorithm);
        const other = Buffer.concat([bytes, Buffer.from(added)]);
        const put = await on.put(`/v2/${repository}/manifests/${digest}`, { "Content-Type": mediaType }, other);
        expect(put).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
        for (const absent of [digest, digestOf(other, algorithm)])
          expect((await on.head(`/v2/${repository}/manifests/${absent}`)).status).toBe(404);
      },
    );

    test("delete by digest takes every tag and the referrers entry with it, at once", async () => {
      const repository = freshName();
      const subject = absentDigest(algorithm);
      const artifact = await makeArtifact(
        on,
        repository,
        { subject: { mediaType: mediaTypes.ociManifest, digest: subject, size: 1 } },
        algorithm,
      );
      await push(on, repository, artifact, `${artifact.digest}?tag=a&tag=b`);
      await pushImage(on, repository, "other");
      expect((await on.delete(`/v2/${repository}/manifests/${artifact.digest}`)).status).toBe(202);
      expect(await on.tags(repository)).toEqual(["other"]);
      expect([await on.tagged(repository, "a"), await on.tagged(repository, "b")]).toEqual([undefined, undefined]);
      expect(await on.referrers(repository, subject)).toEqual([]);
    });
  });

  describe("bytes", () => {
    test.each([
      ["spaces and line ends", (text: string) => `\n ${text.replaceAll(",", " ,\r\n\t")}\n\n`],
      ["escapes", (text: string) => text.replace('"schemaVersion"', '"schema\\u0056ersion"').replace("{", '{"x":"\\u00e9\\/",')],
      ["letters outside ASCII", (text: string) => text.replace("{", '{"x":"é漢🚢",')],
      ["numbers as they were written", (text: string) => text.replace("{", '{"x":1.0,"y":1E2,')],
      ["a key twice", (text: string) => text.replace("{", '{"x":1,"x":2,')],
    ])("come back as they were pushed: %s", async (_, change) => {
      const repository = freshName();
      const bytes = Buffer.from(change((await makeImage(on, repository)).bytes.toString()));
      const put = await on.put(`/v2/${repository}/manifests/v1`, { "Content-Type": mediaTypes.ociManifest }, bytes);
      expect(put).toMatchObject({ status: 201, headers: { "docker-content-digest": digestOf(bytes) } });
      expect((await on.get(`/v2/${repository}/manifests/v1`)).body.equals(bytes)).toBe(true);
      expect((await on.get(`/v2/${repository}/manifests/${digestOf(bytes)}`)).body.equals(bytes)).toBe(true);
    });

    test("HEAD has a length and no body on the wire", async () => {
      const repository = freshName();
      const { bytes } = await pushImage(on, repository, "v1");
      const got = await on.raw("HEAD", `/v2/${repository}/manifests/v1`);
      expect(got).toMatchObject({ status: 200, headers: { "content-length": String(bytes.length) } });
    });

    test("a manifest may arrive chunked, without a length", async () => {
      const repository = freshName();
      const { bytes, digest } = await makeImage(on, repository);
      const body = Buffer.concat([
        Buffer.from(`10\r\n${bytes.subarray(0, 16)}\r\n${(bytes.length - 16).toString(16)}\r\n`),
        bytes.subarray(16),
        Buffer.from("\r\n0\r\n\r\n"),
      ]);
      const lines = [`Content-Type: ${mediaTypes.ociManifest}`, "Transfer-Encoding: chunked"];
      const put = await on.raw("PUT", `/v2/${repository}/manifests/v1`, lines, body);
      expect(put).toMatchObject({ status: 201, headers: { "docker-content-digest": digest } });
    });
  });

  describe("size", () => {
    /** Valid JSON of exactly so many bytes. */
    const padded = (document: Document, size: number) => Buffer.from(document.bytes.toString().padEnd(size, " "));
    const type = { "Content-Type": mediaTypes.ociManifest };

    test("4 MiB are taken", async () => {
      const repository = freshName();
      const bytes = padded(await makeImage(on, repository), sizeLimit);
      expect((await on.put(`/v2/${repository}/manifests/v1`, type, bytes)).status).toBe(201);
      expect((await on.get(`/v2/${repository}/manifests/v1`)).body.equals(bytes)).toBe(true);
    });

    test.each([sizeLimit + 1, sizeLimit + 100_000])("%i bytes are 413, announced and chunked, by tag and by digest", async (size) => {
      const repository = freshName();
      const bytes = padded(await makeImage(on, repository), size);
      for (const reference of ["v1", digestOf(bytes)]) {
        const path = `/v2/${repository}/manifests/${reference}`;
        expect(await on.put(path, type, bytes)).toMatchObject({ status: 413, code: "MANIFEST_INVALID" });
        expect(await on.put(path, type, chunksOf(bytes))).toMatchObject({ status: 413, code: "MANIFEST_INVALID" });
        expect((await on.head(path)).status).toBe(404);
      }
    });

    test("413 is answered before the body has come, where its length is announced", async () => {
      const got = await on.raw("PUT", `/v2/${freshName()}/manifests/v1`, [`Content-Length: ${sizeLimit + 1}`]);
      expect(got).toMatchObject({ status: 413, code: "MANIFEST_INVALID" });
    });
  });

  describe("types", () => {
    test("parameters of Content-Type are ignored", async () => {
      const repository = freshName();
      const { bytes, mediaType } = await makeImage(on, repository);
      for (const type of [`${mediaType}; charset=utf-8`, `${mediaType};charset="utf-8"`, `${mediaType} ;q=1`]) {
        expect((await on.put(`/v2/${repository}/manifests/v1`, { "Content-Type": type }, bytes)).status).toBe(201);
        expect((await on.head(`/v2/${repository}/manifests/v1`)).headers["content-type"]).toBe(mediaType);
      }
    });

    test("upper and lower case are one in a media type", async () => {
      const repository = freshName();
      const { bytes, mediaType } = await makeImage(on, repository);
      expect((await on.put(`/v2/${repository}/manifests/v1`, { "Content-Type": mediaType.toUpperCase() }, bytes)).status).toBe(201);
      expect((await on.head(`/v2/${repository}/manifests/v1`)).headers["content-type"]?.toLowerCase()).toBe(mediaType);
    });

    test.each([
      [mediaTypes.ociManifest, (repository: string) => makeImage(on, repository)],
      [mediaTypes.ociManifest, (repository: string) => makeImage(on, repository, { mediaType: undefined })],
      [mediaTypes.dockerManifest, (repository: string) => makeImage(on, repository, { mediaType: mediaTypes.dockerManifest })],
      [mediaTypes.ociIndex, async () => makeIndex([])],
      [mediaTypes.ociIndex, async () => documentOf('{"schemaVersion":2,"manifests":[]}')],
      [mediaTypes.dockerList, async () => makeIndex([], { mediaType: mediaTypes.dockerList })],
    ])("without Content-Type the body tells: %s", async (expected, make) => {
      const repository = freshName();
      const { bytes } = await make(repository);
      const put = await on.raw("PUT", `/v2/${repository}/manifests/v1`, [`Content-Length: ${bytes.length}`], bytes);
      expect(put.status).toBe(201);
      expect((await on.head(`/v2/${repository}/manifests/v1`)).headers["content-type"]).toBe(expected);
    });

    test.each([mediaTypes.ociIndex, mediaTypes.dockerManifest, "application/json", "text/html", "application/octet-stream", "x"])(
      "another Content-Type than the mediaType is MANIFEST_INVALID: %s",
      async (type) => {
        const repository = freshName();
        const { bytes } = await makeImage(on, repository);
        const put = await on.put(`/v2/${repository}/manifests/v1`, { "Content-Type": type }, bytes);
        expect(put).toMatchObject({ status: 400, code: "MANIFEST_INVALID" });
        expect(await on.tagged(repository, "v1")).toBeUndefined();
      },
    );

    test.each(["text/html", "application/javascript", "image/svg+xml"])(
      "%s is no manifest type, whatever the body says",
      async (mediaType) => {
        const repository = freshName();
        const { bytes } = await makeImage(on, repository, { mediaType });
        const put = await on.put(`/v2/${repository}/manifests/v1`, { "Content-Type": mediaType }, bytes);
        expect(put).toMatchObject({ status: 400, code: "MANIFEST_INVALID" });
      },
    );

    test("the stored type and bytes go out whatever Accept says", async () => {
      const repository = freshName();
      const image = await pushImage(on, repository, "v1");
      const path = `/v2/${repository}/manifests/v1`;
      const unchanged = { status: 200, headers: { "content-type": image.mediaType, "docker-content-digest": image.digest } };
      const lists = [
        [],
        ["Accept: */*"],
        [`Accept: ${image.mediaType}`],
        [`Accept: ${mediaTypes.dockerManifest}`],
        [`Accept: ${mediaTypes.ociIndex}, ${mediaTypes.dockerList};q=0.5, */*;q=0.1`],
        [`Accept: ${mediaTypes.ociIndex}`, `Accept: ${mediaTypes.ociManifest}`],
        ["Accept: application/vnd.docker.distribution.manifest.v1+prettyjws"],
        ["Accept: text/html"],
        ["Accept:"],
      ];
      for (const lines of lists) {
        const got = await on.raw("GET", path, lines);
        expect(got).toMatchObject(unchanged);
        expect(got.body.equals(image.bytes)).toBe(true);
        expect(await on.raw("HEAD", path, lines)).toMatchObject(unchanged);
      }
    });
  });

  describe("what is no manifest is MANIFEST_INVALID", () => {
    const hex = "0".repeat(64);
    const descriptor = { mediaType: layerType, digest: `sha256:${hex}`, size: 1 };
    const image = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: { ...descriptor, mediaType: configType }, layers: [] };
    const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] };

    test.each([
      ["nothing", ""],
      ["no JSON", "not json"],
      ["half a JSON", '{"schemaVersion":2'],
      ["null", "null"],
      ["a list", "[]"],
      ["text", '"manifest"'],
      ["bytes that are not UTF-8", Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])],
      ["depth without end", "[".repeat(100_000)],
      ["an image without config", { ...image, config: undefined }],
      ["layers that are no list", { ...image, layers: {} }],
      ["a layer that is no descriptor", { ...image, layers: ["x"] }],
      ["a negative size", { ...image, layers: [{ ...descriptor, size: -1 }] }],
      ["a size that is no whole number", { ...image, layers: [{ ...descriptor, size: 1.5 }] }],
      ["a size beyond what can be counted", { ...image, layers: [{ ...descriptor, size: 2 ** 60 }] }],
      ["a size as text", { ...image, layers: [{ ...descriptor, size: "1" }] }],
      ["a digest of another algorithm", { ...image, layers: [{ ...descriptor, digest: `md5:${"0".repeat(32)}` }] }],
      ["a digest that leads out of the store", { ...image, layers: [{ ...descriptor, digest: `sha256:../../${hex.slice(6)}` }] }],
      ["a media type with a line end", { ...image, layers: [{ ...descriptor, mediaType: "a/b\r\nX-Evil: 1" }] }],
      ["a subject that is no descriptor", { ...index, subject: {} }],
      ["annotations that are no text", { ...index, annotations: { a: 1 } }],
      ["annotations that are a list", { ...index, annotations: [] }],
      ["an artifactType with a line end", { ...index, artifactType: "a/b\n" }],
      ["more children than any image has", { ...index, manifests: Array.from({ length: 20_000 }, () => descriptor) }],
    ])("%s", async (_, value) => {
      const body = typeof value === "string" || Buffer.isBuffer(value) ? value : JSON.stringify(value);
      const mediaType = typeof value === "object" && "mediaType" in value ? value.mediaType : mediaTypes.ociManifest;
      const put = await on.put(`/v2/${freshName()}/manifests/v1`, { "Content-Type": mediaType }, body);
      expect(put).toMatchObject({ status: 400, code: "MANIFEST_INVALID" });
    });

    test("names like __proto__ are only names", async () => {
      const repository = freshName();
      const bytes = Buffer.from(
        `{"schemaVersion":2,"mediaType":"${mediaTypes.ociIndex}","manifests":[],"annotations":{"__proto__":"x","constructor":"y"},"subject":{"mediaType":"${mediaTypes.ociManifest}","digest":"${absentDigest()}","size":1}}`,
      );
      const { subject } = documentOf(bytes.toString());
      expect((await on.put(`/v2/${repository}/manifests/v1`, { "Content-Type": mediaTypes.ociIndex }, bytes)).status).toBe(201);
      expect((await on.get(`/v2/${repository}/manifests/v1`)).body.equals(bytes)).toBe(true);
      const listed = await on.get(`/v2/${repository}/referrers/${subject}`);
      expect(listed.body.toString()).toContain('"__proto__":"x"');
    });
  });

  describe("tags", () => {
    test("docker: a push by tag moves the tag, and HEAD by tag then GET by digest pull it", async () => {
      const repository = freshName();
      const first = await pushImage(on, repository, "latest");
      const second = await pushImage(on, repository, "latest");
      const digest = await on.tagged(repository, "latest");
      expect(digest).toBe(second.digest);
      expect((await on.get(`/v2/${repository}/manifests/${digest}`)).body.equals(second.bytes)).toBe(true);
      expect((await on.get(`/v2/${repository}/manifests/${first.digest}`)).body.equals(first.bytes)).toBe(true);
      expect(await on.tags(repository)).toEqual(["latest"]);
    });

    test("a push by tag is answered with sha256, and one by digest with what it was pushed with", async () => {
      const repository = freshName();
      const image = await makeImage(on, repository);
      const type = { "Content-Type": image.mediaType };
      const sha512 = digestOf(image.bytes, "sha512");
      const path = `/v2/${repository}/manifests`;
      expect((await on.put(`${path}/a`, type, image.bytes)).headers["docker-content-digest"]).toBe(image.digest);
      expect((await on.put(`${path}/${sha512}?tag=b`, type, image.bytes)).headers["docker-content-digest"]).toBe(sha512);
      expect([await on.tagged(repository, "a"), await on.tagged(repository, "b")]).toEqual([image.digest, sha512]);
      for (const digest of [image.digest, sha512])
        expect((await on.head(`${path}/${digest}`)).headers["docker-content-digest"]).toBe(digest);
    });

    test("cosign: a tag that is overwritten, named after a digest, and asked for before it is there", async () => {
      const repository = freshName();
      const image = await pushImage(on, repository, "v1");
      const tag = `${image.digest.replace(":", "-")}.sig`;
      expect(await on.get(`/v2/${repository}/manifests/${tag}`)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
      for (let i = 0; i < 2; i++) {
        const signature = await push(on, repository, await makeArtifact(on, repository), tag);
        expect(await on.tagged(repository, tag)).toBe(signature.digest);
      }
    });

    test("deleting one tag leaves the others", async () => {
      const repository = freshName();
      const image = await pushImage(on, repository, "a");
      await push(on, repository, image, "b");
      expect((await on.delete(`/v2/${repository}/manifests/a`)).status).toBe(202);
      expect([await on.tagged(repository, "a"), await on.tagged(repository, "b")]).toEqual([undefined, image.digest]);
      expect(await on.delete(`/v2/${repository}/manifests/a`)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
      expect(await on.tags(repository)).toEqual(["b"]);
    });

    test("a manifest that was deleted can be pushed again", async () => {
      const repository = freshName();
      const image = await pushImage(on, repository, "v1");
      expect((await on.delete(`/v2/${repository}/manifests/${image.digest}`)).status).toBe(202);
      await push(on, repository, image, "v1");
      expect(await on.tagged(repository, "v1")).toBe(image.digest);
    });

    test("a manifest is visible only in its repository", async () => {
      const { digest } = await pushImage(on, freshName(), "v1");
      expect((await on.get(`/v2/${freshName()}/manifests/${digest}`)).status).toBe(404);
    });
  });
});
