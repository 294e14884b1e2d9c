import type { Descriptor, Platform } from "../core/descriptor.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { orThrow } from "../core/lookup.js";
import { type Manifest, parseManifest } from "../core/manifest.js";
import { allPages } from "../core/page.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { Partition } from "../local/partition.js";
import type { Fills } from "./fills.js";
import type { ManifestCache } from "./manifest-cache.js";

/** What of an image is stored here. */
export interface Completeness {
  readonly complete: boolean;
  readonly missing: readonly Descriptor[];
}

/** How far `warm` is. */
export interface WarmProgress {
  readonly repository: string;
  /** Manifests and blobs known so far; more become known with each manifest. */
  readonly items: number;
  readonly done: number;
  /** Bytes of the blobs that are here. */
  readonly bytes: number;
}

export interface WarmOptions {
  /** `os/architecture` or `os/architecture/variant`. Default: all platforms of an index. */
  readonly platforms?: readonly string[];
  readonly signal?: AbortSignal;
  readonly progress?: (progress: WarmProgress) => void;
}

/** Which children of an index come with it. */
export type ChildrenPolicy = "all" | "on demand" | { readonly platforms: readonly string[] };

export interface ImagesOptions {
  readonly source: Registry;
  readonly store: Registry;
  readonly partition: Partition;
  readonly fills: Fills;
  manifests(): ManifestCache;
  readonly children: ChildrenPolicy;
  readonly referrers: "all" | "on demand";
  readonly call: CallOptions;
}

/** Images as wholes: what a manifest brings along, what is missing, and bringing all of it. */
export class Images {
  readonly #o: ImagesOptions;

  constructor(options: ImagesOptions) {
    this.#o = options;
  }

  /** In the background; failures are told by events, and whoever asks next starts anew. */
  arrived(repository: string, { digest }: Descriptor, manifest: Manifest): void {
    const { fills, children, referrers } = this.#o;
    for (const blob of requiredReferences(manifest).blobs) fills.bringLater(repository, blob.digest).catch(() => {});
    const wanted =
      children === "on demand" ? [] : manifest.children.filter(({ platform }) => children === "all" || isOf(platform, children.platforms));
    for (const child of wanted) this.#later(child.digest, () => this.#manifest(repository, child.digest));
    // A referrer has a subject, and referrers of its own in theory only: they are not followed further.
    if (referrers === "all" && !manifest.subject) this.#later(digest, () => this.#bringReferrers(repository, digest));
  }

  async #bringReferrers(repository: string, digest: string): Promise<void> {
    const { source, call } = this.#o;
    const pages = allPages(async (page) => orThrow(await source.listReferrers(repository, digest, page, call)));
    for await (const referrer of pages) await this.#manifest(repository, referrer.digest);
  }

  /** Waits for the whole image. Can be called again after a failure or an abort: what is here is not asked for. */
  async warm(repository: string, reference: string, o: WarmOptions = {}): Promise<Completeness> {
    const { fills, store } = this.#o;
    const told = { items: 1, done: 0, bytes: 0 };
    const tell = (bytes: number) => {
      told.done++;
      told.bytes += bytes;
      o.progress?.({ repository, ...told });
    };
    const walk = async (ref: string): Promise<void> => {
      o.signal?.throwIfAborted();
      const manifest = await this.#manifest(repository, ref, o.signal);
      const blobs = requiredReferences(manifest).blobs;
      const children = manifest.children.filter(({ platform }) => !o.platforms || isOf(platform, o.platforms));
      told.items += blobs.length + children.length;
      tell(0);
      const bring = blobs.map(async (blob) => {
        await fills.bringSoon(repository, blob.digest, o.signal);
        tell(blob.size);
      });
      const outcomes = await Promise.allSettled([...bring, ...children.map((child) => walk(child.digest))]);
      const failed = outcomes.find((outcome) => outcome.status === "rejected");
      if (failed) throw failed.reason;
    };
    await walk(reference);
    return completeness(store, repository, reference, o.platforms);
  }

  async #manifest(repository: string, reference: string, signal?: AbortSignal): Promise<Manifest> {
    const lookup = await this.#o.manifests().get(repository, reference, { ...this.#o.call, ...(signal && { signal }) });
    const { bytes, descriptor } = orThrow(lookup);
    return parseManifest(bytes, descriptor.mediaType);
  }

  #later(digest: string, bring: () => Promise<unknown>): void {
    this.#o.fills.later(async () => {
      try {
        await bring();
      } catch (error) {
        const { clock, events, name } = this.#o.partition;
        const why = isRegistryError(error) ? error.message : String(error);
        events.emit("fault", { time: clock.now(), registry: name, message: `what belongs to ${digest} could not be brought: ${why}` });
      }
    });
  }
}

/** Whether an image's manifest, config and layers are all stored; for an index those of its platforms. */
export async function completeness(
  store: Registry,
  repository: string,
  reference: string,
  platforms: readonly string[] | undefined,
): Promise<Completeness> {
  const lookup = await store.getManifest(repository, reference);
  if (lookup.kind !== "found") throw new RegistryError("MANIFEST_UNKNOWN", `${repository} has no ${reference} stored here`);
  const missing: Descriptor[] = [];
  const seen = new Set<string>();
  const walk = async (bytes: Uint8Array, mediaType: string): Promise<void> => {
    const { blobs, children } = requiredReferences(parseManifest(bytes, mediaType));
    for (const blob of blobs) if ((await store.resolveBlob(repository, blob.digest)).kind !== "found") missing.push(blob);
    for (const child of children) {
      if (seen.has(child.digest) || (platforms && !isOf(child.platform, platforms))) continue;
      seen.add(child.digest);
      const below = await store.getManifest(repository, child.digest);
      if (below.kind === "found") await walk(below.value.bytes, below.value.descriptor.mediaType);
      else missing.push(child);
    }
  };
  await walk(lookup.value.bytes, lookup.value.descriptor.mediaType);
  return { complete: missing.length === 0, missing };
}

/** A child without platform is one of all: an attestation, or a nested index. */
function isOf(platform: Platform | undefined, wanted: readonly string[]): boolean {
  if (!platform?.os) return true;
  const { os, architecture, variant } = platform;
  return wanted.includes(`${os}/${architecture}`) || (variant !== undefined && wanted.includes(`${os}/${architecture}/${variant}`));
}
