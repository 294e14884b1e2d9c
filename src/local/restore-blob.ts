import { randomBytes } from "node:crypto";
import { algorithmOf, type Digest, Hasher } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { recordKey } from "../core/records.js";
import type { CallOptions } from "../core/registry.js";
import { makeRoom } from "../core/room.js";
import { digestMismatch } from "./blob-intake.js";
import { notLeftover } from "./leftovers.js";
import type { Partition } from "./partition.js";

/**
 * New bytes for a blob whose own are lost. A push cannot do that: it finds the record and makes use of what is not there. When the record has changed
 * meanwhile, somebody else has stored or condemned the blob, and the new bytes are given up.
 */
export async function restoreBlob(
  { blobs, metadata, clock }: Partition,
  { digest, size }: { readonly digest: Digest; readonly size: number },
  source: AsyncIterable<Uint8Array>,
  o?: CallOptions,
): Promise<void> {
  const key = recordKey.blob(digest);
  const lost = await metadata.get(key);
  if (!lost || lost.value.condemned) throw new RegistryError("BLOB_UNKNOWN", `no bytes of ${digest} are recorded: upload them`);
  const hasher = new Hasher(algorithmOf(digest));
  const staged = await blobs.stage(randomBytes(16).toString("hex"));
  try {
    await staged.append(hashed(source, hasher, { digest, size }), {
      ...(o?.signal && { signal: o.signal }),
      makeRoom: () => makeRoom(blobs, size),
    });
    if (hasher.size !== size) throw wrongSize(digest, size);
    if (hasher.digest() !== digest) throw digestMismatch(digest);
    const location = await staged.commit(digest);
    const restored = await metadata.commit(
      [{ key, is: "version", version: lost.version }, notLeftover(location)],
      [{ put: key, value: { location, size, committedAt: clock.now() } }],
    );
    await blobs.delete(restored ? lost.value.location : location);
  } finally {
    await staged.abort();
  }
}

async function* hashed(
  source: AsyncIterable<Uint8Array>,
  hasher: Hasher,
  { digest, size }: { readonly digest: Digest; readonly size: number },
): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    hasher.update(chunk);
    if (hasher.size > size) throw wrongSize(digest, size);
    yield chunk;
  }
}

function wrongSize(digest: Digest, size: number): RegistryError {
  return new RegistryError("SIZE_INVALID", `the source does not give the ${size} bytes of ${digest}`);
}
