import { recordKey } from "../core/records.js";
import type { Distrust } from "../core/storing-registry.js";
import type { Partition } from "./partition.js";

/** In records, since the client that was refused may come back to another process. */
export function storedDistrust({ name, metadata, clock }: Partition): Distrust {
  return {
    async add(repository, digests) {
      const value = { at: clock.now() };
      const changes = [...new Set(digests)].map((digest) => ({ put: recordKey.distrusted(name, repository, digest), value }));
      if (changes.length > 0) await metadata.commit([], changes);
    },
    async get(repository, digest) {
      const stored = await metadata.get(recordKey.distrusted(name, repository, digest));
      return stored && { ...(stored.value.size !== undefined && { verifiedSize: stored.value.size }) };
    },
    async verified(repository, digest, size) {
      const key = recordKey.distrusted(name, repository, digest);
      await metadata.commit([{ key, is: "present" }], [{ put: key, value: { at: clock.now(), size } }]);
    },
  };
}
