import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import type { ReachMemory } from "../core/linking-registry.js";

/** Some 200 bytes each. What falls out is hidden again until something permitted leads to it. */
const keptDigests = 100_000;

/** What a filter let through, for a filter that nobody gave a stored memory. */
export function memoryReach(clock: Clock): Required<ReachMemory> {
  // Made when needed: each reserves room for all that it may hold.
  let known: LRUCache<string, true> | undefined;
  let seen: LRUCache<string, number> | undefined;
  return {
    async remember(repository, digests) {
      known ??= new LRUCache({ max: keptDigests });
      for (const digest of digests) known.set(`${repository}@${digest}`, true);
    },
    knows: async (repository, digest) => known?.get(`${repository}@${digest}`) ?? false,
    async firstSeen(repository, digest) {
      seen ??= new LRUCache({ max: keptDigests });
      const key = `${repository}@${digest}`;
      const at = seen.get(key) ?? clock.now();
      seen.set(key, at);
      return at;
    },
  };
}
