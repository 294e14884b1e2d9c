import { sourceMember } from "../../cache/manifest-cache.js";
import type { Descriptor } from "../../core/descriptor.js";
import { type Digest, parseDigest } from "../../core/digest.js";
import { errorText } from "../../core/errors.js";
import { followManifest } from "../../core/manifest.js";
import type { StoredRecord } from "../../core/metadata-store.js";
import { recordKey } from "../../core/records.js";
import { keptReferences } from "../../core/references.js";
import type { Collection } from "./collection.js";

/** Manifests in memory at a time: each may have 4 MiB. */
const pageSize = 8;
const namesAtOnce = 1000;

/**
 * Removes from `candidates` what the repository's manifests refer to.
 *
 * @param removed called with each.
 * @returns false when a manifest cannot be read. A `fault` event names it.
 */
export async function removeReferenced<T>(
  run: Collection,
  registry: string,
  repository: string,
  candidates: Map<Digest, T>,
  removed: (digest: Digest, candidate: T) => void,
): Promise<boolean> {
  return eachReference(run, registry, repository, ({ digest }) => {
    const candidate = candidates.get(digest);
    if (candidate === undefined) return undefined;
    candidates.delete(digest);
    removed(digest, candidate);
    return candidates.size === 0 ? "enough" : undefined;
  });
}

/**
 * Goes through what the manifests of a repository refer to.
 *
 * @param visit answers "enough" when it wants no more.
 * @returns false when a manifest cannot be read. A `fault` event names it.
 */
async function eachReference(
  run: Collection,
  registry: string,
  repository: string,
  visit: (reference: Descriptor) => "enough" | undefined,
): Promise<boolean> {
  const { metadata } = run;
  let after: string | undefined;
  do {
    const page = await metadata.page({
      kind: "manifest",
      under: [registry, repository],
      limit: namesAtOnce,
      ...(after !== undefined && { after }),
    });
    after = page.length === namesAtOnce ? page.at(-1)?.key.parts[2] : undefined;
    for (let at = 0; at < page.length; at += pageSize) {
      await run.pause();
      const some = page.slice(at, at + pageSize).map(({ key }) => parseDigest(key.parts[2] ?? ""));
      const stored = await Promise.all(some.map((digest) => storedManifest(run, registry, repository, digest)));
      for (const [index, manifest] of stored.entries()) {
        try {
          if (!manifest) continue;
          if (!manifest.bytes) throw new Error("its bytes are missing");
          for (const reference of keptReferences(followManifest(manifest.bytes, manifest.value.mediaType))) {
            if (visit(reference) === "enough") return true;
          }
        } catch (error) {
          run.skip(registry, repository, `${some[index]} cannot be read: ${errorText(error)}`);
          return false;
        }
      }
    }
  } while (after !== undefined);
  return true;
}

/**
 * Removes from `candidates` what any manifest of the storage refers to, whichever registry and repository it is in. A sparse registry stores manifests without
 * blob references, and a scrub leaves blob references without a record of the bytes; bytes that a manifest names are kept in both cases. They are not kept for a
 * manifest of a cache that has evicted them: nobody would count or evict them any more.
 *
 * @param removed called with each.
 * @returns false when a manifest cannot be read. A `fault` event names it.
 */
export async function removeNamed<T>(
  run: Collection,
  candidates: Map<Digest, T>,
  removed: (digest: Digest, candidate: T) => void = () => {},
): Promise<boolean> {
  for await (const [registry, repository] of repositoriesWithManifests(run)) {
    if (candidates.size === 0) return true;
    const named = new Map<Digest, T>();
    const readable = await eachReference(run, registry, repository, ({ digest }) => {
      const candidate = candidates.get(digest);
      if (candidate !== undefined) named.set(digest, candidate);
      return named.size === candidates.size ? "enough" : undefined;
    });
    if (!readable) return false;
    await run.each(named, async ([digest, candidate]) => {
      const reference = await run.metadata.get(recordKey.link(registry, repository, digest));
      if (reference?.value.origin?.member === sourceMember) return;
      candidates.delete(digest);
      removed(digest, candidate);
    });
  }
  return true;
}

/** Every repository of every registry that has manifests. */
async function* repositoriesWithManifests({ metadata }: Collection): AsyncGenerator<readonly [string, string]> {
  const next = async (under: readonly string[], after: string | undefined) => {
    const [item] = await metadata.page({ kind: "manifest", under, limit: 1, ...(after !== undefined && { after }) });
    return item?.key.parts[under.length];
  };
  for (let registry = await next([], undefined); registry !== undefined; registry = await next([], registry)) {
    for (let repository = await next([registry], undefined); repository !== undefined; repository = await next([registry], repository))
      yield [registry, repository];
  }
}

/** A store may read from memory what another process changed a moment ago: that a listed manifest is gone must hold at this moment. */
async function storedManifest(
  { metadata }: Collection,
  registry: string,
  repository: string,
  digest: Digest,
): Promise<StoredRecord<"manifest"> | undefined> {
  const key = recordKey.manifest(registry, repository, digest);
  for (;;) {
    const stored = await metadata.get(key);
    if (stored || (await metadata.commit([{ key, is: "absent" }], []))) return stored;
  }
}
