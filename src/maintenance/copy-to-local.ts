import { LRUCache } from "lru-cache";
import pLimit from "p-limit";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { orThrow } from "../core/lookup.js";
import { followManifest } from "../core/manifest.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { ManifestContent } from "../core/registry.js";
import {
  answered,
  type ContentPlace,
  type InspectableAggregate,
  localState,
  type ManifestReference,
  manifestReferencesOf,
  memberNamed,
  Places,
} from "./availability.js";
import { transfer } from "./blob-transfer.js";
import { BoundedList } from "./bounded-list.js";
import { checkConcurrency } from "./in-parallel.js";
import { ProgressCount } from "./progress-count.js";
import { depthLimit } from "./promotion-plan.js";
import { localManifests } from "./stored-manifests.js";

/**
 * What is copied to local: one image, with its tag if it is named by one; what a repository's stored manifests refer to; that of all repositories; or every tag that a
 * connector lists, as far as the aggregate gives it.
 */
export type CopySelection = { readonly repository: string; readonly reference?: string } | { readonly connector: string } | "all";

export interface CopyToLocalOptions {
  /** Ends it, with the signal's reason. What came stays, and another call goes on from there. */
  readonly signal?: AbortSignal;
  /** Called when something is here, and every few megabytes. */
  readonly progress?: (progress: CopyToLocalProgress) => void;
  /** How many blobs are copied at a time. Default: 3, as docker does. */
  readonly concurrency?: number;
  /** Whether what refers to a manifest by its subject, such as a signature, comes too, from behind connectors that are asked by name. Default: true. */
  readonly referrers?: boolean;
  /** How many failures, and how many warnings, are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

export interface CopyToLocalProgress {
  /** References known so far; more become known with each manifest. */
  readonly items: number;
  /** Those that are here. */
  readonly done: number;
  /** Bytes received from connectors: nothing for what the store already had. */
  readonly bytes: number;
}

/** What could not be copied: something that a manifest refers to, a tag that a connector lists, or all of a repository whose tags it does not list. */
export interface CopyFailure {
  readonly repository: string;
  /** What a manifest refers to. Absent: the tag itself could not be read, or the repository's tags could not be listed. */
  readonly reference?: Descriptor;
  /** A tag that a connector lists. Absent, with `reference` absent too: the repository's tags could not be listed. */
  readonly tag?: string;
  readonly why: string;
}

export interface CopyToLocalReport extends CopyToLocalProgress {
  /** Everything is here: nothing failed, and no listing said that it might lack something. */
  readonly complete: boolean;
  readonly failed: readonly CopyFailure[];
  /** What a connector's listings said of themselves, such as that they are not complete; each once. */
  readonly warnings: readonly string[];
  /** Failures and warnings beyond the limit. */
  readonly omitted: number;
}

/**
 * Copies content to local: everything that manifests refer to is copied from behind connectors into the local registry, verified, so that the connectors can
 * be removed. An image that only a connector has is stored here, with its tag, once all of it is here. What is here is not fetched again.
 *
 * Referrers come too, also those that were added after an image was copied. Manifests that neither a tag, an index nor a subject leads to do not come: no listing has them.
 *
 * The selection says which manifests; {@link ReferenceCopies} copies what each of them refers to.
 *
 * @throws RegistryError MANIFEST_UNKNOWN, or why nobody could be asked, for an image; NAME_UNKNOWN for a connector that is not there or lists nothing;
 *   PRECONDITION_FAILED when somebody else moves an image's tag at the same time; INSUFFICIENT_STORAGE or DENIED when the store or the quota is full; UNKNOWN for a `concurrency` that is no whole number
 *   from 1; the signal's reason. What could not be copied is in the report, a connector's tags that could not be read too.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { copyToLocal } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [] });
 * const { complete, failed } = await copyToLocal(all, "all", { progress: ({ done, items }) => console.log(`${done} of ${items}`) });
 * if (!complete) for (const { repository, tag, reference, why } of failed) console.log(repository, tag ?? reference?.digest, why);
 * ```
 */
export async function copyToLocal(
  aggregate: InspectableAggregate,
  what: CopySelection,
  options: CopyToLocalOptions = {},
): Promise<CopyToLocalReport> {
  const { signal, progress, concurrency = 3, referrers = true, limit = 1000 } = options;
  checkConcurrency(concurrency);
  const counts = new ProgressCount(0, progress);
  const failed = new BoundedList<CopyFailure>(limit);
  const warnings = new BoundedList<string>(limit);
  const copies = new ReferenceCopies(aggregate, {
    concurrency,
    referrers,
    warned: onceEach(warnings),
    ...(signal && { signal }),
    known: () => counts.known(),
    done: () => counts.done(),
    received: (bytes) => counts.received(bytes),
    failed: (repository, reference, why) => failed.add({ repository, reference, why }),
  });
  if (what === "all") await copyStored(aggregate, copies, undefined, signal);
  else if ("connector" in what) await copyConnector(aggregate, copies, what.connector, { signal, failed, warnings });
  else if (what.reference === undefined) await copyStored(aggregate, copies, what.repository, signal);
  else await copyImage(aggregate, copies, what.repository, what.reference, signal);
  return {
    ...counts.counts,
    complete: failed.count === 0 && warnings.count === 0,
    failed: failed.kept,
    warnings: warnings.kept,
    omitted: failed.omitted + warnings.omitted,
  };
}

async function copyStored(
  aggregate: InspectableAggregate,
  copies: ReferenceCopies,
  repository: string | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { local } = aggregate;
  const pages = localManifests(local, { ...(repository !== undefined && { repository }), ...(signal && { signal }) });
  for await (const page of pages) {
    for (const { digest } of page.manifests) {
      signal?.throwIfAborted();
      const lookup = await local.getManifest(page.repository, digest);
      if (lookup.kind === "found") await copies.references(page.repository, lookup.value);
    }
  }
}

interface ConnectorRun {
  readonly signal: AbortSignal | undefined;
  readonly failed: BoundedList<CopyFailure>;
  readonly warnings: BoundedList<string>;
}

async function copyConnector(aggregate: InspectableAggregate, copies: ReferenceCopies, name: string, o: ConnectorRun): Promise<void> {
  const { signal, failed } = o;
  const { byName } = memberNamed(aggregate, name);
  // A connector that is asked only through blob references has no names here.
  if (!byName) return;
  const call = { priority: "background" as const, ...(signal && { signal }) };
  const warned = onceEach(o.warnings);
  const names = allPages(async (page) => orThrow(await byName.listRepositories(page, call), "NAME_UNKNOWN"), undefined, warned);
  for await (const repository of names) {
    if (aggregate.isReserved(repository)) continue;
    const tags = async (page: PageRequest): Promise<Page<string>> => {
      const listed = await answered(() => byName.listTags(repository, page, call));
      if (listed.kind === "found") return listed.value;
      if (listed.kind === "denied" || listed.kind === "unavailable") failed.add({ repository, why: listed.error.message });
      return { items: [] };
    };
    for await (const tag of allPages(tags, undefined, warned)) await copyTag(aggregate, copies, { repository, tag }, o);
  }
}

/** Every page of a listing may say the same. */
function onceEach(list: BoundedList<string>): (warning: string) => void {
  const said = new LRUCache<string, true>({ max: 1000 });
  return (warning) => {
    if (said.has(warning)) return;
    said.set(warning, true);
    list.add(warning);
  };
}

/** The store or the quota is full: it would be so for the next tag, too. */
const endsRun: ReadonlySet<string> = new Set(["INSUFFICIENT_STORAGE", "DENIED"]);

/** One tag of many: where it cannot be had, that is recorded. */
async function copyTag(
  aggregate: InspectableAggregate,
  copies: ReferenceCopies,
  { repository, tag }: { readonly repository: string; readonly tag: string },
  { signal, failed }: ConnectorRun,
): Promise<void> {
  const lookup = await answered(() => aggregate.getManifest(repository, tag, signal ? { signal } : {}));
  if (lookup.kind !== "found") {
    const why =
      "error" in lookup && lookup.error ? lookup.error.message : "it is listed, but cannot be had: it was deleted, or it is damaged there";
    failed.add({ repository, tag, why });
    return;
  }
  try {
    await store(aggregate, copies, repository, tag, lookup.value);
  } catch (error) {
    if (!isRegistryError(error) || endsRun.has(error.code)) throw error;
    // Somebody pushed this tag here meanwhile: it is here, and theirs.
    if (error.code !== "PRECONDITION_FAILED") failed.add({ repository, tag, why: error.message });
  }
}

async function copyImage(
  aggregate: InspectableAggregate,
  copies: ReferenceCopies,
  repository: string,
  reference: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const content = orThrow(await aggregate.getManifest(repository, reference, signal ? { signal } : {}));
  await store(aggregate, copies, repository, reference, content);
}

async function store(
  { local }: InspectableAggregate,
  copies: ReferenceCopies,
  repository: string,
  reference: string,
  content: ManifestContent,
): Promise<void> {
  const { digest } = content.descriptor;
  const before = await local.resolveManifest(repository, reference);
  const complete = await copies.references(repository, content);
  if (!complete || (before.kind === "found" && before.value.digest === digest)) return;
  const { bytes, descriptor } = content;
  const unchanged = before.kind === "found" ? { ifMatch: before.value.digest } : { ifNoneMatch: "*" as const };
  await local.putManifest(repository, reference, { bytes, mediaType: descriptor.mediaType }, unchanged);
}

interface ReferenceCopiesOptions {
  readonly signal?: AbortSignal;
  readonly concurrency: number;
  /** A reference has become known, in whichever state. */
  known(): void;
  /** A reference is here. */
  done(): void;
  received(bytes: number): void;
  failed(repository: string, reference: Descriptor, why: string): void;
  /** Whether referrers are copied. */
  readonly referrers: boolean;
  /** A listing of referrers may lack some, or there is none. */
  warned(warning: string): void;
}

const referrersAtOnce = 100;

/** So many references are remembered as looked after. */
const remembered = 100_000;

/** Copies what manifests refer to into the local registry, each reference once, verified, from whichever member gives it. */
class ReferenceCopies {
  readonly #aggregate: InspectableAggregate;
  readonly #places: Places;
  readonly #o: ReferenceCopiesOptions;
  readonly #limit: ReturnType<typeof pLimit>;
  readonly #outcomes = new LRUCache<string, Promise<boolean>>({ max: remembered });

  constructor(aggregate: InspectableAggregate, options: ReferenceCopiesOptions) {
    this.#aggregate = aggregate;
    this.#places = new Places(aggregate);
    this.#o = options;
    this.#limit = pLimit(options.concurrency);
  }

  /**
   * Copies its referrers, too: an image is whole without them.
   *
   * @returns whether everything the manifest refers to is here now.
   */
  async references(repository: string, content: ManifestContent, depth = 0): Promise<boolean> {
    const all = await this.#needed(repository, content, depth);
    if (this.#o.referrers && depth < depthLimit) await this.#referrers(repository, content.descriptor.digest, depth + 1);
    return all;
  }

  async #needed(repository: string, { bytes, descriptor }: ManifestContent, depth: number): Promise<boolean> {
    const references = manifestReferencesOf(followManifest(bytes, descriptor.mediaType));
    const blobs = await Promise.all(
      references.flatMap((reference) => (reference.as === "blob" ? [this.#once(repository, reference, depth)] : [])),
    );
    let all = blobs.every(Boolean);
    // One after the other: each holds a manifest in memory while what it refers to is copied.
    for (const reference of references)
      if (reference.as === "manifest" && !(await this.#once(repository, reference, depth + 1))) all = false;
    return all;
  }

  /** A subject need not be here for its referrers to be stored, nor they for it. */
  async #referrers(repository: string, subject: string, depth: number): Promise<void> {
    const { signal, warned } = this.#o;
    // The local ones are here, with all that they need.
    if (this.#places.named(repository).length === 0) return;
    const call = { priority: "background" as const, ...(signal && { signal }) };
    const list = async (page: PageRequest): Promise<Page<Descriptor>> => {
      signal?.throwIfAborted();
      const listed = await answered(() => this.#aggregate.listReferrers(repository, subject, page, call));
      if (listed.kind === "found") return listed.value;
      if (listed.kind === "denied" || listed.kind === "unavailable")
        warned(`the referrers of ${subject} in ${repository} could not be listed: ${listed.error.message}`);
      return { items: [] };
    };
    for await (const { mediaType, digest, size } of allPages(list, referrersAtOnce, warned))
      await this.#once(repository, { as: "manifest", descriptor: { mediaType, digest, size } }, depth);
  }

  #once(repository: string, reference: ManifestReference, depth: number): Promise<boolean> {
    const key = `${repository} ${reference.as} ${reference.descriptor.digest}`;
    const known = this.#outcomes.get(key);
    if (known) return known;
    this.#o.known();
    const outcome = this.#copy(repository, reference, depth);
    this.#outcomes.set(key, outcome);
    return outcome;
  }

  async #copy(repository: string, reference: ManifestReference, depth: number): Promise<boolean> {
    const { signal, done } = this.#o;
    signal?.throwIfAborted();
    const { here, origin, as } = await localState(this.#aggregate.local, repository, reference, { priority: "background" });
    if (as === "manifest") return this.#manifest(repository, reference.descriptor, here, depth);
    if (here) {
      done();
      return true;
    }
    return this.#limit(() => this.#blob(repository, reference.descriptor, this.#places.of(repository, origin)));
  }

  async #blob(repository: string, descriptor: Descriptor, places: readonly ContentPlace[]): Promise<boolean> {
    const { local } = this.#aggregate;
    const { signal, received, done, failed } = this.#o;
    const call = signal ? { signal } : {};
    signal?.throwIfAborted();
    // Whoever has it still has to confirm that. Then the bytes that others have put into the same store will do.
    if (await local.holdsBlob(descriptor.digest)) {
      for (const { registry, repository: there } of places) {
        const mounted = await local.mountBlob(repository, descriptor.digest, { registry, repository: there }, call);
        if (mounted) {
          done();
          return true;
        }
      }
    }
    const outcome = await transfer(places, descriptor, { ...call, received }, (source) =>
      local.putBlob(repository, descriptor, source, call),
    );
    if (outcome.kind === "done") done();
    else failed(repository, descriptor, outcome.why);
    return outcome.kind === "done";
  }

  async #manifest(repository: string, descriptor: Descriptor, here: boolean, depth: number): Promise<boolean> {
    const { done, failed } = this.#o;
    const content = here ? await this.#stored(repository, descriptor) : await this.#limit(() => this.#fetched(repository, descriptor));
    if (typeof content === "string") {
      failed(repository, descriptor, content);
      return false;
    }
    const complete = await this.references(repository, content, depth);
    if (here) {
      done();
      return complete;
    }
    const refused = complete ? await this.#store(repository, { ...content, descriptor }) : "not all it refers to could be copied";
    if (refused === undefined) done();
    else failed(repository, descriptor, refused);
    return refused === undefined;
  }

  /** @returns why it was refused. */
  async #store(repository: string, { bytes, descriptor }: ManifestContent): Promise<string | undefined> {
    try {
      await this.#aggregate.local.putManifest(repository, descriptor.digest, { bytes, mediaType: descriptor.mediaType });
      return undefined;
    } catch (error) {
      if (isRegistryError(error)) return error.message;
      throw error;
    }
  }

  async #stored(repository: string, { digest }: Descriptor): Promise<ManifestContent | string> {
    const lookup = await this.#aggregate.local.getManifest(repository, digest);
    return lookup.kind === "found" ? lookup.value : "it was deleted meanwhile";
  }

  async #fetched(repository: string, { digest }: Descriptor): Promise<ManifestContent | string> {
    const { signal } = this.#o;
    const reasons: string[] = [];
    const call = { priority: "background" as const, ...(signal && { signal }) };
    for (const { member, registry, repository: there } of this.#places.named(repository)) {
      signal?.throwIfAborted();
      const lookup = await answered(() => registry.getManifest(there, digest, call));
      if (lookup.kind === "denied" || lookup.kind === "unavailable") reasons.push(`${member}: ${lookup.error.message}`);
      else if (lookup.kind !== "found") reasons.push(`${member} does not have it`);
      else if (digestOf(lookup.value.bytes, algorithmOf(digest)) !== digest) reasons.push(`${member} gives other bytes`);
      else return lookup.value;
    }
    return reasons.join("; ") || "no connector may be asked for it";
  }
}
