import { recordKey } from "../core/records.js";
import type { VisibleDigests } from "../core/storing-registry.js";
import type { Partition } from "./partition.js";

/** What a filter let through, kept with the registry that applies it: a restart must not make a running deployment's digests vanish. */
export function storedVisibleDigests({ name, metadata, clock }: Partition, scope: string): VisibleDigests {
  return {
    async remember(repository, digests) {
      const keys = digests.map((digest) => recordKey.reach(name, scope, repository, digest));
      const known = await Promise.all(keys.map((key) => metadata.get(key)));
      const unknown = keys.filter((_, index) => !known[index]);
      if (unknown.length > 0)
        await metadata.commit(
          [],
          unknown.map((put) => ({ put, value: {} })),
        );
    },
    knows: async (repository, digest) => (await metadata.get(recordKey.reach(name, scope, repository, digest))) !== undefined,
    async firstSeen(repository, digest) {
      const key = recordKey.firstSeen(name, scope, repository, digest);
      const known = await metadata.get(key);
      if (known) return known.value.at;
      const at = clock.now();
      if (await metadata.commit([{ key, is: "absent" }], [{ put: key, value: { at } }])) return at;
      // Somebody else met it at the same time.
      return (await metadata.get(key))?.value.at ?? at;
    },
  };
}
