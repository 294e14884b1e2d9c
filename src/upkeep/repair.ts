import { LRUCache } from "lru-cache";
import pLimit from "p-limit";
import type { Descriptor } from "../core/descriptor.js";
import type { Origin } from "../core/lookup.js";
import type { BlobLink, LinkingRegistry } from "../core/registry.js";
import { type Auditable, Places } from "./auditable.js";
import { askPlaces } from "./availability.js";
import { whyLost } from "./blob-check.js";
import { transfer } from "./blob-transfer.js";
import { parseCursor, repositories } from "./local-manifests.js";

export interface RepairOptions {
  /** Ends it, with the signal's reason. What was repaired stays; what progress told last says where to go on. */
  readonly signal?: AbortSignal;
  /** Told after every page of blobs. */
  readonly progress?: (progress: RepairProgress) => void;
  /** Goes on behind this place, as progress told it. */
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
  readonly blob: Descriptor;
  readonly origin?: Origin;
  /** What was wrong with it, and why it could not be repaired. */
  readonly why: string;
}

export interface RepairReport {
  /** Claims of repositories to blobs. */
  readonly checked: number;
  readonly repaired: number;
  /** Bytes received. */
  readonly bytes: number;
  /** Nobody who may be asked gives these. */
  readonly lost: readonly LostBlob[];
  /** Their origin could not be asked. */
  readonly unknown: readonly LostBlob[];
  readonly omitted: number;
}

export interface RepairProgress extends RepairReport {
  readonly after: string;
}

const pageSize = 200;
/** So many digests are remembered as whole: a blob is read once, not for each repository that claims it. */
const remembered = 100_000;

/**
 * Finds blobs that a repository claims and that are lost, since their bytes are gone from the store or their origin no longer gives them, and brings them
 * from any member that may be asked for them under that name. What is brought is verified. Repositories are those of the catalog, which have manifests.
 *
 * @throws the signal's reason; RegistryError INSUFFICIENT_STORAGE when the store is full.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry, repair } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [] });
 * const { repaired, lost } = await repair(all, { check: "content" });
 * for (const { repository, blob, why } of lost) console.log(repository, blob.digest, why);
 * console.log(`${repaired} blobs were repaired`);
 * ```
 */
export async function repair(aggregate: Auditable, options: RepairOptions = {}): Promise<RepairReport> {
  const { signal, progress, concurrency = 3 } = options;
  const limited = pLimit(concurrency);
  const run = new RepairRun(aggregate, options);
  for await (const { repository, links, cursor } of linkPages(aggregate.local, options.after, signal)) {
    await Promise.all(links.map((link) => limited(() => run.look(repository, link))));
    progress?.({ ...run.report(), after: cursor });
  }
  return run.report();
}

class RepairRun {
  readonly #local: LinkingRegistry;
  readonly #places: Places;
  readonly #o: RepairOptions;
  readonly #whole = new LRUCache<string, true>({ max: remembered });
  readonly #told = { checked: 0, repaired: 0, bytes: 0, omitted: 0 };
  readonly #lost: LostBlob[] = [];
  readonly #unknown: LostBlob[] = [];

  constructor(aggregate: Auditable, options: RepairOptions) {
    this.#local = aggregate.local;
    this.#places = new Places(aggregate);
    this.#o = options;
  }

  report(): RepairReport {
    return { ...this.#told, lost: [...this.#lost], unknown: [...this.#unknown] };
  }

  async look(repository: string, { descriptor, origin }: BlobLink): Promise<void> {
    const { signal, check = "size" } = this.#o;
    signal?.throwIfAborted();
    this.#told.checked++;
    if (origin) return this.#lookAtOrigin(repository, descriptor, origin);
    if (this.#whole.has(descriptor.digest)) return;
    const recorded = (await this.#local.resolveBlob(repository, descriptor.digest, { priority: "background" })).kind === "found";
    const why = recorded ? await whyLost(this.#local, repository, descriptor, check, signal) : "no bytes of it are recorded";
    if (why === undefined) {
      this.#whole.set(descriptor.digest, true);
      return;
    }
    await this.#fetch(repository, descriptor, undefined, why, recorded);
  }

  async #lookAtOrigin(repository: string, blob: Descriptor, origin: Origin): Promise<void> {
    const { signal } = this.#o;
    const places = this.#places.of(repository, origin).filter(({ member }) => member === origin.member);
    const call = { priority: "background" as const, ...(signal && { signal }) };
    const answer = await askPlaces(places, { descriptor: blob, as: "blob" }, call);
    if (answer.kind === "given") return;
    const why = places.length === 0 ? `its origin ${origin.member} is no connector here` : answer.why;
    if (answer.kind === "unknown") this.#keep(this.#unknown, { repository, blob, origin, why });
    else await this.#fetch(repository, blob, origin, why, false);
  }

  /** @param recorded the store's record of the blob leads nowhere: a push would believe it. */
  async #fetch(repository: string, blob: Descriptor, origin: Origin | undefined, why: string, recorded: boolean): Promise<void> {
    const { signal } = this.#o;
    const call = signal ? { signal } : {};
    const received = (bytes: number) => {
      this.#told.bytes += bytes;
    };
    const outcome = await transfer(this.#places.of(repository, origin), blob, { ...call, received }, (source) =>
      recorded ? this.#local.restoreBlob(blob, source, call) : this.#local.putBlob(repository, blob, source, call),
    );
    if (outcome.kind === "failed") {
      this.#keep(this.#lost, { repository, blob, ...(origin && { origin }), why: `${why}; ${outcome.why}` });
      return;
    }
    this.#told.repaired++;
    this.#whole.set(blob.digest, true);
  }

  #keep(list: LostBlob[], lost: LostBlob): void {
    if (list.length < (this.#o.limit ?? 1000)) list.push(lost);
    else this.#told.omitted++;
  }
}

async function* linkPages(
  local: LinkingRegistry,
  from: string | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ repository: string; links: readonly BlobLink[]; cursor: string }> {
  const start = from === undefined ? undefined : parseCursor(from);
  for await (const repository of repositories(local, undefined, start?.repository)) {
    let after: string | undefined = repository === start?.repository ? start.digest : undefined;
    do {
      signal?.throwIfAborted();
      const { items, next } = await local.listLinks(repository, { limit: pageSize, ...(after !== undefined && { after }) });
      const last = next ?? items.at(-1)?.descriptor.digest;
      if (last !== undefined) yield { repository, links: items, cursor: `${repository}@${last}` };
      after = next;
    } while (after !== undefined);
  }
}
