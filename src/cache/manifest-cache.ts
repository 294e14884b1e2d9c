import { LRUCache } from "lru-cache";
import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError } from "../core/errors.js";
import { type Lookup, mapFound, type Served } from "../core/lookup.js";
import { type Manifest, parseManifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, LinkingRegistry, ManifestContent, Registry } from "../core/registry.js";
import { untilAborted } from "../core/until-aborted.js";
import type { Partition } from "../local/partition.js";
import { Freshness } from "./freshness.js";

/** Links of a cache remember that their bytes come from its source, of which there is one. */
export const sourceMember = "source";

/** Answers that there is nothing: each costs a client's question, and a client asks for few names. */
const rememberedNegatives = 10_000;

/** What a cache may answer without or against its source. Milliseconds. */
export interface FreshnessPolicy {
  /** A tag that was confirmed within this time is served without asking. */
  readonly tagTtl: number;
  /** So long after that it is served at once, and confirmed meanwhile. */
  readonly staleWhileRevalidate: number;
  /** So long after its last confirmation it is served when the source cannot answer. */
  readonly staleIfError: number;
  /** How long "there is none" and "refused" are remembered. */
  readonly negativeTtl: number;
  /** What becomes of a tag that the source has no more. */
  readonly deletedTags: "forget" | "keep";
}

export interface ManifestCacheOptions {
  readonly source: Registry;
  readonly store: LinkingRegistry;
  readonly partition: Partition;
  readonly policy: FreshnessPolicy;
  /** Given to the source with every question. */
  readonly call: CallOptions;
  /** Called with every manifest that came from the source. */
  arrived(repository: string, descriptor: Descriptor, manifest: Manifest): void;
}

type Stored = Extract<Lookup<ManifestContent>, { kind: "found" }>;

/** Manifests of the source: digests never expire, tags are confirmed by HEAD once they are older than their time to live. */
export class ManifestCache {
  readonly #o: ManifestCacheOptions;
  readonly #fresh: Freshness;
  readonly #flights = new Map<string, Promise<Lookup<ManifestContent>>>();
  readonly #negatives = new LRUCache<string, { lookup: Lookup<never>; until: number }>({ max: rememberedNegatives });
  readonly #hit: Served;

  constructor(options: ManifestCacheOptions) {
    this.#o = options;
    this.#fresh = new Freshness(options.partition);
    this.#hit = { ...options.partition.served, cache: "hit" };
  }

  async get(repository: string, reference: string, o?: CallOptions): Promise<Lookup<ManifestContent>> {
    const { tagTtl, staleWhileRevalidate } = this.#o.policy;
    const stored = await this.#o.store.getManifest(repository, reference);
    const byDigest = reference.includes(":");
    if (stored.kind === "found" && byDigest) return { ...stored, served: this.#hit };
    const age = byDigest ? 0 : await this.#fresh.age(repository, reference);
    if (stored.kind === "found" && !o?.refresh) {
      if (age < tagTtl) return { ...stored, served: { ...this.#hit, age, ttl: tagTtl - age } };
      if (age < tagTtl + staleWhileRevalidate) {
        // Its failure is told by the next answer that cannot do without it.
        this.#flight(repository, reference, stored, age).catch(() => {});
        return this.#stale(stored, repository, reference, age, "it is being confirmed");
      }
    }
    const negative = o?.refresh ? undefined : this.#negatives.get(`${repository} ${reference}`);
    if (negative && negative.until > this.#o.partition.clock.now()) return negative.lookup;
    return untilAborted(this.#flight(repository, reference, stored.kind === "found" ? stored : undefined, age), o?.signal);
  }

  /** For a digest that is not here HEAD is passed on, since a GET may count against a pull limit; a tag is taken in at once, since its GET follows. */
  async resolve(repository: string, reference: string, o?: CallOptions): Promise<Lookup<Descriptor>> {
    if (reference.includes(":")) {
      const stored = await this.#o.store.resolveManifest(repository, reference);
      return stored.kind === "found"
        ? { ...stored, served: this.#hit }
        : this.#told(await this.#o.source.resolveManifest(repository, reference, { ...o, ...this.#o.call }));
    }
    return mapFound(await this.get(repository, reference, o), (content) => content.descriptor);
  }

  /** Detached from the caller: the first to ask may leave, the others still want the answer. */
  #flight(repository: string, reference: string, stored: Stored | undefined, age: number): Promise<Lookup<ManifestContent>> {
    const key = `${repository} ${reference}`;
    const running = this.#flights.get(key);
    if (running) return running;
    const asked = reference.includes(":") ? this.#fetch(repository, reference) : this.#revalidate(repository, reference, stored, age);
    const flight = asked
      .then((lookup) => {
        this.#rememberNegative(key, lookup);
        return lookup;
      })
      .finally(() => this.#flights.delete(key));
    this.#flights.set(key, flight);
    return flight;
  }

  #rememberNegative(key: string, lookup: Lookup<ManifestContent>): void {
    const { policy, partition } = this.#o;
    if (lookup.kind !== "absent" && lookup.kind !== "denied") this.#negatives.delete(key);
    else this.#negatives.set(key, { lookup, until: partition.clock.now() + policy.negativeTtl });
  }

  async #revalidate(repository: string, tag: string, stored: Stored | undefined, age: number): Promise<Lookup<ManifestContent>> {
    const { source, call, policy } = this.#o;
    const now = await source.resolveManifest(repository, tag, call);
    switch (now.kind) {
      case "found": {
        if (stored?.value.descriptor.digest === now.value.digest) {
          await this.#fresh.confirm(repository, tag);
          return { ...stored, served: { ...this.#hit, age: 0, ttl: policy.tagTtl } };
        }
        const fetched = await this.#fetch(repository, now.value.digest, tag);
        return fetched.kind === "unavailable" ? this.#orStale(fetched, stored, repository, tag, age) : fetched;
      }
      case "absent":
      case "linked":
        return stored ? this.#gone(stored, repository, tag, age) : { kind: "absent" };
      case "denied":
      case "unavailable":
        return this.#orStale(now, stored, repository, tag, age);
    }
  }

  async #gone(stored: Stored, repository: string, tag: string, age: number): Promise<Lookup<ManifestContent>> {
    const { store, policy } = this.#o;
    this.#tell(repository, tag, "gone", age, "the source has this tag no more");
    if (policy.deletedTags === "keep") {
      const warnings = ["the source has this tag no more; it is kept here"];
      await this.#fresh.confirm(repository, tag);
      return { ...stored, served: { ...this.#hit, cache: "stale", age, ttl: policy.tagTtl, warnings } };
    }
    await store.deleteManifest(repository, tag).catch(ignoreUnknown);
    await this.#fresh.forget(repository, tag);
    return { kind: "absent" };
  }

  #orStale(
    failure: Extract<Lookup<never>, { kind: "denied" | "unavailable" }>,
    stored: Stored | undefined,
    repository: string,
    tag: string,
    age: number,
  ): Lookup<ManifestContent> {
    if (!stored || age >= this.#o.policy.staleIfError) return failure;
    return this.#stale(stored, repository, tag, age, `the source could not be asked: ${failure.error.message}`);
  }

  #stale(stored: Stored, repository: string, tag: string, age: number, why: string): Stored {
    this.#tell(repository, tag, "stale", age, why);
    const warnings = [`this may be outdated: ${why}`];
    return { ...stored, served: { ...this.#hit, cache: "stale", age, ttl: this.#o.policy.tagTtl - age, warnings } };
  }

  async #fetch(repository: string, digest: string, tag?: string): Promise<Lookup<ManifestContent>> {
    const { source, store, call } = this.#o;
    const here = tag === undefined ? undefined : await store.getManifest(repository, digest);
    const lookup = here?.kind === "found" ? here : await source.getManifest(repository, digest, call);
    if (lookup.kind !== "found") return lookup;
    const { bytes, descriptor } = lookup.value;
    const manifest = parseManifest(bytes, descriptor.mediaType);
    const origin = { member: sourceMember, repository };
    // Links first: once a manifest is visible, its layers are.
    const links = requiredReferences(manifest).blobs.map(async (blob) => {
      if ((await store.resolveBlob(repository, blob.digest)).kind === "absent") await store.linkBlob(repository, blob, origin);
    });
    await Promise.all(links);
    await store.putManifest(
      repository,
      digest,
      { bytes, mediaType: descriptor.mediaType },
      { references: "trust", ...(tag && { tags: [tag] }) },
    );
    if (tag !== undefined) await this.#fresh.confirm(repository, tag);
    this.#o.arrived(repository, descriptor, manifest);
    return this.#told(lookup);
  }

  #told<T>(lookup: Lookup<T>): Lookup<T> {
    if (lookup.kind !== "found") return lookup;
    const { member } = this.#o.partition.served;
    return {
      ...lookup,
      served: { ...lookup.served, member: [...member, ...lookup.served.member.filter((name) => !member.includes(name))], cache: "miss" },
    };
  }

  #tell(repository: string, tag: string, why: "stale" | "gone", age: number, message: string): void {
    const { clock, events, name } = this.#o.partition;
    events.emit("stale", { time: clock.now(), registry: name, repository, tag, why, age, message });
  }
}

function ignoreUnknown(error: unknown): void {
  if (!isRegistryError(error) || error.code !== "MANIFEST_UNKNOWN") throw error;
}
