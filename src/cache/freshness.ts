import { LRUCache } from "lru-cache";
import { recordKey } from "../core/records.js";
import type { Partition } from "../local/partition.js";

/** Tags whose last confirmation is kept in memory; the record of it is read for others. */
const rememberedTags = 50_000;

/** When the source last confirmed each tag: in memory, and in the records for the next start. */
export class Freshness {
  readonly #in: Partition;
  readonly #checkedAt = new LRUCache<string, number>({ max: rememberedTags });

  constructor(partition: Partition) {
    this.#in = partition;
  }

  /** Milliseconds since then; `Infinity` for a tag that never was. */
  async age(repository: string, tag: string): Promise<number> {
    const { metadata, clock, name } = this.#in;
    const key = `${repository} ${tag}`;
    let checkedAt = this.#checkedAt.get(key);
    if (checkedAt === undefined) {
      checkedAt = (await metadata.get(recordKey.freshness(name, repository, tag)))?.value.checkedAt ?? Number.NEGATIVE_INFINITY;
      this.#checkedAt.set(key, checkedAt);
    }
    return clock.now() - checkedAt;
  }

  async confirm(repository: string, tag: string): Promise<void> {
    const { metadata, clock, name } = this.#in;
    const checkedAt = clock.now();
    this.#checkedAt.set(`${repository} ${tag}`, checkedAt);
    await metadata.commit([], [{ put: recordKey.freshness(name, repository, tag), value: { checkedAt } }]);
  }

  async forget(repository: string, tag: string): Promise<void> {
    const { metadata, name } = this.#in;
    this.#checkedAt.delete(`${repository} ${tag}`);
    await metadata.commit([], [{ remove: recordKey.freshness(name, repository, tag) }]);
  }
}
