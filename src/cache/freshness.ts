import type { LRUCache } from "lru-cache";
import { type RecordTypes, recordKey } from "../core/records.js";
import type { Partition } from "../local/partition.js";

/** What the source last said about a tag, and when. */
type TagState = RecordTypes["freshness"];

/** How old what is known of a tag is. */
export interface Age {
  /** Milliseconds since the source last answered for the tag; `Infinity` where it never did. */
  readonly asked: number;
  /** Milliseconds since the source last had the tag. */
  readonly seen: number;
  /** The source has the tag no more. */
  readonly gone: boolean;
}

/** When the source last confirmed each tag: in memory, and in a record for the next start. */
export class Freshness {
  readonly #in: Partition;
  readonly #states: LRUCache<string, TagState>;

  constructor(partition: Partition, states: LRUCache<string, TagState>) {
    this.#in = partition;
    this.#states = states;
  }

  async age(repository: string, tag: string): Promise<Age> {
    const { checkedAt, lastSeenAt } = await this.#state(repository, tag);
    const now = this.#in.clock.now();
    return { asked: now - checkedAt, seen: now - (lastSeenAt ?? checkedAt), gone: lastSeenAt !== undefined };
  }

  confirm(repository: string, tag: string): Promise<void> {
    return this.#write(repository, tag, { checkedAt: this.#in.clock.now() });
  }

  /** The source has this tag no more, and the tag stays here. */
  async keep(repository: string, tag: string): Promise<void> {
    const { checkedAt, lastSeenAt = checkedAt } = await this.#state(repository, tag);
    await this.#write(repository, tag, { checkedAt: this.#in.clock.now(), lastSeenAt });
  }

  async forget(repository: string, tag: string): Promise<void> {
    const { metadata, name } = this.#in;
    this.#states.delete(this.#key(repository, tag));
    await metadata.commit([], [{ remove: recordKey.freshness(name, repository, tag) }]);
  }

  async #state(repository: string, tag: string): Promise<TagState> {
    const known = this.#states.get(this.#key(repository, tag));
    if (known) return known;
    const { metadata, name } = this.#in;
    const record = await metadata.get(recordKey.freshness(name, repository, tag));
    // A crash may come between the tag and its record: the tag was confirmed when it was written.
    const checkedAt = record ? undefined : (await metadata.get(recordKey.tag(name, repository, tag)))?.value.updatedAt;
    const state = record?.value ?? { checkedAt: checkedAt ?? Number.NEGATIVE_INFINITY };
    const written = this.#states.get(this.#key(repository, tag));
    if (!written && Number.isFinite(state.checkedAt)) this.#states.set(this.#key(repository, tag), state);
    return written ?? state;
  }

  /** In memory even where the record cannot be written: a full disk must not make every pull a question to the source. */
  async #write(repository: string, tag: string, state: TagState): Promise<void> {
    const { metadata, name } = this.#in;
    this.#states.set(this.#key(repository, tag), state);
    await metadata.commit([], [{ put: recordKey.freshness(name, repository, tag), value: state }]);
  }

  #key(repository: string, tag: string): string {
    return `${this.#in.name} ${repository} ${tag}`;
  }
}
