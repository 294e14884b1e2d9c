import type { LRUCache } from "lru-cache";
import { type RecordTypes, recordKey } from "../core/records.js";
import type { Partition } from "../local/partition.js";

/** What the source last said about a tag, and when. */
type TagState = RecordTypes["freshness"];

/** How long a tag has been standing. */
export interface Age {
  /** Milliseconds since the source last answered for the tag; `Infinity` for a tag that it never did. */
  readonly asked: number;
  /** Milliseconds since the source last had it. */
  readonly seen: number;
  /** The source has it no more. */
  readonly gone: boolean;
}

/** When the source last confirmed each tag: in memory, and in the records for the next start. */
export class Freshness {
  readonly #in: Partition;
  readonly #standings: LRUCache<string, TagState>;

  constructor(partition: Partition, standings: LRUCache<string, TagState>) {
    this.#in = partition;
    this.#standings = standings;
  }

  async age(repository: string, tag: string): Promise<Age> {
    const { checkedAt, lastSeenAt } = await this.#standing(repository, tag);
    const now = this.#in.clock.now();
    return { asked: now - checkedAt, seen: now - (lastSeenAt ?? checkedAt), gone: lastSeenAt !== undefined };
  }

  confirm(repository: string, tag: string): Promise<void> {
    return this.#write(repository, tag, { checkedAt: this.#in.clock.now() });
  }

  /** The source has answered that it has this tag no more, and the tag stays here. */
  async keep(repository: string, tag: string): Promise<void> {
    const { checkedAt, lastSeenAt = checkedAt } = await this.#standing(repository, tag);
    await this.#write(repository, tag, { checkedAt: this.#in.clock.now(), lastSeenAt });
  }

  async forget(repository: string, tag: string): Promise<void> {
    const { metadata, name } = this.#in;
    this.#standings.delete(this.#key(repository, tag));
    await metadata.commit([], [{ remove: recordKey.freshness(name, repository, tag) }]);
  }

  async #standing(repository: string, tag: string): Promise<TagState> {
    const known = this.#standings.get(this.#key(repository, tag));
    if (known) return known;
    const { metadata, name } = this.#in;
    const record = await metadata.get(recordKey.freshness(name, repository, tag));
    // A crash may come between the tag and the record that it was confirmed; the source gave it then.
    const checkedAt = record ? undefined : (await metadata.get(recordKey.tag(name, repository, tag)))?.value.updatedAt;
    const standing = record?.value ?? { checkedAt: checkedAt ?? Number.NEGATIVE_INFINITY };
    const written = this.#standings.get(this.#key(repository, tag));
    if (!written && Number.isFinite(standing.checkedAt)) this.#standings.set(this.#key(repository, tag), standing);
    return written ?? standing;
  }

  /** Known even where it cannot be written: a full disk must not make every pull a question. */
  async #write(repository: string, tag: string, standing: TagState): Promise<void> {
    const { metadata, name } = this.#in;
    this.#standings.set(this.#key(repository, tag), standing);
    await metadata.commit([], [{ put: recordKey.freshness(name, repository, tag), value: standing }]);
  }

  #key(repository: string, tag: string): string {
    return `${this.#in.name} ${repository} ${tag}`;
  }
}
