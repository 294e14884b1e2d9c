import type { ForeignBytes, Staged } from "../core/blob-store.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, Hasher, parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { parseRepositoryName } from "../core/name.js";
import { largePiece, paced } from "../core/pace.js";
import { recordKey } from "../core/records.js";
import type { CallOptions } from "../core/registry.js";
import { makeRoom } from "../core/room.js";
import type { BlobIntake } from "./blob-intake.js";
import type { Partition } from "./partition.js";

export interface TakeBlobOptions extends CallOptions {
  /** Default: true, all bytes are read back and hashed before anybody can see them. `false`: the caller vouches for digest and size. */
  readonly verify?: boolean;
  /** Told of every chunk that was read to verify. */
  readonly read?: (bytes: number) => void;
}

/**
 * Makes bytes that another program keeps a blob of a repository, by what the store can do itself. For everybody else it is a push: quota, bytes that are here already,
 * condemnation and pushes of the same at the same time are the same to it.
 */
export async function takeBlob(
  partition: Partition,
  intake: BlobIntake,
  repository: string,
  expected: { readonly digest: string; readonly size: number },
  source: ForeignBytes,
  o: TakeBlobOptions = {},
): Promise<Descriptor | undefined> {
  parseRepositoryName(repository);
  const digest = parseDigest(expected.digest);
  const { size } = expected;
  o.signal?.throwIfAborted();
  await partition.quota?.admit(repository, digest, size);
  const location = await copied(partition, source, digest, size);
  if (location === undefined) return undefined;
  const staged = new TakenBytes(partition, location, digest, size);
  try {
    // Read from where they are now: whatever was changed or exchanged at the source before or meanwhile is seen.
    if (o.verify ?? true) await verified(partition, location, digest, size, o);
    o.signal?.throwIfAborted();
    return await intake.adopt(repository, digest, staged, { hashed: true });
  } catch (error) {
    // The failure that came first is the one to tell; bytes that nothing refers to are garbage.
    if (!intake.mayBeRecorded(staged)) await staged.abort().catch(() => {});
    throw error;
  }
}

async function copied({ blobs }: Partition, source: ForeignBytes, digest: Digest, size: number): Promise<string | undefined> {
  for (;;) {
    try {
      return await blobs.copyFrom?.(source, digest);
    } catch (error) {
      if (!isRegistryError(error) || error.code !== "INSUFFICIENT_STORAGE" || !(await makeRoom(blobs, size))) throw error;
    }
  }
}

async function verified({ blobs }: Partition, location: string, digest: Digest, size: number, o: TakeBlobOptions): Promise<void> {
  const hasher = new Hasher(algorithmOf(digest));
  try {
    for await (const chunk of paced(blobs.read(location), largePiece)) {
      o.signal?.throwIfAborted();
      hasher.update(chunk);
      o.read?.(chunk.byteLength);
    }
  } catch (error) {
    o.signal?.throwIfAborted();
    if (isRegistryError(error)) throw error;
    // A link to a file on a bad disk, for example.
    throw new RegistryError("UNKNOWN", `the bytes of ${digest} cannot be read: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    });
  }
  if (hasher.digest() !== digest) throw new RegistryError("DIGEST_INVALID", `the bytes at the source are not ${digest}`);
  if (hasher.size !== size) throw new RegistryError("SIZE_INVALID", `${digest} has ${hasher.size} bytes at the source instead of ${size}`);
}

/** Bytes that are in their place before anything refers to them. */
class TakenBytes implements Staged {
  readonly #in: Partition;
  readonly #location: string;
  readonly #digest: Digest;
  readonly size: number;
  readonly state = {};

  constructor(partition: Partition, location: string, digest: Digest, size: number) {
    this.#in = partition;
    this.#location = location;
    this.#digest = digest;
    this.size = size;
  }

  async append(): Promise<void> {
    throw new RegistryError("UNSUPPORTED", "bytes that were taken from elsewhere are whole");
  }

  async commit(): Promise<string> {
    return this.#location;
  }

  /** A commit of records may have been carried out although it failed: then they are in use. */
  async abort(): Promise<void> {
    const recorded = await this.#in.metadata.get(recordKey.blob(this.#digest));
    if (recorded?.value.location !== this.#location) await this.#in.blobs.delete(this.#location);
  }
}
