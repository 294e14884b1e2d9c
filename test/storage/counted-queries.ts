import { randomBytes } from "node:crypto";
import { localRegistry, orThrow, type Registry } from "oci-manifold";
import { type Change, chunksOf, digestOf } from "oci-manifold/extend";
import { memoryBlobStore } from "oci-manifold/storage/memory";
import { type PostgresPool, postgresMetadata } from "oci-manifold/storage/postgres";
import { makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { hookedPool } from "./postgres-pools.js";

/** How many queries each kind of request costs. */
export interface QueryCounts {
  readonly head: number;
  readonly pullByTag: number;
  readonly blob: number;
  readonly pushOfManifest: number;
  readonly pushOfBlob: number;
  readonly tagsPage: number;
  readonly catalogPage: number;
}

/** A registry over PostgreSQL whose queries can be counted. */
export function countedRegistry(pool: PostgresPool, schema: string): { registry: Registry; counts(): Promise<QueryCounts> } {
  const hooked = hookedPool(pool);
  const registry = localRegistry({
    storage: { blobs: memoryBlobStore(), metadata: postgresMetadata({ pool: hooked, schema }) },
    name: "release",
  });
  const costOf = async (work: () => Promise<unknown>) => {
    hooked.sent.length = 0;
    await work();
    return hooked.sent.length;
  };
  const counts = async () => {
    const tag = randomBytes(4).toString("hex");
    await pushImage(registry, "team/app", tag);
    // Five layers, beside the configuration.
    const image = makeImage([10, 20, 30, 40, 50]);
    await pushBlobs(registry, "team/app", image);
    const layer = randomBytes(1000);
    return {
      head: await costOf(() => registry.resolveManifest("team/app", tag)),
      pullByTag: await costOf(() => registry.getManifest("team/app", tag)),
      blob: await costOf(async () => bytesOf(await registry.getBlob("team/app", image.config.digest))),
      pushOfManifest: await costOf(() => registry.putManifest("team/app", `${tag}-2`, { bytes: image.manifest })),
      pushOfBlob: await costOf(() => registry.putBlob("team/app", { digest: digestOf(layer), size: 1000 }, chunksOf(layer))),
      tagsPage: await costOf(async () => orThrow(await registry.listTags("team/app", { limit: 100 }))),
      catalogPage: await costOf(async () => orThrow(await registry.listRepositories({ limit: 100 }))),
    };
  };
  return { registry, counts };
}

/** As so many pushes would leave them: half in one repository, half in repositories of their own. */
export async function fillRecords(pool: PostgresPool, schema: string, count: number): Promise<void> {
  const metadata = postgresMetadata({ pool, schema });
  const digest = digestOf(Buffer.from("a manifest"));
  const batch = 5000;
  for (let from = 0; from < count; from += batch) {
    const numbers = Array.from({ length: Math.min(batch, count - from) }, (_, index) => from + index);
    const changes = numbers.flatMap((number): Change[] => {
      const repository = number % 2 === 0 ? "team/app" : `team/${String(number).padStart(7, "0")}`;
      const manifest = { kind: "manifest", parts: ["release", repository, digestOf(Buffer.from(String(number)))] } as const;
      return [
        { put: manifest, value: { mediaType: "a/b", pushedAt: 0 }, bytes: Buffer.from(String(number)) },
        { put: { kind: "tag", parts: ["release", repository, `v${number}`] }, value: { digest, updatedAt: 0 } },
        { put: { kind: "link", parts: ["release", repository, digestOf(Buffer.from(String(number)))] }, value: { size: 1, linkedAt: 0 } },
        { put: { kind: "repository", parts: ["release", repository] }, value: { updatedAt: 0 } },
      ];
    });
    await metadata.commit([], changes);
  }
  await metadata.close();
}
