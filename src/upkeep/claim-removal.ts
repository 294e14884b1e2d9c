import type { Change, Condition, MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { Quota } from "../local/quota.js";
import type { Collection } from "./collection.js";

const unlimited = { bytes: Number.POSITIVE_INFINITY, repositories: Number.POSITIVE_INFINITY };

/** Takes claims away from one registry. Where it has a quota, its record of use is kept right, as by the registry itself. */
export class ClaimRemoval {
  readonly #metadata: MetadataStore;
  readonly #registry: string;
  readonly #quota: Quota;
  readonly #begun: number;
  #uncounted = false;

  constructor({ metadata, clock }: Collection, registry: string) {
    this.#metadata = metadata;
    this.#registry = registry;
    this.#quota = new Quota(metadata, registry, unlimited, clock);
    this.#begun = clock.now();
  }

  async commit(conditions: readonly Condition[], changes: readonly Change[]): Promise<boolean> {
    const key = recordKey.usage(this.#registry);
    if (await this.#metadata.get(key)) return this.#quota.metadata.commit(conditions, changes);
    const committed = await this.#metadata.commit([...conditions, { key, is: "absent" }], changes);
    if (committed) this.#uncounted = true;
    return committed;
  }

  /** A count that began while claims were taken away without one may have seen them. */
  async end(metadata: MetadataStore): Promise<void> {
    if (!this.#uncounted) return;
    const usage = await metadata.get(recordKey.usage(this.#registry));
    if (usage && usage.value.countedAt >= this.#begun) await this.#quota.usage({ recount: true });
  }
}
