import { localRegistry, orThrow, type Registry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryBlobStore } from "oci-manifold/storage/memory";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { metadataStoreContract } from "oci-manifold/testing";
import { beforeAll, describe, expect, test } from "vitest";
import { makeIndex, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { countedRegistry, fillRecords } from "../storage/counted-queries.js";
import { dropSchema, newSchema, type PostgresServer, startPostgres } from "./postgres.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

requires("initdb", "postgres")("PostgreSQL", () => {
  let server: PostgresServer;
  let pool: ReturnType<PostgresServer["pool"]>;

  beforeAll(async () => {
    server = await startPostgres();
    pool = server.pool();
  });

  describe("a pool of ten", () => {
    const create = async () => {
      const schema = newSchema();
      return { store: postgresMetadata({ pool, schema }), dispose: () => dropSchema(pool, schema) };
    };
    metadataStoreContract({ test, create });
  });

  describe.each(["memory", "files"])("a registry of two nodes, with blobs in %s", (kind) => {
    let one: Registry;
    let other: Registry;

    beforeAll(async () => {
      const schema = newSchema();
      const blobs = kind === "memory" ? memoryBlobStore() : fileBlobStore(await temporaryFolder());
      const node = () =>
        localRegistry({ storage: { blobs, metadata: postgresMetadata({ pool: server.pool(), schema }) }, name: "release" });
      one = node();
      other = node();
      await Promise.all([one.ready(), other.ready()]);
    });

    test("takes images on one and gives them on the other, byte by byte", async () => {
      const images = [await pushImage(one, "team/app", "amd64"), await pushImage(one, "team/app", "arm64")];
      const index = makeIndex(images);
      await other.putManifest("team/app", "1.0", { bytes: index.bytes });
      for (const registry of [one, other]) {
        expect(digestOf(orThrow(await registry.getManifest("team/app", "1.0")).bytes)).toBe(index.digest);
        for (const image of images) {
          expect(Buffer.from(orThrow(await registry.getManifest("team/app", image.digest)).bytes)).toEqual(Buffer.from(image.manifest));
          for (const digest of image.blobs.keys()) expect(digestOf(await bytesOf(await registry.getBlob("team/app", digest)))).toBe(digest);
        }
        expect(orThrow(await registry.listTags("team/app", { limit: 10 })).items).toEqual(["1.0", "amd64", "arm64"]);
      }
    });

    test("moves a tag on one, which the other sees at once", async () => {
      for (let round = 0; round < 20; round++) {
        const [from, to] = round % 2 === 0 ? [one, other] : [other, one];
        const { digest } = await pushImage(from, "team/moving", "latest");
        expect(orThrow(await to.resolveManifest("team/moving", "latest")).digest).toBe(digest);
      }
    });

    test("goes on at one with an upload that was begun at the other", async () => {
      const layer = Buffer.alloc(300_000, "layer");
      const begun = await one.startUpload("team/app");
      await begun.append(chunksOf(layer.subarray(0, 100_000)));
      const resumed = await other.resumeUpload("team/app", begun.id);
      expect(resumed.offset).toBe(100_000);
      await resumed.append(chunksOf(layer.subarray(100_000)));
      await resumed.commit(digestOf(layer));
      expect(digestOf(await bytesOf(await one.getBlob("team/app", digestOf(layer))))).toBe(digestOf(layer));
    });

    test("moves a contested tag once", async () => {
      const first = await pushImage(one, "team/contested", "latest");
      const images = await Promise.all(
        Array.from({ length: 6 }, (_, index) => pushImage(index % 2 ? one : other, "team/contested", `c${index}`)),
      );
      const outcomes = await Promise.allSettled(
        images.map((image, index) =>
          (index % 2 ? one : other).putManifest("team/contested", "latest", { bytes: image.manifest }, { ifMatch: first.digest }),
        ),
      );
      const won = outcomes.flatMap(({ status }, index) => (status === "fulfilled" ? [images[index]?.digest] : []));
      expect(won).toHaveLength(1);
      expect(orThrow(await one.resolveManifest("team/contested", "latest")).digest).toBe(won[0]);
      for (const outcome of outcomes)
        if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "PRECONDITION_FAILED" });
    });

    test("deletes", async () => {
      const image = await pushImage(one, "team/gone", "1");
      await other.deleteManifest("team/gone", image.digest);
      expect((await one.getManifest("team/gone", "1")).kind).toBe("absent");
      expect(orThrow(await one.listRepositories({ limit: 10 })).items).not.toContain("team/gone");
    });
  });

  test("what requests cost does not grow with the records", async () => {
    const schema = newSchema();
    const { counts } = countedRegistry(pool, schema);
    const few = await counts();
    await fillRecords(pool, schema, 3000);
    expect(await counts()).toEqual(few);
    expect(few).toEqual({ head: 2, pullByTag: 2, blob: 2, pushOfManifest: 12, pushOfBlob: 5, tagsPage: 1, catalogPage: 1 });
    await dropSchema(pool, schema);
  });
});
