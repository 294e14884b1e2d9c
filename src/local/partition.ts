import type { BlobStore } from "../core/blob-store.js";
import type { Clock } from "../core/clock.js";
import type { EventSink } from "../core/events.js";
import type { Served } from "../core/lookup.js";
import type { MetadataStore } from "../core/metadata-store.js";
import type { Quota } from "./quota.js";

/** What the parts of one local registry share: its name is the partition of the metadata that it owns. */
export interface Partition {
  readonly name: string;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  /** Absent: no limits. Where there is one, `metadata` keeps to it. */
  readonly quota?: Quota;
  readonly clock: Clock;
  readonly events: EventSink;
  /** Made once: every answer of this registry says the same. */
  readonly served: Served;
}
