import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { orThrow } from "../core/lookup.js";
import type { CallOptions, PutManifestOptions, Registry } from "../core/registry.js";
import type { Promotion, StoringRegistry } from "../core/storing-registry.js";
import { transfer } from "./blob-transfer.js";
import { checkConcurrency, inParallel } from "./in-parallel.js";
import { ProgressCount } from "./progress-count.js";
import { type PromotionPlan, planPromotion } from "./promotion-plan.js";
import { latestOf, localOf, type PromotionTarget } from "./promotions.js";

export interface PromoteOptions {
  /** The same name on both sides, or one for each. */
  readonly repository: string | { readonly from: string; readonly to: string };
  readonly tags: readonly string[];
  /** Signatures, attestations and the like go along. Default: false. */
  readonly referrers?: boolean;
  /** `os/architecture` or `os/architecture/variant`: only these children of an index go along. Needs a target that is `sparse`. Default: all. */
  readonly platforms?: readonly string[];
  /** Who promotes, for the record. */
  readonly by: string;
  /** Why, for the record. */
  readonly comment?: string;
  /** Ends it, with the signal's reason. Tags that were put stay; another call goes on from there. */
  readonly signal?: AbortSignal;
  /** Told when something is in the target, and every few megabytes. */
  readonly progress?: (progress: PromoteProgress) => void;
  /** How many blobs are looked at or copied at a time. Default: 4. */
  readonly concurrency?: number;
}

export interface PromoteProgress {
  /** Blobs, manifests and tags. */
  readonly items: number;
  /** Those that are in the target. */
  readonly done: number;
  /** Bytes copied: nothing between registries that share a store. */
  readonly bytes: number;
}

export interface PromoteReport extends PromoteProgress {
  /** One for each tag that moved; a tag that pointed there already is not among them. */
  readonly promoted: readonly Promotion[];
}

/**
 * Puts images of one registry into another one: blobs without copying where both share a store, manifests byte for byte, each tag last, and only if it still
 * points to what it pointed to at the beginning. Each promotion is recorded in the target; {@link promotions} lists them.
 *
 * @throws RegistryError MANIFEST_UNKNOWN or MANIFEST_BLOB_UNKNOWN when the source lacks something, before anything is written; UNSUPPORTED for `platforms` of
 *   an index whose other children a target that is not sparse would miss; PRECONDITION_FAILED when somebody else moved a tag;
 *   UNAVAILABLE when a blob cannot be copied; UNKNOWN for a `concurrency` that is no whole number from 1; the signal's reason.
 *
 * @example
 * ```ts
 * import { localRegistry, mediaTypes } from "oci-manifold";
 * import { chunksOf, digestOf } from "oci-manifold/extend";
 * import { promote, promotions } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const staging = localRegistry({ storage, name: "staging" });
 * const release = localRegistry({ storage, name: "release" });
 * const bytes = Buffer.from("{}");
 * const config = { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(bytes), size: 2 };
 * await staging.putBlob("team/app", config, chunksOf(bytes));
 * const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [] };
 * await staging.putManifest("team/app", "1.4.0", { bytes: Buffer.from(JSON.stringify(manifest)) });
 *
 * await promote(staging, release, { repository: "team/app", tags: ["1.4.0"], by: "ana", comment: "passed all tests" });
 * const { items } = await promotions(release, "team/app", { limit: 10 });
 * console.log(items[0]?.by, items[0]?.digest);
 * ```
 */
export async function promote(from: Registry, to: PromotionTarget, options: PromoteOptions): Promise<PromoteReport> {
  const { repository, signal, concurrency = 4 } = options;
  checkConcurrency(concurrency);
  const names = typeof repository === "string" ? { from: repository, to: repository } : repository;
  const local = localOf(to);
  const call: CallOptions = { caller: { name: options.by }, ...(signal && { signal }) };
  const before = new Map<string, Digest | undefined>();
  for (const tag of options.tags) {
    signal?.throwIfAborted();
    const stored = await local.resolveManifest(names.to, tag, call);
    before.set(tag, stored.kind === "absent" ? undefined : orThrow(stored).digest);
  }
  const plan = await planPromotion(from, names.from, {
    tags: options.tags,
    referrers: options.referrers ?? false,
    ...(options.platforms && { platforms: options.platforms }),
    concurrency,
    call: signal ? { signal } : {},
  });
  if (plan.sparse && !local.sparse) {
    throw new RegistryError(
      "UNSUPPORTED",
      "an index is promoted as it is, and would name platforms that do not go along: make the target with `sparse: true`, or promote all platforms",
    );
  }
  const run = new PromotionRun({ from, to, local, names, plan, options, call, before });
  return run.go(concurrency);
}

interface RunOptions {
  readonly from: Registry;
  readonly to: PromotionTarget;
  readonly local: StoringRegistry;
  readonly names: { readonly from: string; readonly to: string };
  readonly plan: PromotionPlan;
  readonly options: PromoteOptions;
  readonly call: CallOptions;
  readonly before: ReadonlyMap<string, Digest | undefined>;
}

class PromotionRun {
  readonly #o: RunOptions;
  readonly #progress: ProgressCount;

  constructor(o: RunOptions) {
    this.#o = o;
    const { blobs, manifests, tags } = o.plan;
    this.#progress = new ProgressCount(blobs.length + manifests.length + tags.length, o.options.progress);
  }

  async go(concurrency: number): Promise<PromoteReport> {
    const { plan, call } = this.#o;
    await inParallel(plan.blobs, { concurrency, signal: call.signal }, (blob, signal) => this.#blob(blob, { ...call, signal }));
    for (const manifest of plan.manifests) await this.#manifest(manifest);
    const promoted: Promotion[] = [];
    for (const { tag, descriptor } of plan.tags) {
      const recorded = await this.#tag(tag, descriptor.digest);
      if (recorded) promoted.push(recorded);
      this.#progress.done();
    }
    return { ...this.#progress.counts, promoted };
  }

  async #blob(blob: Descriptor, call: CallOptions): Promise<void> {
    const { from, local, names } = this.#o;
    const here = await local.resolveBlob(names.to, blob.digest, call);
    // The source has shown that it has the blob.
    const mounted =
      here.kind === "found" || (await local.mountBlob(names.to, blob.digest, { registry: from, repository: names.from }, call));
    if (!mounted) {
      const place = { member: "the source", registry: from, repository: names.from };
      const received = (bytes: number) => this.#progress.received(bytes);
      const outcome = await transfer([place], blob, { ...(call.signal && { signal: call.signal }), received }, (source) =>
        local.putBlob(names.to, blob, source, call),
      );
      if (outcome.kind === "failed") throw new RegistryError("UNAVAILABLE", `${blob.digest} could not be copied: ${outcome.why}`);
    }
    this.#progress.done();
  }

  async #manifest({ digest }: Descriptor): Promise<void> {
    const { local, names, call } = this.#o;
    call.signal?.throwIfAborted();
    if ((await local.resolveManifest(names.to, digest, call)).kind !== "found") await this.#put(local, digest, digest, {});
    this.#progress.done();
  }

  async #tag(tag: string, digest: Digest): Promise<Promotion | undefined> {
    const { from, to, local, names, options, call, before } = this.#o;
    const previous = before.get(tag);
    call.signal?.throwIfAborted();
    if (previous === digest) {
      // A promotion that was killed between tag and record is recorded now.
      if ((await latestOf(local, names.to, tag, call.signal))?.digest === digest) return undefined;
    } else {
      const unchanged = previous === undefined ? { ifNoneMatch: "*" as const } : { ifMatch: previous };
      await this.#put(to, tag, digest, unchanged);
    }
    return local.recordPromotion({
      repository: names.to,
      tag,
      digest,
      from: { ...(from.identity !== undefined && { registry: from.identity }), repository: names.from },
      ...(previous !== undefined && previous !== digest && { previous }),
      by: options.by,
      ...(options.comment !== undefined && { comment: options.comment }),
    });
  }

  async #put(into: Registry, reference: string, digest: Digest, o: PutManifestOptions): Promise<void> {
    const { from, names, plan, call, options } = this.#o;
    const lookup = await from.getManifest(names.from, digest, options.signal ? { signal: options.signal } : {});
    const { bytes, descriptor } = orThrow(lookup);
    // A sparse index cannot pass a check; that the rest is here has been seen to.
    const references = plan.sparse ? ({ references: "trust" } as const) : {};
    await into.putManifest(names.to, reference, { bytes, mediaType: descriptor.mediaType }, { ...call, ...o, ...references });
  }
}
