import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { describe, expect, test } from "vitest";
import type { Answer, Client } from "./client.js";
import {
  absentDigest,
  algorithms,
  configType,
  type Document,
  describing,
  descriptorOf,
  freshName,
  layerType,
  makeArtifact,
  makeImage,
  makeIndex,
  push,
  pushImage,
} from "./content.js";
import { connected, connectedKinds, everywhere } from "./registries.js";

const pushed = (on: Client, repository: string, { bytes, digest, mediaType }: Document, reference = digest): Promise<Answer> =>
  on.put(`/v2/${repository}/manifests/${reference}`, { "Content-Type": mediaType }, bytes);

everywhere((on) => {
  describe.each(algorithms)("%s", (algorithm) => {
    const missing = (mediaType: string) => ({ mediaType, digest: absentDigest(algorithm), size: 10 });

    test.each([
      ["a config", (repository: string) => makeImage(on, repository, { config: missing(configType) }, algorithm)],
      ["a layer", (repository: string) => makeImage(on, repository, { layers: [missing(layerType)] }, algorithm)],
      [
        "a layer beside others",
        (repository: string) => makeArtifact(on, repository, { layers: [missing("application/vnd.example")] }, algorithm),
      ],
      ["a child", async () => makeIndex([missing(mediaTypes.ociManifest)], {}, algorithm)],
      ["a child that is an index", async () => makeIndex([missing(mediaTypes.ociIndex)], {}, algorithm)],
      ["a child that is a blob", async () => makeIndex([missing(layerType)], {}, algorithm)],
    ])("%s that is missing is MANIFEST_BLOB_UNKNOWN, by tag and by digest, and nothing is stored", async (_, make) => {
      const repository = freshName();
      const document = await make(repository);
      for (const reference of ["v1", document.digest, `${document.digest}?tag=v1`]) {
        const put = await pushed(on, repository, document, reference);
        expect(put).toMatchObject({ status: 400, code: "MANIFEST_BLOB_UNKNOWN" });
      }
      expect(await on.tagged(repository, "v1")).toBeUndefined();
      expect((await on.head(`/v2/${repository}/manifests/${document.digest}`)).status).toBe(404);
    });

    test("what another repository has does not count", async () => {
      const [mine, theirs] = [freshName(), freshName()];
      const image = await makeImage(on, theirs, {}, algorithm);
      expect(await pushed(on, mine, image)).toMatchObject({ status: 400, code: "MANIFEST_BLOB_UNKNOWN" });
      await push(on, theirs, image);
      expect(await pushed(on, mine, makeIndex([descriptorOf(image)], {}, algorithm))).toMatchObject({
        status: 400,
        code: "MANIFEST_BLOB_UNKNOWN",
      });
    });

    test("what was deleted no longer counts", async () => {
      const repository = freshName();
      const layer = randomBytes(10);
      const digest = await on.pushBlob(repository, layer, algorithm);
      const image = await makeImage(on, repository, { layers: [describing(layer, layerType, algorithm)] }, algorithm);
      expect((await on.delete(`/v2/${repository}/blobs/${digest}`)).status).toBe(202);
      expect(await pushed(on, repository, image)).toMatchObject({ status: 400, code: "MANIFEST_BLOB_UNKNOWN" });
    });

    test("what was mounted counts", async () => {
      const [mine, theirs] = [freshName(), freshName()];
      const layer = randomBytes(10);
      const digest = await on.pushBlob(theirs, layer, algorithm);
      expect((await on.post(`/v2/${mine}/blobs/uploads/?mount=${digest}&from=${theirs}`)).status).toBe(201);
      const image = await makeImage(on, mine, { layers: [describing(layer, layerType, algorithm)] }, algorithm);
      expect((await pushed(on, mine, image)).status).toBe(201);
    });

    test("a subject that is missing is taken, by an image, an artifact and an index", async () => {
      const repository = freshName();
      const subject = missing(mediaTypes.ociManifest);
      const documents = [
        await makeImage(on, repository, { subject }, algorithm),
        await makeArtifact(on, repository, { subject }, algorithm),
        makeIndex([], { subject }, algorithm),
      ];
      for (const document of documents) {
        expect(await pushed(on, repository, document)).toMatchObject({ status: 201, headers: { "oci-subject": subject.digest } });
      }
      expect(await on.referrers(repository, subject.digest)).toHaveLength(3);
    });
  });

  test("OCI-Subject also when the key is written with an escape", async () => {
    const repository = freshName();
    const subject = absentDigest();
    const document = makeIndex([], { subject: { mediaType: mediaTypes.ociManifest, digest: subject, size: 1 } });
    const bytes = Buffer.from(document.bytes.toString().replace('"subject"', '"sub\\u006aect"'));
    const put = await on.put(`/v2/${repository}/manifests/v1`, { "Content-Type": mediaTypes.ociIndex }, bytes);
    expect(put).toMatchObject({ status: 201, headers: { "oci-subject": subject } });
  });

  test("BuildKit: an attestation beside the image in an index", async () => {
    const repository = freshName();
    const image = await pushImage(on, repository);
    const attestation = await push(on, repository, await makeImage(on, repository));
    const annotations = { "vnd.docker.reference.digest": image.digest, "vnd.docker.reference.type": "attestation-manifest" };
    const index = makeIndex([
      { ...descriptorOf(image), platform: { os: "linux", architecture: "amd64" } },
      { ...descriptorOf(attestation), annotations, platform: { os: "unknown", architecture: "unknown" } },
    ]);
    await push(on, repository, index, "latest");
    expect(await on.tagged(repository, "latest")).toBe(index.digest);
  });
});

everywhere(
  (on) => {
    test("an image here may refer to a layer that a connector has under the same name", async () => {
      const { repository, layer } = connected;
      const image = await makeImage(on, repository, { layers: [describing(layer, layerType)] });
      expect((await pushed(on, repository, image, "mine")).status).toBe(201);
      expect((await on.get(`/v2/${repository}/blobs/${describing(layer, layerType).digest}`)).body.equals(layer)).toBe(true);
    });

    test("an index here may refer to an image that a connector has under the same name", async () => {
      const { repository, tag } = connected;
      const got = await on.get(`/v2/${repository}/manifests/${tag}`);
      const child = describing(got.body, got.headers["content-type"] ?? "");
      expect((await pushed(on, repository, makeIndex([child]), "mine-too")).status).toBe(201);
    });

    test("what only a connector has cannot be deleted, and that is not called unknown", async () => {
      const { repository, tag } = connected;
      expect(await on.delete(`/v2/${repository}/manifests/${tag}`)).toMatchObject({ status: 405, code: "UNSUPPORTED" });
      expect((await on.head(`/v2/${repository}/manifests/${tag}`)).status).toBe(200);
    });
  },
  { kinds: connectedKinds },
);

everywhere(
  (on) => {
    describe.each(algorithms)("sparse, %s", (algorithm) => {
      test("an image may lack layers and config", async () => {
        const repository = freshName();
        const missing = { mediaType: layerType, digest: absentDigest(algorithm), size: 10 };
        const image = await makeImage(on, repository, { config: { ...missing, mediaType: configType }, layers: [missing] }, algorithm);
        await push(on, repository, image, `${image.digest}?tag=sparse`);
        expect((await on.get(`/v2/${repository}/manifests/sparse`)).body.equals(image.bytes)).toBe(true);
        expect((await on.head(`/v2/${repository}/blobs/${missing.digest}`)).status).toBe(404);
      });

      test("an index may lack platforms", async () => {
        const repository = freshName();
        const image = await push(on, repository, await makeImage(on, repository, {}, algorithm));
        const missing = { mediaType: mediaTypes.ociManifest, digest: absentDigest(algorithm), size: 1024 };
        const index = makeIndex([descriptorOf(image), missing], {}, algorithm);
        await push(on, repository, index, `${index.digest}?tag=sparse`);
        expect((await on.get(`/v2/${repository}/manifests/sparse`)).body.equals(index.bytes)).toBe(true);
        expect((await on.head(`/v2/${repository}/manifests/${image.digest}`)).status).toBe(200);
        expect(await on.get(`/v2/${repository}/manifests/${missing.digest}`)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
      });
    });
  },
  { sparse: true },
);
