import { LRUCache } from "lru-cache";
import type { Change, Condition } from "../core/metadata-store.js";
import { isRepositoryName } from "../core/name.js";
import { type PageRequest, pageOf } from "../core/page.js";
import { recordKey } from "../core/records.js";
import type { NameIndex } from "../core/search.js";
import type { NameMemory } from "../core/storing-registry.js";
import type { Partition } from "./partition.js";

// What an aggregate remembers of repositories' names, kept with its local registry: whose a name is, and which names members gave that cannot list theirs.

/** Whose a name is: after a restart no other member may take it. */
export function storedNames({ name, metadata }: Partition): NameMemory {
  const get: NameMemory["get"] = async (repository) => (await metadata.get(recordKey.nameOrigin(name, repository)))?.value;
  return {
    get,
    async bind(repository, { member, since }, instead) {
      const key = recordKey.nameOrigin(name, repository);
      const stored = await metadata.get(key);
      if (stored && stored.value.member !== instead?.member) return stored.value;
      const condition: Condition = stored ? { key, is: "version", version: stored.version } : { key, is: "absent" };
      const value = { member, since };
      if (await metadata.commit([condition], [{ put: key, value }])) return value;
      return (await get(repository)) ?? value;
    },
    async list({ after, limit }) {
      const records = await metadata.page({ kind: "nameOrigin", under: [name], limit: limit + 1, ...(after !== undefined && { after }) });
      const names = records.map(({ key, value }) => ({ ...value, repository: key.parts[1] ?? "" }));
      return pageOf(names, limit, ({ repository }) => repository);
    },
  };
}

/** A record is rewritten only when it is older: a pull must not cost a write. */
const granularity = 24 * 3_600_000;
/**
 * Names that were written or seen to be there lately, so that a pull does not cost a read either. Each by its member: where two give the same name, they
 * would write over each other with every request.
 */
const remembered = 10_000;
/** Changes in one commit. */
const batch = 500;

/** The names that members of an aggregate gave. */
export function knownNames({ name, metadata, clock }: Partition): NameIndex {
  const fresh = new LRUCache<string, number>({ max: remembered });
  return {
    async note(member, repositories) {
      const now = clock.now();
      const changes: Change[] = [];
      const entries: string[] = [];
      for (const repository of repositories) {
        const entry = `${member} ${repository}`;
        // What a member calls its repositories is not ours to trust: it becomes a key.
        if ((fresh.get(entry) ?? 0) > now || !isRepositoryName(repository)) continue;
        const key = recordKey.known(name, repository);
        const stored = (await metadata.get(key))?.value;
        const isFresh = stored && stored.member === member && now - stored.lastSeenAt < granularity;
        if (!isFresh) changes.push({ put: key, value: { member, lastSeenAt: now } });
        entries.push(entry);
        fresh.set(entry, (isFresh ? stored.lastSeenAt : now) + granularity);
      }
      try {
        for (let start = 0; start < changes.length; start += batch) await metadata.commit([], changes.slice(start, start + batch));
      } catch (error) {
        for (const entry of entries) fresh.delete(entry);
        throw error;
      }
    },
    async list({ after, limit }: PageRequest) {
      const range = { kind: "known" as const, under: [name], limit: limit + 1, ...(after !== undefined && { after }) };
      const records = await metadata.page(range);
      const names = records.map(({ key, value }) => ({ repository: key.parts[1] ?? "", ...value }));
      return pageOf(names, limit, ({ repository }) => repository);
    },
  };
}
