import { LRUCache } from "lru-cache";
import type pLimit from "p-limit";
import { addedUnlessGone } from "../core/added-unless-gone.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import type { DistributionStorage } from "../core/distribution-storage.js";
import { isRegistryError, type RegistryError } from "../core/errors.js";
import { type Manifest, manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { LocalRegistry } from "../local/local-registry.js";
import { counted } from "../maintenance/blob-transfer.js";
import type { AdoptCounts } from "./adopt-report.js";
import { type DistributionTree, dataOf } from "./distribution-tree.js";

interface AdoptImagesOptions {
  readonly registry: LocalRegistry;
  readonly storage: DistributionStorage;
  readonly tree: DistributionTree;
  readonly counts: AdoptCounts;
  /** What the repository is called there, and here. */
  readonly names: { readonly from: string; readonly to: string };
  readonly verify: "all" | "size";
  /** Of the whole run. */
  readonly blobLimit: ReturnType<typeof pLimit>;
  readonly signal: AbortSignal | undefined;
}

/** `absent`: the repository there has no such thing. `failed`: it has, and it cannot be taken. */
type Outcome = { readonly kind: "here" } | { readonly kind: "absent" } | { readonly kind: "failed"; readonly why: string };

const here: Outcome = { kind: "here" };
const absent: Outcome = { kind: "absent" };

/** So many outcomes are remembered: layers and children are often those of other manifests too. */
const remembered = 100_000;
/** Indexes in indexes: no real image goes deeper, and each level holds a manifest in memory. */
const nestingLimit = 8;

/** Takes the manifests of one repository, each after everything that it refers to. */
export class AdoptImages {
  readonly #o: AdoptImagesOptions;
  readonly #outcomes = new LRUCache<string, Promise<Outcome>>({ max: remembered });

  constructor(options: AdoptImagesOptions) {
    this.#o = options;
  }

  /** What became of a manifest. What there is to report of it is reported, once. */
  manifest(digest: Digest, depth = 0): Promise<Outcome> {
    return this.#once(`manifest ${digest}`, () => this.#manifest(digest, depth));
  }

  #once(key: string, take: () => Promise<Outcome>): Promise<Outcome> {
    const known = this.#outcomes.get(key);
    if (known) return known;
    this.#o.counts.known();
    const outcome = take().then((result) => {
      this.#o.counts.done();
      return result;
    });
    this.#outcomes.set(key, outcome);
    return outcome;
  }

  async #manifest(digest: Digest, depth: number): Promise<Outcome> {
    const { registry, tree, counts, names, signal } = this.#o;
    signal?.throwIfAborted();
    if ((await registry.resolveManifest(names.to, digest)).kind === "found") return here;
    try {
      const kept = await tree.revision(names.from, digest);
      if (kept === undefined) return absent;
      const bytes = await tree.manifest(digest, kept, manifestSizeLimit);
      if (!bytes) return this.#incomplete(digest, "its bytes are gone");
      const missing = await this.#references(parseManifest(bytes), depth);
      if (missing) return this.#incomplete(digest, missing);
      await registry.putManifest(names.to, digest, { bytes });
      counts.came("manifest");
      return here;
    } catch (error) {
      const why = itemError(error);
      if (why.code === "DIGEST_INVALID" || why.code === "MANIFEST_BLOB_UNKNOWN") return this.#incomplete(digest, why.message);
      counts.problem("skipped", { repository: names.from, reference: digest, why: why.message });
      return { kind: "failed", why: why.message };
    }
  }

  #incomplete(digest: Digest, why: string): Outcome {
    this.#o.counts.problem("incomplete", { repository: this.#o.names.from, reference: digest, why });
    return { kind: "failed", why };
  }

  /** @returns what is missing. */
  async #references(manifest: Manifest, depth: number): Promise<string | undefined> {
    const { blobs, children } = requiredReferences(manifest);
    const missing: string[] = [];
    const note = ({ digest }: Descriptor, outcome: Outcome) => {
      if (outcome.kind !== "here")
        missing.push(`${digest}: ${outcome.kind === "failed" ? outcome.why : "the repository does not have it"}`);
    };
    const required = new Set(blobs.map(({ digest }) => digest));
    // Layers that are not to be distributed may have been pushed all the same.
    const optional = manifest.layers.filter(({ digest }) => !required.has(digest));
    const taken = await Promise.allSettled([...blobs, ...optional].map((blob) => this.#blob(blob)));
    for (const [index, blob] of [...blobs, ...optional].entries()) {
      const result = taken[index];
      if (result?.status === "rejected") throw result.reason;
      if (result && index < blobs.length) note(blob, result.value);
    }
    // One after the other: each holds a manifest in memory while what it refers to is taken.
    for (const child of children) {
      const outcome = depth < nestingLimit ? await this.#child(child, depth) : ({ kind: "failed", why: "indexes nest too deep" } as const);
      // Newer versions can be told to take indexes whose platforms are not all there.
      if (!(outcome.kind === "absent" && this.#o.registry.sparse)) note(child, outcome);
    }
    const [first, ...more] = missing;
    return first === undefined ? undefined : more.length === 0 ? first : `${first}; and ${more.length} more`;
  }

  /** BuildKit's older cache layout lists blobs as children of an index. */
  async #child(child: Descriptor, depth: number): Promise<Outcome> {
    const outcome = await this.manifest(parseDigest(child.digest), depth + 1);
    return outcome.kind === "absent" ? this.#blob(child) : outcome;
  }

  #blob(descriptor: Descriptor): Promise<Outcome> {
    const digest = parseDigest(descriptor.digest);
    return this.#once(`blob ${digest} ${descriptor.size}`, () => this.#o.blobLimit(() => this.#takeBlob(digest, descriptor.size)));
  }

  async #takeBlob(digest: Digest, expected: number): Promise<Outcome> {
    const { registry, storage, tree, names, signal, verify } = this.#o;
    signal?.throwIfAborted();
    if ((await registry.resolveBlob(names.to, digest)).kind === "found") return here;
    try {
      const kept = await tree.layer(names.from, digest);
      if (kept === undefined) return absent;
      if (await this.#added(digest)) return here;
      const path = dataOf(kept);
      const size = await storage.size(path);
      if (size === undefined) return { kind: "failed", why: "its bytes are gone" };
      if (verify === "size" && size !== expected) return { kind: "failed", why: `it has ${size} bytes, and the manifest says ${expected}` };
      await this.#take(path, { digest, size }, verify === "all" || kept !== digest);
      return here;
    } catch (error) {
      return { kind: "failed", why: itemError(error).message };
    }
  }

  /** The repository there refers to it: then the bytes that the store already has will do. */
  async #added(digest: Digest): Promise<boolean> {
    const { registry, names } = this.#o;
    const held = await registry.holdsBlob(digest);
    return held !== undefined && (await addedUnlessGone(registry, names.to, held));
  }

  async #take(path: string, blob: { digest: Digest; size: number }, verify: boolean): Promise<void> {
    const { registry, storage, counts, names, signal } = this.#o;
    const read = (bytes: number) => counts.read(bytes);
    const foreign = await storage.foreign(path);
    const call = signal ? { signal } : {};
    if (foreign && (await registry.takeBlob(names.to, blob, foreign, { ...call, verify, read }))) return counts.came("linked");
    await registry.putBlob(names.to, blob, counted(storage.open(path), read), call);
    counts.came("copied");
  }
}

/** Errors of one item. Every other one ends the run: a full disk, a quota, a store that does not answer. */
const itemCodes: ReadonlySet<string> = new Set([
  "BLOB_UNKNOWN",
  "DIGEST_INVALID",
  "MANIFEST_BLOB_UNKNOWN",
  "MANIFEST_INVALID",
  "MANIFEST_UNKNOWN",
  "NAME_INVALID",
  "SIZE_INVALID",
  "UNKNOWN",
]);

/** @throws the error, when it is none of one item. */
export function itemError(error: unknown): RegistryError {
  if (isRegistryError(error) && itemCodes.has(error.code)) return error;
  throw error;
}
