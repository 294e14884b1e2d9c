import { LRUCache } from "lru-cache";
import { contentChunks } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, Hasher } from "../core/digest.js";
import { errorText } from "../core/errors.js";
import type { Origin, ReferencedBlob } from "../core/lookup.js";
import type { BlobReference, StoringRegistry } from "../core/storing-registry.js";
import { askPlaces, type InspectableAggregate, Places } from "./availability.js";
import { transfer } from "./blob-transfer.js";
import { BoundedList } from "./bounded-list.js";
import { checkConcurrency, inParallel } from "./in-parallel.js";
import { parseCursor, repositories } from "./stored-manifests.js";

export interface RepairOptions {
  /** Ends it, with the signal's reason. What was repaired stays; the last progress says where to go on. */
  readonly signal?: AbortSignal;
  /** Called after every page of blobs. */
  readonly progress?: (progress: RepairProgress) => void;
  /** Goes on behind this place, as progress gave it. */
  readonly after?: string;
  /** `size` (default): the end of each blob is read. `content`: all of it, which also finds bytes that have changed. */
  readonly check?: "size" | "content";
  /** How many blobs are looked at or fetched at a time. Default: 3. */
  readonly concurrency?: number;
  /** How many of each list are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

export interface LostBlob {
  readonly repository: string;
  readonly blob: ReferencedBlob;
  readonly origin?: Origin;
  /** What was wrong with it, and why it could not be repaired. */
  readonly why: string;
}

export interface RepairReport {
  /** Blob references of repositories. */
  readonly checked: number;
  /** Blobs that were fetched, and blobs whose own bytes are back and in use again. */
  readonly repaired: number;
  /** Bytes received. */
  readonly bytes: number;
  /** Nobody who may be asked gives these. */
  readonly lost: readonly LostBlob[];
  /** Their origin could not be asked. */
  readonly unknown: readonly LostBlob[];
  /** Entries of both lists beyond the limit. */
  readonly omitted: number;
}

export interface RepairProgress extends RepairReport {
  /** Pass it as `after` to go on from here. */
  readonly after: string;
}

const pageSize = 200;
/** So many digests are remembered as whole: a blob is read once, not for each repository that refers to it. */
const remembered = 100_000;

/**
 * Finds blobs that a repository refers to and that are lost, since their bytes are gone from the store or their origin no longer gives them, and fetches them
 * from any member that may be asked for them under that name. What is fetched is verified. Repositories are those of the catalog, which have manifests.
 *
 * @throws the signal's reason; RegistryError INSUFFICIENT_STORAGE when the store is full, NAME_INVALID for a malformed `after`, UNKNOWN for a `concurrency`
 *   that is no whole number from 1.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { repair } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [] });
 * const { repaired, lost } = await repair(all, { check: "content" });
 * for (const { repository, blob, why } of lost) console.log(repository, blob.digest, why);
 * console.log(`${repaired} blobs were repaired`);
 * ```
 */
export async function repair(aggregate: InspectableAggregate, options: RepairOptions = {}): Promise<RepairReport> {
  const { signal, progress, concurrency = 3 } = options;
  checkConcurrency(concurrency);
  const run = new RepairRun(aggregate, options);
  for await (const { repository, references, cursor } of blobReferencePages(aggregate.local, options.after, signal)) {
    await inParallel(references, { concurrency, signal }, (reference, ended) => run.look(repository, reference, ended));
    progress?.({ ...run.report(), after: cursor });
  }
  return run.report();
}

class RepairRun {
  readonly #local: StoringRegistry;
  readonly #places: Places;
  readonly #check: "size" | "content";
  readonly #whole = new LRUCache<string, true>({ max: remembered });
  readonly #counts = { checked: 0, repaired: 0, bytes: 0 };
  readonly #lost: BoundedList<LostBlob>;
  readonly #unknown: BoundedList<LostBlob>;

  constructor(aggregate: InspectableAggregate, options: RepairOptions) {
    this.#local = aggregate.local;
    this.#places = new Places(aggregate);
    this.#check = options.check ?? "size";
    this.#lost = new BoundedList(options.limit ?? 1000);
    this.#unknown = new BoundedList(options.limit ?? 1000);
  }

  report(): RepairReport {
    const [lost, unknown] = [this.#lost, this.#unknown];
    return { ...this.#counts, lost: [...lost.kept], unknown: [...unknown.kept], omitted: lost.omitted + unknown.omitted };
  }

  async look(repository: string, { descriptor, origin }: BlobReference, signal: AbortSignal): Promise<void> {
    this.#counts.checked++;
    if (origin) return this.#lookAtOrigin(repository, descriptor, origin, signal);
    if (this.#whole.has(descriptor.digest)) return;
    const here = await this.#local.resolveBlob(repository, descriptor.digest, { priority: "background" });
    const recorded = here.kind === "found" ? here.value : undefined;
    if (!recorded && (await this.#local.readoptBlob(descriptor.digest, { signal }))) {
      this.#counts.repaired++;
      this.#whole.set(descriptor.digest, true);
      return;
    }
    const why = recorded ? await whyLost(this.#local, repository, recorded, this.#check, signal) : "no bytes of it are recorded";
    if (why === undefined) {
      this.#whole.set(descriptor.digest, true);
      return;
    }
    await this.#fetch(repository, descriptor, { why, ...(recorded && { recorded }) }, signal);
  }

  async #lookAtOrigin(repository: string, blob: ReferencedBlob, origin: Origin, signal: AbortSignal): Promise<void> {
    const places = this.#places.of(repository, origin).filter(({ member }) => member === origin.member);
    const call = { priority: "background" as const, signal };
    const answer = await askPlaces(places, { descriptor: blob, as: "blob" }, call);
    if (answer.kind === "given") return;
    const why = places.length === 0 ? `its origin ${origin.member} is no connector here` : answer.why;
    if (answer.kind === "unknown") this.#unknown.add({ repository, blob, origin, why });
    else await this.#fetch(repository, blob, { origin, why }, signal);
  }

  /** @param loss.recorded the store has a record of the blob that leads nowhere: a push would believe it. */
  async #fetch(
    repository: string,
    blob: ReferencedBlob,
    { origin, why, recorded }: { readonly origin?: Origin; readonly why: string; readonly recorded?: Descriptor },
    signal: AbortSignal,
  ): Promise<void> {
    const call = { signal };
    const received = (bytes: number) => {
      this.#counts.bytes += bytes;
    };
    const outcome = await transfer(this.#places.of(repository, origin), blob, { ...call, received }, (source) =>
      recorded ? this.#local.restoreBlob(recorded, source, call) : this.#local.putBlob(repository, { digest: blob.digest }, source, call),
    );
    if (outcome.kind === "failed") {
      this.#lost.add({ repository, blob, ...(origin && { origin }), why: `${why}; ${outcome.why}` });
      return;
    }
    this.#counts.repaired++;
    this.#whole.set(blob.digest, true);
  }
}

async function* blobReferencePages(
  local: StoringRegistry,
  from: string | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ repository: string; references: readonly BlobReference[]; cursor: string }> {
  const start = from === undefined ? undefined : parseCursor(from);
  for await (const repository of repositories(local, undefined, start?.repository)) {
    let after: string | undefined = repository === start?.repository ? start.digest : undefined;
    do {
      signal?.throwIfAborted();
      const { items, next } = await local.listBlobReferences(repository, { limit: pageSize, ...(after !== undefined && { after }) });
      const last = next ?? items.at(-1)?.descriptor.digest;
      if (last !== undefined) yield { repository, references: items, cursor: `${repository}@${last}` };
      after = next;
    } while (after !== undefined);
  }
}

/**
 * Why a blob that the records call stored cannot be served; `undefined` when it can.
 * @param how `size`: its last byte can be read. `content`: all of it is read and hashed.
 */
async function whyLost(
  local: StoringRegistry,
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
    return `it cannot be read: ${errorText(error)}`;
  }
}
