import { createHash } from "node:crypto";
import { type Digest, localRegistry, mediaTypes, type Storage } from "oci-manifold";
import { type Change, digestOf } from "oci-manifold/extend";
import { makeImage, pushBlobs } from "../fixtures/images.js";

/** A storage whose reads are counted. */
export interface Watch {
  readonly storage: Storage;
  readonly reads: () => number;
  /** The most that was read in one turn of the event loop: records, items of pages, and tenths of names. */
  readonly mostInTurn: () => number;
  /** Counts anew. */
  reset(): void;
  /** Aborts with the n-th read from now on. */
  abortAfter(reads: number): AbortSignal;
  /** Reads that began since then. */
  readonly readsAfterAbort: () => number;
}

export function watched({ blobs, metadata }: Storage): Watch {
  let reads = 0;
  let inTurn = 0;
  let most = 0;
  let abort: { readonly at: number; readonly controller: AbortController } | undefined;
  const endTurn = () => {
    inTurn = 0;
  };
  const read = async <T>(work: () => Promise<T>, weight: (result: T) => number): Promise<T> => {
    reads++;
    if (abort && reads === abort.at) abort.controller.abort(new Error("enough"));
    const result = await work();
    if (inTurn === 0) setImmediate(endTurn);
    inTurn += 1 + weight(result);
    most = Math.max(most, inTurn);
    return result;
  };
  return {
    storage: {
      blobs,
      metadata: {
        get: (key) =>
          read(
            () => metadata.get(key),
            () => 0,
          ),
        page: (range) =>
          read(
            () => metadata.page(range),
            ({ length }) => length,
          ),
        names: (range) =>
          read(
            () => metadata.names(range),
            ({ length }) => length / 10,
          ),
        commit: (conditions, changes) => metadata.commit(conditions, changes),
        ready: () => metadata.ready(),
        close: () => metadata.close(),
      },
    },
    reads: () => reads,
    mostInTurn: () => most,
    reset() {
      reads = 0;
      most = 0;
      abort = undefined;
    },
    abortAfter(more) {
      const controller = new AbortController();
      abort = { at: reads + more, controller };
      return controller.signal;
    },
    readsAfterAbort: () => reads - (abort?.at ?? reads),
  };
}

/** What {@link fillManifests} writes is found under these names. */
export const many = {
  registry: "release",
  cache: "hub",
  repository: "team/app",
  tag: (index: number) => `v${String(index).padStart(6, "0")}`,
};

/**
 * Writes records as so many pushes of images with one tag each would have left them: all share a config and a layer. Beside them are as many blob references to other blobs, which no
 * manifest refers to.
 */
export async function fillManifests(storage: Storage, count: number): Promise<void> {
  const { registry: name, repository, tag } = many;
  const registry = localRegistry({ storage, name });
  const image = makeImage();
  await pushBlobs(registry, repository, image);
  await registry.putManifest(repository, "first", { bytes: image.manifest });
  const content = JSON.parse(Buffer.from(image.manifest).toString());
  const batch = 1000;
  for (let from = 0; from < count; from += batch) {
    const changes: Change[] = [];
    for (let index = from; index < Math.min(count, from + batch); index++) {
      const bytes = Buffer.from(JSON.stringify({ ...content, annotations: { index: String(index) } }));
      const digest = digestOf(bytes);
      const other = `sha256:${createHash("sha256").update(String(index)).digest("hex")}` as Digest;
      changes.push(
        { put: { kind: "manifest", parts: [name, repository, digest] }, value: { mediaType: mediaTypes.ociManifest, pushedAt: 0 }, bytes },
        { put: { kind: "tag", parts: [name, repository, tag(index)] }, value: { digest, updatedAt: 0 } },
        { put: { kind: "tagByDigest", parts: [name, repository, digest, tag(index)] }, value: {} },
        { put: { kind: "link", parts: [name, repository, other] }, value: { size: 10, linkedAt: 0 } },
        { put: { kind: "linkByDigest", parts: [other, name, repository] }, value: {} },
      );
    }
    await storage.metadata.commit([], changes);
  }
  await registry.close();
}

/**
 * Writes records as a cache that has fetched so many blobs would have left them. Only the oldest are large: an eviction has to look at all, and to remove few.
 * @returns what they take up.
 */
export async function fillCache({ metadata }: Storage, count: number): Promise<number> {
  const { cache: name, repository } = many;
  const batch = 1000;
  let bytes = 0;
  for (let from = 0; from < count; from += batch) {
    const changes: Change[] = [];
    for (let index = from; index < Math.min(count, from + batch); index++) {
      const hex = createHash("sha256").update(`cached ${index}`).digest("hex");
      const digest = `sha256:${hex}` as Digest;
      const size = index < 200 ? 1_000_000 : 1;
      bytes += size;
      changes.push(
        {
          put: { kind: "blob", parts: [digest] },
          value: { location: `blobs/sha256/${hex.slice(0, 2)}/${hex}.${hex.slice(0, 16)}`, size, committedAt: 0 },
        },
        { put: { kind: "cachedBlob", parts: [name, digest] }, value: { size, lastUsedAt: index } },
        { put: { kind: "link", parts: [name, repository, digest] }, value: { size, linkedAt: 0 } },
        { put: { kind: "linkByDigest", parts: [digest, name, repository] }, value: {} },
      );
    }
    await metadata.commit([], changes);
  }
  return bytes;
}
