import type { LRUCache } from "lru-cache";
import type { Descriptor } from "../core/descriptor.js";
import { errorText, isRegistryError, RegistryError } from "../core/errors.js";
import { reportFault } from "../core/events.js";
import { orThrow } from "../core/lookup.js";
import { followManifest, type Manifest } from "../core/manifest.js";
import { allPages } from "../core/page.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { untilAborted } from "../core/until-aborted.js";
import type { Partition } from "../local/partition.js";
import { type ChildrenPolicy, childrenFor, isBlob, lacks } from "./children.js";
import { type Completeness, completeness, noSuchPlatform } from "./completeness.js";
import type { Fills } from "./fill/fills.js";
import type { ManifestCache } from "./manifest-cache.js";
import { sourceCall, type ViaOptions, viaOf } from "./source-call.js";

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

interface ImagesOptions {
  readonly source: Registry;
  readonly store: Registry;
  readonly partition: Partition;
  readonly fills: Fills;
  /** Manifests whose images were brought, or are about to be. */
  readonly known: LRUCache<string, true>;
  manifests(): ManifestCache;
  readonly children: ChildrenPolicy;
  readonly referrers: "all" | "on demand";
  readonly call: CallOptions;
}

/** Images as wholes. A manifest that is pulled brings its image along in the background, once; `warm` brings all of an image and waits for it. */
export class Images {
  readonly #o: ImagesOptions;

  constructor(options: ImagesOptions) {
    this.#o = options;
  }

  /** A manifest that is stored here was pulled: what a restart or a failure has left out of its image is brought now, once. */
  hit(repository: string, { bytes, descriptor }: ManifestContent, o?: ViaOptions): void {
    if (!this.#o.known.has(this.#key(repository, descriptor.digest)))
      this.arrived(repository, descriptor, followManifest(bytes, descriptor.mediaType), o);
  }

  /** A manifest has come from the source. Its image comes in the background; a failure is told by an event, and the next pull of the manifest begins again. */
  arrived(repository: string, { digest }: Descriptor, manifest: Manifest, o?: ViaOptions): void {
    // With the aggregates that the pull has passed, so that the pulls of its layers join.
    const passed = viaOf(o);
    const { fills, children, referrers, known } = this.#o;
    known.set(this.#key(repository, digest), true);
    const contained = async (what: string, work: () => Promise<unknown>, signal?: AbortSignal) => {
      try {
        await work();
      } catch (error) {
        known.delete(this.#key(repository, digest));
        if (!signal?.aborted) this.#tell(repository, what, error);
      }
    };
    const blob = ({ digest: layer }: Descriptor) => void contained(layer, () => fills.bringLater(repository, layer, passed));
    const later = (what: string, work: (signal: AbortSignal) => Promise<unknown>) =>
      fills.later((signal) => contained(what, () => work(signal), signal));
    requiredReferences(manifest).blobs.forEach(blob);
    const wanted = children === "on demand" ? [] : childrenFor(manifest, children === "all" ? undefined : children.platforms);
    for (const child of wanted) {
      if (isBlob(child)) blob(child);
      else later(child.digest, () => this.#manifest(repository, child.digest, { ...passed, priority: "background" }));
    }
    // A referrer has a subject, and referrers of its own in theory only: they are not followed further.
    if (referrers === "all" && !manifest.subject) {
      later(`what refers to ${digest}`, async (signal) => {
        for await (const referrer of this.#referrers(repository, digest, { ...passed, signal })) {
          signal.throwIfAborted();
          await this.#manifest(repository, referrer.digest, { ...passed, priority: "background" });
        }
      });
    }
  }

  async *#referrers(repository: string, digest: string, o: ViaOptions & Pick<CallOptions, "signal">): AsyncGenerator<Descriptor> {
    const { source, call } = this.#o;
    const { signal } = o;
    const listing = { ...sourceCall(call, o), ...(signal && { signal }) };
    yield* allPages(async (page) => {
      signal?.throwIfAborted();
      const lookup = await untilAborted(source.listReferrers(repository, digest, page, listing), signal);
      return lookup.kind === "absent" ? { items: [] } : orThrow(lookup);
    });
  }

  /** Waits for the whole image. Can be called again after a failure or an abort: what is here is not asked for. */
  async warm(repository: string, reference: string, o: WarmOptions & ViaOptions = {}): Promise<Completeness> {
    const { fills, store, referrers } = this.#o;
    const waiting = { ...(o.signal && { signal: o.signal }), ...viaOf(o) };
    const progress = { items: 1, done: 0, bytes: 0 };
    const failures: { what: string; error: unknown }[] = [];
    const seen = new Set<string>();
    const bringing: Promise<void>[] = [];
    const attempt = (what: string, work: () => Promise<void>) => work().catch((error: unknown) => void failures.push({ what, error }));
    const done = (bytes: number) => {
      progress.done++;
      progress.bytes += bytes;
      o.progress?.({ repository, ...progress });
    };
    const bring = (blob: Descriptor) => {
      if (seen.has(blob.digest)) return;
      seen.add(blob.digest);
      progress.items++;
      bringing.push(
        attempt(blob.digest, async () => {
          await fills.bringSoon(repository, blob.digest, waiting);
          done(blob.size);
        }),
      );
    };
    // Manifests one after the other; meanwhile blobs, as many at a time as the cache brings.
    const below = async (child: Descriptor) => {
      o.signal?.throwIfAborted();
      if (isBlob(child)) return bring(child);
      if (seen.has(child.digest)) return;
      seen.add(child.digest);
      progress.items++;
      await attempt(child.digest, () => walk(child.digest));
    };
    const walk = async (ref: string): Promise<void> => {
      o.signal?.throwIfAborted();
      const { manifest, digest } = await this.#manifest(repository, ref, waiting);
      seen.add(digest);
      if (ref === reference && lacks(manifest, o.platforms)) throw noSuchPlatform(repository, reference, o.platforms);
      requiredReferences(manifest).blobs.forEach(bring);
      done(0);
      for (const child of childrenFor(manifest, o.platforms)) await below(child);
      if (referrers === "on demand" || manifest.subject) return;
      await attempt(`what refers to ${digest}`, async () => {
        for await (const referrer of this.#referrers(repository, digest, waiting)) await below(referrer);
      });
    };
    await attempt(reference, () => walk(reference));
    await Promise.all(bringing);
    o.signal?.throwIfAborted();
    const [first, ...more] = failures;
    if (first) throw notBrought(repository, reference, first, more.length);
    return completeness(store, repository, reference, o.platforms, o.signal);
  }

  async #manifest(repository: string, reference: string, o: CallOptions): Promise<{ manifest: Manifest; digest: string }> {
    const { bytes, descriptor } = orThrow(await this.#o.manifests().get(repository, reference, o));
    return { manifest: followManifest(bytes, descriptor.mediaType), digest: descriptor.digest };
  }

  #key(repository: string, digest: string): string {
    return `${this.#o.partition.name} ${repository} ${digest}`;
  }

  #tell(repository: string, what: string, error: unknown): void {
    reportFault(this.#o.partition, `${what} of ${repository} could not be brought`, error);
  }
}

function notBrought(repository: string, reference: string, first: { what: string; error: unknown }, more: number): RegistryError {
  const { what, error: cause } = first;
  const why = errorText(cause);
  const rest = more > 0 ? `, and ${more} more` : "";
  const message = `${repository} ${reference}: ${what} could not be brought${rest}: ${why}`;
  if (!isRegistryError(cause)) return new RegistryError("UNKNOWN", message, { cause });
  const { code, status, detail, retryAfter } = cause;
  return new RegistryError(code, message, { status, detail, cause, ...(retryAfter !== undefined && { retryAfter }) });
}
