import { type Clock, systemClock } from "../core/clock.js";
import { chunksOf } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { orThrow } from "../core/lookup.js";
import { isTag } from "../core/name.js";
import { allPages, type PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { transfer } from "../maintenance/blob-transfer.js";
import { checkConcurrency, inParallel } from "../maintenance/in-parallel.js";
import { ProgressCount } from "../maintenance/progress-count.js";
import { type PromotionPlan, planPromotion } from "../maintenance/promotion-plan.js";
import { DockerImages } from "./docker-images.js";
import type { LayoutProgress } from "./import-layout.js";
import { LayoutArchiveTarget } from "./layout-archive-target.js";
import { LayoutFolderTarget } from "./layout-folder-target.js";
import { imageLimit, nameAnnotation } from "./layout-index.js";
import type { LayoutTarget } from "./layout-target.js";
import { loadTarStream, type TarStreamSource } from "./tar-stream.js";

export interface ExportLayoutOptions {
  /** Whose images are written. */
  readonly repository: string;
  /** Tags or digests. Default: all tags. */
  readonly references?: readonly string[];
  /** `os/architecture` or `os/architecture/variant`: only these children of an index go along; the index itself stays as it is. Default: all. */
  readonly platforms?: readonly string[];
  /** Signatures, attestations and the like go along. Default: false. */
  readonly referrers?: boolean;
  /** Default: an archive where the path ends in `.tar`, else a folder. */
  readonly format?: "folder" | "archive";
  /** Ends it, with the signal's reason. What is in a folder stays, and another call goes on from there; of an archive nothing is left. */
  readonly signal?: AbortSignal;
  /** Called when something is written, and every few megabytes. */
  readonly progress?: (progress: LayoutProgress) => void;
  /** How many blobs are looked at at a time, and copied into a folder. Default: 4. */
  readonly concurrency?: number;
  /** How many images are kept for the report; more are only counted. Default: 1,000. */
  readonly limit?: number;
  /** The package `tar-stream` or what loads it, for hosts whose code is bundled. Default: it is imported when an archive is written. */
  readonly tarStream?: TarStreamSource;
  /** Default: the system's. By it the files that killed exports have left are old enough to be removed. */
  readonly clock?: Clock;
}

/** An image that the layout lists. */
export interface ExportedImage {
  /** Absent for one that was named by its digest, or goes along as a referrer. */
  readonly tag?: string;
  readonly digest: Digest;
}

export interface ExportLayoutReport extends LayoutProgress {
  readonly images: readonly ExportedImage[];
  /** Images beyond the limit. */
  readonly omitted: number;
  /** What the list of tags said of itself where all tags were exported, such as that it is not complete. */
  readonly warnings: readonly string[];
  /** An index went without some of its children: only a registry with `sparse: true` takes it. */
  readonly sparse: boolean;
}

/**
 * Writes images of a registry into an OCI image layout, for `skopeo copy` (`oci:`, `oci-archive:`), `podman load`, umoci or {@link importLayout}. A folder that holds a
 * layout is added to: an image of the same name is replaced, what is there with the right size is not written again, and `index.json` changes last. One export at a
 * time may write to a folder. An archive is new, and has its name only when it is whole. Every byte is verified. Archives need the package `tar-stream`.
 *
 * @throws RegistryError MANIFEST_UNKNOWN or MANIFEST_BLOB_UNKNOWN when the registry lacks something, before anything is written; UNAVAILABLE when it breaks off or
 *   gives wrong bytes, or the target cannot be written; DIGEST_INVALID or SIZE_INVALID for a wrong manifest; UNSUPPORTED for a folder that holds something else, or a path that
 *   names a compressed archive; INSUFFICIENT_STORAGE; MANIFEST_INVALID for more images than fit into one index (10,000); UNKNOWN for a `concurrency` that is no whole number
 *   from 1; the signal's reason.
 *
 * @example
 * ```ts
 * import { localRegistry, mediaTypes } from "oci-manifold";
 * import { chunksOf, digestOf } from "oci-manifold/extend";
 * import { exportLayout } from "oci-manifold/layout";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const bytes = Buffer.from("{}");
 * const config = { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(bytes), size: 2 };
 * const registry = localRegistry({ storage: memoryStorage(), name: "release" });
 * await registry.putBlob("app", config, chunksOf(bytes));
 * const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [] };
 * await registry.putManifest("app", "1.0", { bytes: Buffer.from(JSON.stringify(manifest)) });
 *
 * // Then: skopeo copy oci:layout:1.0 …
 * const { images } = await exportLayout(registry, "layout", { repository: "app", references: ["1.0"], referrers: true });
 * console.log(images); // [{ tag: "1.0", digest: "sha256:…" }]
 * ```
 */
export async function exportLayout(registry: Registry, target: string, options: ExportLayoutOptions): Promise<ExportLayoutReport> {
  const { repository, signal, concurrency = 4, limit = 1000 } = options;
  checkConcurrency(concurrency);
  const call: CallOptions = signal ? { signal } : {};
  signal?.throwIfAborted();
  const warnings = new Set<string>();
  const plan = await planPromotion(registry, repository, {
    tags: await wanted(registry, options, call, warnings),
    referrers: options.referrers ?? false,
    ...(options.platforms && { platforms: options.platforms }),
    nonDistributable: true,
    concurrency,
    call,
  });
  const entries = entriesOf(plan);
  const layout = await openTarget(target, entries, options);
  const counts = await write(registry, layout, plan, options, concurrency).catch(async (error: unknown) => {
    await layout.abandon(error);
    throw error;
  });
  const images = entries.map(({ digest, annotations }) => {
    const tag = annotations?.[nameAnnotation];
    return { ...(tag !== undefined && { tag }), digest };
  });
  return {
    ...counts,
    images: images.slice(0, limit),
    omitted: Math.max(0, images.length - limit),
    warnings: [...warnings],
    sparse: plan.sparse,
  };
}

async function wanted(
  registry: Registry,
  { repository, references }: ExportLayoutOptions,
  call: CallOptions,
  warnings: Set<string>,
): Promise<string[]> {
  if (references) return [...new Set(references)];
  const list = async (page: PageRequest) => {
    const lookup = await registry.listTags(repository, page, call);
    if (lookup.kind === "absent") throw lookup.error ?? new RegistryError("NAME_UNKNOWN", `the registry has no repository ${repository}`);
    return orThrow(lookup, "NAME_UNKNOWN");
  };
  const tags: string[] = [];
  for await (const tag of allPages(list, undefined, (warning) => warnings.add(warning))) {
    tags.push(tag);
    if (tags.length <= imageLimit) continue;
    throw new RegistryError(
      "MANIFEST_INVALID",
      `${repository} has more than ${imageLimit} tags, one layout takes no more: choose by references`,
    );
  }
  if (tags.length === 0) throw new RegistryError("MANIFEST_UNKNOWN", `${repository} has no tags: name digests as references`);
  return tags;
}

/** A referrer needs an entry too: nothing else in the layout leads to it. */
function entriesOf(plan: PromotionPlan): Descriptor[] {
  const named: Descriptor[] = plan.tags.flatMap(({ tag, descriptor: { mediaType, digest, size } }) =>
    isTag(tag) ? [{ mediaType, digest, size, annotations: { [nameAnnotation]: tag } }] : [],
  );
  const listed = new Set(named.map(({ digest }) => digest));
  const others = [...plan.tags.filter(({ tag }) => !isTag(tag)).map(({ descriptor }) => descriptor), ...plan.referrers];
  for (const { mediaType, digest, size } of others) {
    if (listed.has(digest)) continue;
    listed.add(digest);
    named.push({ mediaType, digest, size });
  }
  return named;
}

async function openTarget(target: string, entries: readonly Descriptor[], o: ExportLayoutOptions): Promise<LayoutTarget> {
  const { format = target.endsWith(".tar") ? "archive" : "folder", clock = systemClock } = o;
  if (format === "archive") return LayoutArchiveTarget.open(target, entries, await loadTarStream(o.tarStream), clock);
  if (!/\.t(?:ar\.)?(?:gz|zst|xz|bz2)$/.test(target)) return LayoutFolderTarget.open(target, entries, clock);
  throw new RegistryError(
    "UNSUPPORTED",
    `compressed archives are not written: export to a path that ends in .tar, then compress ${target}`,
  );
}

async function write(
  registry: Registry,
  layout: LayoutTarget,
  plan: PromotionPlan,
  o: ExportLayoutOptions,
  concurrency: number,
): Promise<LayoutProgress> {
  const place = { member: "the registry", registry, repository: o.repository };
  const manifests = new Map(
    [...plan.manifests, ...plan.tags.map(({ descriptor }) => descriptor)].map((manifest) => [manifest.digest, manifest]),
  );
  // What an index lists may be both: the manifest's bytes are the blob's.
  const blobs = plan.blobs.filter(({ digest }) => !manifests.has(digest));
  const counts = new ProgressCount(blobs.length + manifests.size, o.progress);
  const call = o.signal ? { signal: o.signal } : {};
  await inParallel(blobs, { concurrency: layout.parallel ? concurrency : 1, signal: o.signal }, async (blob, ended) => {
    if (!(await layout.has(blob))) {
      const outcome = await transfer([place], blob, { signal: ended }, (source) => layout.add(blob, counts.passing(source, ended)));
      if (outcome.kind === "failed") throw new RegistryError("UNAVAILABLE", `${blob.digest} could not be exported: ${outcome.why}`);
    }
    counts.done();
  });
  const docker = new DockerImages(o.repository);
  for (const manifest of manifests.values()) {
    o.signal?.throwIfAborted();
    const lookup = await registry.getManifest(o.repository, manifest.digest, call);
    if (lookup.kind === "absent") throw new RegistryError("MANIFEST_UNKNOWN", `${o.repository} has no ${manifest.digest} any more`);
    const { bytes } = orThrow(lookup);
    if (!(await layout.has(manifest))) await layout.add(manifest, chunksOf(bytes));
    docker.add(manifest, bytes);
    counts.done();
  }
  o.signal?.throwIfAborted();
  const tags = plan.tags.flatMap(({ tag, descriptor: { digest } }) => (isTag(tag) ? [[tag, digest] as const] : []));
  await layout.finish((before) => docker.file(tags, before));
  return counts.counts;
}
