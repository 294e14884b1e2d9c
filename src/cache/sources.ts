import type { Digest } from "../core/digest.js";
import type { CallOptions, GetBlobOptions, Registry } from "../core/registry.js";
import { untilAborted } from "../core/until-aborted.js";
import { passedOf } from "./asking.js";
import type { TransferSource } from "./transfer.js";

/** The blob as the cache knows it. */
export interface Wanted {
  readonly repository: string;
  readonly digest: Digest;
  /** Absent: no manifest has told it. */
  readonly size: number | undefined;
}

/** The cache's own source, whose answer says who may see the blob, and what the caller has beside it. */
export function sourcesOf(
  source: Registry,
  { repository, digest, size }: Wanted,
  call: CallOptions,
  asked: GetBlobOptions | undefined,
): TransferSource[] {
  // Hashed on the way into the store, so not twice.
  const { otherwise } = asked ?? {};
  const o = { ...passedOf(asked), verify: false, unsized: true, ...(size !== undefined && { size }) };
  const own: TransferSource = {
    // The call is read at each question: its caller is whoever asked last.
    ask: (range, signal) => untilAborted(source.getBlob(repository, digest, { ...call, ...o, signal, ...(range && { range }) }), signal),
  };
  return otherwise ? [own, { ask: (range, signal) => untilAborted(otherwise(range, { signal }), signal) }] : [own];
}
