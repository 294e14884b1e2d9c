import type { Digest } from "../core/digest.js";
import type { Change, MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { recordPages } from "../local/every-record.js";
import type { Partition } from "../local/partition.js";
import { sourceMember } from "./manifest-intake.js";

/** A registry with more repositories that claim one blob is taken for one that needs it. */
const linksLooked = 1000;

/** Who counts on a blob of a storage, as far as a cache that would evict it has to know. */
export class CacheClaims {
  readonly #in: Pick<Partition, "name" | "metadata" | "clock">;

  constructor(partition: Pick<Partition, "name" | "metadata" | "clock">) {
    this.#in = partition;
  }

  /** A cache's links lead to its source again, and the blob counts no more. */
  async gone(cache: string, digest: Digest, size: number): Promise<Change[]> {
    const { metadata, clock } = this.#in;
    const repositories = await metadata.names({ kind: "linkByDigest", under: [digest, cache], limit: 100_000 });
    const links = repositories.map((repository) => ({
      put: recordKey.link(cache, repository, digest),
      value: { size, linkedAt: clock.now(), origin: { member: sourceMember, repository } },
    }));
    return [...links, { remove: recordKey.cachedBlob(cache, digest) }];
  }

  /**
   * Who linked a blob while the cache gave it up found it counted, and has not counted it: these links lead to the source too, unless the cache has it again. Else
   * they would keep the bytes for ever, in nobody's account.
   */
  async leadBack(digest: Digest): Promise<void> {
    const { name, metadata, clock } = this.#in;
    for await (const page of recordPages(metadata, "linkByDigest", [digest, name])) {
      for (const { key: found } of page) {
        const repository = found.parts[2] ?? "";
        const key = recordKey.link(name, repository, digest);
        const link = await metadata.get(key);
        if (!link || link.value.origin) continue;
        const origin = { member: sourceMember, repository };
        await metadata.commit(
          [
            { key, is: "version", version: link.version },
            { key: recordKey.cachedBlob(name, digest), is: "absent" },
          ],
          [{ put: key, value: { size: link.value.size, linkedAt: clock.now(), origin } }],
        );
      }
    }
  }

  async wasUsedSince(cache: string, digest: Digest, time: number): Promise<boolean> {
    const entry = await this.#in.metadata.get(recordKey.cachedBlob(cache, digest));
    return entry !== undefined && entry.value.lastUsedAt > time;
  }

  /** The other caches that have it; `undefined` when another registry has a claim, to the bytes or by way of a cache. */
  async ofOtherCaches(digest: Digest): Promise<string[] | undefined> {
    const { name, metadata } = this.#in;
    const caches: string[] = [];
    for await (const registry of registriesClaiming(metadata, digest)) {
      if (registry === name) continue;
      if (await metadata.get(recordKey.cachedBlob(registry, digest))) caches.push(registry);
      else if (!(await this.#leadToItsSource(registry, digest))) return undefined;
    }
    return caches;
  }

  /** Whether all links of a registry are those of a cache that does not have the bytes, or not any more. */
  async #leadToItsSource(registry: string, digest: Digest): Promise<boolean> {
    const { metadata } = this.#in;
    // Not by their names, which may lag behind another process.
    const links = await metadata.page({ kind: "linkByDigest", under: [digest, registry], limit: linksLooked + 1 });
    if (links.length > linksLooked) return false;
    for (const { key } of links) {
      const link = await metadata.get(recordKey.link(registry, key.parts[2] ?? "", digest));
      if (link && link.value.origin?.member !== sourceMember) return false;
    }
    return true;
  }
}

/** Registries and caches of a storage that have a link to a blob. */
export async function* registriesClaiming(metadata: MetadataStore, digest: Digest): AsyncGenerator<string> {
  let after: string | undefined;
  do {
    // One link of each registry, since `after` is a registry here.
    const [item] = await metadata.page({ kind: "linkByDigest", under: [digest], limit: 1, ...(after !== undefined && { after }) });
    after = item?.key.parts[1];
    if (after !== undefined) yield after;
  } while (after !== undefined);
}
