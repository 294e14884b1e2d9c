import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { isThere } from "../core/lookup.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { checkConcurrency, inParallel } from "../maintenance/in-parallel.js";
import { ProgressCount } from "../maintenance/progress-count.js";
import { type ImportPlan, planImport, type RepositoryPlan, selectImages, unlistedImages } from "./import-plan.js";
import { type LayoutEntry, layoutEntries } from "./layout-index.js";
import { blobFile, type LayoutSource, manifestIn } from "./layout-source.js";
import { openLayout } from "./open-layout.js";
import type { TarStreamSource } from "./tar-stream.js";

export interface ImportLayoutOptions {
  /** Where images go that `rename` names no repository for. */
  readonly repository?: string;
  /** Which images: tags or whole names as the layout has them, or digests, also of a child of an index. Default: all that its `index.json` lists. */
  readonly references?: readonly string[];
  /** The tag of the only image, in place of the one it has or lacks. */
  readonly tag?: string;
  /** Another repository or tag for an image, as for an archive of several names. `undefined`: it is left out. */
  readonly rename?: (entry: LayoutEntry) => { readonly repository?: string; readonly tag?: string } | undefined;
  /** Ends it, with the signal's reason. What came stays, and another call goes on from there. */
  readonly signal?: AbortSignal;
  /** Called when something is in the registry, and every few megabytes. */
  readonly progress?: (progress: LayoutProgress) => void;
  /** How many blobs are looked at or copied at a time. Default: 4. */
  readonly concurrency?: number;
  /** How many images and missing children are kept for the report; more are only counted. Default: 1,000. */
  readonly limit?: number;
  /** The package `tar-stream` or what loads it, for hosts whose code is bundled. Default: it is imported when an archive is read. */
  readonly tarStream?: TarStreamSource;
}

/** How far an import or export has come. */
export interface LayoutProgress {
  /** Blobs and manifests; of an import, tags too. */
  readonly items: number;
  /** Those that are where they should be. */
  readonly done: number;
  /** Bytes of blobs that were copied: nothing for what was there. */
  readonly bytes: number;
}

/** Where an image of a layout is now. */
export interface ImportedImage {
  readonly repository: string;
  /** Absent for one that was put by its digest. */
  readonly tag?: string;
  readonly digest: Digest;
}

export interface ImportLayoutReport extends LayoutProgress {
  readonly images: readonly ImportedImage[];
  /** Children of indexes that are neither in the layout nor in the registry. Only one with `sparse: true` takes an index without them. */
  readonly missing: readonly Descriptor[];
  /** Images and missing children beyond the limit. */
  readonly omitted: number;
}

/**
 * Puts the images of an OCI image layout into a registry: of a folder, or of a tar archive, as `skopeo copy` (`oci:`, `oci-archive:`), `podman save`, buildah, BuildKit
 * and docker from version 25.0.1 on write them. Everything is looked for before anything is written. Blobs go first, then manifests, each behind its children, byte for
 * byte; tags move last. Every byte is verified. What the registry has is not written again. Archives need the package `tar-stream`.
 *
 * An image gets the tag in its name: `1.0` or `docker.io/library/app:1.0`. One without a name, as a signature, is put by its digest.
 *
 * @throws RegistryError UNSUPPORTED when it is no OCI layout, is compressed or leads elsewhere; MANIFEST_UNKNOWN for a reference that it does not have;
 *   MANIFEST_BLOB_UNKNOWN when it lacks something that the registry does not have either; MANIFEST_INVALID, SIZE_INVALID or DIGEST_INVALID when it is damaged;
 *   UNAVAILABLE when it cannot be read; UNKNOWN for a `concurrency` that is no whole number from 1; what the registry refuses; the signal's reason.
 *
 * @example
 * ```ts
 * import { localRegistry, mediaTypes } from "oci-manifold";
 * import { chunksOf, digestOf } from "oci-manifold/extend";
 * import { exportLayout, importLayout } from "oci-manifold/layout";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const bytes = Buffer.from("{}");
 * const config = { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(bytes), size: 2 };
 * const staging = localRegistry({ storage: memoryStorage(), name: "staging" });
 * await staging.putBlob("app", config, chunksOf(bytes));
 * const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [] };
 * await staging.putManifest("app", "1.0", { bytes: Buffer.from(JSON.stringify(manifest)) });
 * await exportLayout(staging, "app.tar", { repository: "app" });
 *
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const { images } = await importLayout(release, "app.tar", { repository: "team/app" });
 * console.log(images); // [{ repository: "team/app", tag: "1.0", digest: "sha256:…" }]
 * ```
 */
export async function importLayout(registry: Registry, source: string, options: ImportLayoutOptions): Promise<ImportLayoutReport> {
  const { signal, tarStream, concurrency = 4, limit = 1000 } = options;
  checkConcurrency(concurrency);
  signal?.throwIfAborted();
  const layout = await openLayout(source, { ...(tarStream && { tarStream }), ...(signal && { signal }) });
  try {
    const entries = await layoutEntries(layout);
    const images = selectImages([...entries, ...(await unlistedImages(layout, entries, options.references))], source, options);
    const plan = await planImport(layout, registry, images, { sparse: isSparse(localOf(registry)), call: signal ? { signal } : {} });
    const counts = await new ImportRun(layout, registry, plan, options).go(concurrency);
    const put = images.map(({ repository, tag, descriptor: { digest } }) => ({ repository, ...(tag !== undefined && { tag }), digest }));
    return {
      ...counts,
      images: put.slice(0, limit),
      missing: plan.missing.slice(0, limit),
      omitted: Math.max(0, put.length - limit) + Math.max(0, plan.missing.length - limit),
    };
  } finally {
    await layout.close();
  }
}

/** What connectors of an aggregate have is not imported yet: the local registry knows what is. */
function localOf(registry: Registry & { readonly local?: Registry }): Registry {
  return registry.local ?? registry;
}

function isSparse(registry: Registry & { readonly sparse?: unknown }): boolean {
  return registry.sparse === true;
}

class ImportRun {
  readonly #layout: LayoutSource;
  readonly #registry: Registry;
  readonly #local: Registry;
  readonly #plan: ImportPlan;
  readonly #o: ImportLayoutOptions;
  readonly #progress: ProgressCount;
  /** Where a blob is that more than one repository needs. */
  readonly #placed = new Map<Digest, string>();

  constructor(layout: LayoutSource, registry: Registry, plan: ImportPlan, o: ImportLayoutOptions) {
    this.#layout = layout;
    this.#registry = registry;
    this.#local = localOf(registry);
    this.#plan = plan;
    this.#o = o;
    const items = plan.repositories.reduce((sum, { blobs, manifests, tags }) => sum + blobs.size + manifests.size + tags.size, 0);
    this.#progress = new ProgressCount(items, o.progress);
  }

  async go(concurrency: number): Promise<LayoutProgress> {
    const { signal } = this.#o;
    const { repositories } = this.#plan;
    for (const into of repositories) {
      await inParallel(into.blobs.values(), { concurrency, signal }, async (blob, ended) => {
        await this.#blob(into.repository, blob, { signal: ended });
        if (repositories.length > 1) this.#placed.set(blob.digest, into.repository);
        this.#progress.done();
      });
      for (const manifest of into.manifests.values()) await this.#manifest(into, manifest);
    }
    for (const into of repositories) for (const [tag, manifest] of into.tags) await this.#tag(into, tag, manifest);
    return this.#progress.counts;
  }

  async #blob(repository: string, blob: Descriptor, call: CallOptions): Promise<void> {
    const registry = this.#registry;
    if (isThere(await this.#local.resolveBlob(repository, blob.digest, call))) return;
    const elsewhere = this.#placed.get(blob.digest);
    if (elsewhere !== undefined && (await registry.mountBlob(repository, blob.digest, { registry, repository: elsewhere }, call))) return;
    try {
      await registry.putBlob(repository, blob, this.#progress.passing(this.#layout.read(blobFile(blob.digest)), call.signal), call);
    } catch (cause) {
      if (!isRegistryError(cause) || cause.code !== "DIGEST_INVALID") throw cause;
      throw new RegistryError("DIGEST_INVALID", `${blobFile(blob.digest)} in ${this.#layout.path} holds other bytes than its name says`, {
        cause,
      });
    }
  }

  async #manifest({ repository }: RepositoryPlan, manifest: Descriptor): Promise<void> {
    if (!isThere(await this.#local.resolveManifest(repository, manifest.digest, this.#call()))) await this.#put(repository, manifest);
    this.#progress.done();
  }

  async #tag({ repository }: RepositoryPlan, tag: string, manifest: Descriptor): Promise<void> {
    const stored = await this.#local.resolveManifest(repository, tag, { ...this.#call(), refresh: true });
    if (!isThere(stored) || stored.value.digest !== manifest.digest) await this.#put(repository, manifest, tag);
    this.#progress.done();
  }

  async #put(repository: string, manifest: Descriptor, tag?: string): Promise<void> {
    const { bytes } = await manifestIn(this.#layout, manifest);
    const content = { bytes, mediaType: manifest.mediaType };
    // A sparse index cannot pass a check; that the rest is here has been seen to.
    const call = { ...this.#call(), ...(this.#plan.missing.length > 0 && { references: "trust" as const }) };
    // By tag alone a registry stores it under sha256.
    if (tag !== undefined && algorithmOf(manifest.digest) === "sha256") await this.#registry.putManifest(repository, tag, content, call);
    else await this.#registry.putManifest(repository, manifest.digest, content, { ...call, ...(tag !== undefined && { tags: [tag] }) });
  }

  #call(): CallOptions {
    const { signal } = this.#o;
    signal?.throwIfAborted();
    return signal ? { signal } : {};
  }
}
