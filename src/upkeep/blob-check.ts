import { contentChunks } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, Hasher } from "../core/digest.js";
import type { LinkingRegistry } from "../core/linking-registry.js";

/**
 * Why a blob that the records call stored cannot be served; `undefined` when it can.
 * @param how `size`: its last byte can be read. `content`: all of it is read and hashed.
 */
export async function whyLost(
  local: LinkingRegistry,
  repository: string,
  { digest, size }: Descriptor,
  how: "size" | "content",
  signal?: AbortSignal,
): Promise<string | undefined> {
  signal?.throwIfAborted();
  // Part of a blob is read from the store, never from memory.
  const range = size === 0 ? {} : { range: { start: how === "size" ? size - 1 : 0 } };
  const wanted = how === "size" ? Math.min(1, size) : size;
  try {
    const lookup = await local.getBlob(repository, digest, { ...range, ...(signal && { signal }) });
    if (lookup.kind !== "found") return "it is recorded, and not found";
    if (lookup.value.descriptor.size !== size) return `it has ${lookup.value.descriptor.size} bytes instead of ${size}`;
    const hasher = new Hasher(algorithmOf(digest));
    for await (const chunk of contentChunks(lookup.value.content)) {
      signal?.throwIfAborted();
      hasher.update(chunk);
    }
    if (hasher.size !== wanted) return `its bytes end early: ${hasher.size} of ${wanted} could be read`;
    return how === "size" || hasher.digest() === digest ? undefined : "its bytes are others";
  } catch (error) {
    signal?.throwIfAborted();
    return `it cannot be read: ${error instanceof Error ? error.message : String(error)}`;
  }
}
