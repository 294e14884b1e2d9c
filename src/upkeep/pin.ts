import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError } from "../core/errors.js";
import { orThrow } from "../core/lookup.js";
import { allPages } from "../core/page.js";
import { type Auditable, memberNamed } from "./auditable.js";
import { BoundedList } from "./bounded-list.js";
import { Bring } from "./bring.js";
import { checkConcurrency } from "./in-parallel.js";
import { localManifests } from "./local-manifests.js";
import { ProgressCount } from "./progress-count.js";

/**
 * What is brought home: one image, with its tag if it is named by one; what a repository's stored manifests refer to; that of all repositories; or every tag that a
 * connector lists, as far as the aggregate gives it.
 */
export type Pinned = { readonly repository: string; readonly reference?: string } | { readonly connector: string } | "all";

export interface PinOptions {
  /** Ends it, with the signal's reason. What came stays, and another call goes on from there. */
  readonly signal?: AbortSignal;
  /** Told when something is here, and every few megabytes. */
  readonly progress?: (progress: PinProgress) => void;
  /** How many blobs are copied at a time. Default: 3, as docker does. */
  readonly concurrency?: number;
  /** How many failures are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

export interface PinProgress {
  /** References known so far; more become known with each manifest. */
  readonly items: number;
  /** Those that are here. */
  readonly done: number;
  /** Bytes received from connectors: nothing for what the store already had. */
  readonly bytes: number;
}

export interface PinFailure {
  readonly repository: string;
  readonly reference: Descriptor;
  readonly why: string;
}

export interface PinReport extends PinProgress {
  /** Everything is here. */
  readonly complete: boolean;
  readonly failed: readonly PinFailure[];
  /** Failures beyond the limit. */
  readonly omitted: number;
}

/**
 * Brings content home: everything that manifests refer to is copied from behind connectors into the local registry, verified, so that the connectors can
 * be removed. An image that only a connector has is stored here, with its tag, once all of it is here. What is here is not fetched again.
 *
 * @throws RegistryError MANIFEST_UNKNOWN, or why nobody could be asked, for an image; NAME_UNKNOWN for a connector that is not there or lists nothing;
 *   PRECONDITION_FAILED when somebody else moves an image's tag at the same time; UNKNOWN for a `concurrency` that is no whole number from 1; the signal's reason. What could not be brought is in the report.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry, pin } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [] });
 * const { complete, failed } = await pin(all, "all", { progress: ({ done, items }) => console.log(`${done} of ${items}`) });
 * if (!complete) for (const { repository, reference, why } of failed) console.log(repository, reference.digest, why);
 * ```
 */
export async function pin(aggregate: Auditable, what: Pinned, options: PinOptions = {}): Promise<PinReport> {
  const { signal, progress, concurrency = 3, limit = 1000 } = options;
  checkConcurrency(concurrency);
  const told = new ProgressCount(0, progress);
  const failed = new BoundedList<PinFailure>(limit);
  const bring = new Bring(aggregate, {
    concurrency,
    ...(signal && { signal }),
    known: () => told.known(),
    done: () => told.done(),
    received: (bytes) => told.received(bytes),
    failed: (repository, reference, why) => failed.add({ repository, reference, why }),
  });
  if (what === "all") await pinStored(aggregate, bring, undefined, signal);
  else if ("connector" in what) await pinConnector(aggregate, bring, what.connector, signal);
  else if (what.reference === undefined) await pinStored(aggregate, bring, what.repository, signal);
  else await pinImage(aggregate, bring, what.repository, what.reference, signal);
  return { ...told.counts, complete: failed.count === 0, failed: failed.kept, omitted: failed.omitted };
}

async function pinStored(
  aggregate: Auditable,
  bring: Bring,
  repository: string | undefined,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { local } = aggregate;
  const pages = localManifests(local, { ...(repository !== undefined && { repository }), ...(signal && { signal }) });
  for await (const page of pages) {
    for (const { digest } of page.manifests) {
      signal?.throwIfAborted();
      const lookup = await local.getManifest(page.repository, digest);
      if (lookup.kind === "found") await bring.references(page.repository, lookup.value);
    }
  }
}

async function pinConnector(aggregate: Auditable, bring: Bring, name: string, signal: AbortSignal | undefined): Promise<void> {
  const { byName } = memberNamed(aggregate, name);
  // A connector that is asked only through links has no names here.
  if (!byName) return;
  const call = { priority: "background" as const, ...(signal && { signal }) };
  const names = allPages(async (page) => orThrow(await byName.listRepositories(page, call), "NAME_UNKNOWN"));
  for await (const repository of names) {
    if (aggregate.isReserved(repository)) continue;
    const tags = allPages(async (page) => {
      const listed = await byName.listTags(repository, page, call);
      return listed.kind === "absent" ? { items: [] } : orThrow(listed, "NAME_UNKNOWN");
    });
    for await (const tag of tags) {
      try {
        await pinImage(aggregate, bring, repository, tag, signal);
      } catch (error) {
        // Deleted since it was listed, or pushed here meanwhile.
        if (!isRegistryError(error) || (error.code !== "MANIFEST_UNKNOWN" && error.code !== "PRECONDITION_FAILED")) throw error;
      }
    }
  }
}

async function pinImage(
  aggregate: Auditable,
  bring: Bring,
  repository: string,
  reference: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { local } = aggregate;
  const content = orThrow(await aggregate.getManifest(repository, reference, signal ? { signal } : {}));
  const { digest } = content.descriptor;
  const before = await local.resolveManifest(repository, reference);
  const complete = await bring.references(repository, content);
  if (!complete || (before.kind === "found" && before.value.digest === digest)) return;
  const { bytes, descriptor } = content;
  const unchanged = before.kind === "found" ? { ifMatch: before.value.digest } : { ifNoneMatch: "*" as const };
  await local.putManifest(repository, reference, { bytes, mediaType: descriptor.mediaType }, unchanged);
}
