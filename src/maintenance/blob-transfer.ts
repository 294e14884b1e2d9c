import { contentChunks } from "../core/content.js";
import { errorText, isRegistryError } from "../core/errors.js";
import type { ReferencedBlob } from "../core/lookup.js";
import { answered, type ContentPlace } from "./availability.js";

/** What became of an attempt to have a blob from one of several places. */
type Transfer = { readonly kind: "done" } | { readonly kind: "failed"; readonly why: string };

/**
 * Gives a blob of the first place that has it, whole and right, to `store`, which verifies. Where one breaks off or gives other bytes, the next one is asked.
 * @throws the signal's reason, and what `store` throws for other reasons than the bytes.
 */
export async function transfer(
  places: readonly ContentPlace[],
  { digest, size }: ReferencedBlob,
  o: { readonly signal?: AbortSignal; readonly received?: (bytes: number) => void },
  store: (source: AsyncIterable<Uint8Array>) => Promise<unknown>,
): Promise<Transfer> {
  const reasons: string[] = [];
  const call = {
    priority: "background" as const,
    verify: false,
    unsized: true,
    ...(size !== undefined && { size }),
    ...(o.signal && { signal: o.signal }),
  };
  for (const { member, registry, repository } of places) {
    o.signal?.throwIfAborted();
    const there = await answered(() => registry.getBlob(repository, digest, call));
    if (there.kind === "denied" || there.kind === "unavailable") reasons.push(`${member}: ${there.error.message}`);
    else if (there.kind !== "found") reasons.push(`${member} does not have it`);
    else {
      try {
        const chunks = contentChunks(there.value.content);
        await store(o.received ? counted(chunks, o.received) : chunks);
        return { kind: "done" };
      } catch (error) {
        o.signal?.throwIfAborted();
        if (isRegistryError(error) && !sourceIsToBlame.has(error.code)) throw error;
        reasons.push(`${member}: ${errorText(error)}`);
      }
    }
  }
  return { kind: "failed", why: reasons.join("; ") || "no connector may be asked for it" };
}

/** A full disk or a refused write would not go better with another source. */
const sourceIsToBlame: ReadonlySet<string> = new Set(["DIGEST_INVALID", "SIZE_INVALID", "BLOB_UNKNOWN", "UNAVAILABLE", "UNKNOWN"]);

/** The same bytes; `received` is called with the size of each chunk. @throws the signal's reason. */
export async function* counted(
  source: AsyncIterable<Uint8Array>,
  received: (bytes: number) => void,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    signal?.throwIfAborted();
    received(chunk.byteLength);
    yield chunk;
  }
}
