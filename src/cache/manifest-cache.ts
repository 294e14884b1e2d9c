import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf, parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { reportFault } from "../core/events.js";
import { evictFor } from "../core/eviction.js";
import { absent, type Lookup, mapFound, type Served } from "../core/lookup.js";
import { followManifest, isManifestType, type Manifest, parseManifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import type { StoringRegistry } from "../core/storing-registry.js";
import { untilAborted } from "../core/until-aborted.js";
import { isLoop } from "../core/via.js";
import type { Partition } from "../local/partition.js";
import type { Age, Freshness } from "./freshness.js";
import type { NegativeCache } from "./negative-cache.js";
import { SingleFlight } from "./single-flight.js";
import { sourceCall, type ViaOptions } from "./source-call.js";

/** What a cache may answer without or against its source. Milliseconds. */
interface FreshnessPolicy {
  /** A tag that was confirmed within this time is served without asking. */
  readonly tagTtl: number;
  /** So long after that it is served at once, and confirmed meanwhile. */
  readonly staleWhileRevalidate: number;
  /** So long after its last confirmation it is served when the source cannot answer. */
  readonly staleIfError: number;
  /** What becomes of a tag that the source has no more. */
  readonly deletedTags: "forget" | "keep";
}

interface ManifestCacheOptions {
  readonly source: Registry;
  readonly store: StoringRegistry;
  readonly partition: Partition;
  readonly freshness: Freshness;
  readonly negatives: NegativeCache;
  readonly intake: ManifestIntake;
  readonly policy: FreshnessPolicy;
  /** Given to the source with every question. */
  readonly call: CallOptions;
  /** Called with every manifest that was served from the store. */
  hit(repository: string, content: ManifestContent, o: ViaOptions | undefined): void;
}

/** The manifest that a tag points to here, and how old what is known of the tag is. */
interface Held {
  readonly content: ManifestContent;
  readonly age: Age;
}

const keptWarning = "the source has this tag no more; it is kept here";

/**
 * Manifests of the source: digests never expire, tags are confirmed by HEAD once they are older than their time to live.
 *
 * {@link ManifestIntake} brings a manifest that the store does not have. Questions that are the same run once ({@link SingleFlight}). What the source does not have, or
 * refuses, is remembered for seconds ({@link NegativeCache}). A tag that cannot be confirmed is answered stale, as far as the policy permits.
 */
export class ManifestCache {
  readonly #o: ManifestCacheOptions;
  readonly #manifests = new SingleFlight<ManifestContent>();
  readonly #heads = new SingleFlight<Descriptor>();
  readonly #served: Served;

  constructor(options: ManifestCacheOptions) {
    this.#o = options;
    this.#served = { ...options.partition.served, cache: "hit" };
  }

  async get(repository: string, reference: string, o?: CallOptions): Promise<Lookup<ManifestContent>> {
    const { policy, negatives, store } = this.#o;
    const key = `${repository} ${reference}`;
    const byDigest = reference.includes(":");
    if (byDigest) {
      const stored = await store.getManifest(repository, reference);
      if (stored.kind === "found") return this.#hit(repository, stored.value, o);
    } else if (!o?.refresh) {
      const held = await this.#held(repository, reference);
      if (held && held.age.asked < policy.tagTtl) return this.#fresh(repository, held, o);
      if (held && held.age.asked < policy.tagTtl + policy.staleWhileRevalidate) {
        void this.#o.intake.contained(`${repository}:${reference} could not be confirmed`, async () => {
          const confirmed = await this.#ask(repository, reference, o);
          if (confirmed.kind === "denied" || confirmed.kind === "unavailable") throw confirmed.error;
        });
        return this.#stale(repository, reference, held, "it is being confirmed", o);
      }
    }
    // A question that runs may have been answered before this call wanted a refresh.
    if (o?.refresh) await untilAborted(Promise.all([this.#manifests.over(key, o), this.#manifests.over(anew(key), o)]), o.signal);
    const negative = o?.refresh ? undefined : negatives.get(key);
    return negative ?? untilAborted(this.#ask(repository, reference, o), o?.signal);
  }

  /** For a digest that is not here HEAD is passed on, since a GET may count against a pull limit. A tag's manifest is brought at once, since its GET follows. */
  async resolve(repository: string, reference: string, o?: CallOptions): Promise<Lookup<Descriptor>> {
    if (!reference.includes(":")) return mapFound(await this.get(repository, reference, o), ({ descriptor }) => descriptor);
    const { source, store, negatives, call } = this.#o;
    const stored = await store.resolveManifest(repository, reference);
    if (stored.kind === "found") return { ...stored, served: this.#served };
    const key = `${repository} ${reference}`;
    const ask = async () => this.#fromSource(negatives.note(key, await source.resolveManifest(repository, reference, sourceCall(call, o))));
    return (o?.refresh ? undefined : negatives.get(key)) ?? untilAborted(this.#heads.join(key, o, ask), o?.signal);
  }

  /** Asks the source, detached from the caller: the first to ask may leave, the others still want the answer. */
  #ask(repository: string, reference: string, o: CallOptions | undefined): Promise<Lookup<ManifestContent>> {
    const { negatives, intake, call } = this.#o;
    const key = `${repository} ${reference}`;
    if (reference.includes(":")) {
      // Under a key of its own: a client's question does not go behind others because the same question was first asked in the background.
      const behind = o?.priority === "background" && !this.#manifests.has(key, o);
      const toSource = sourceCall(behind ? { ...call, priority: "background" } : call, o);
      return this.#manifests.join(behind ? `${key} background` : key, o, async () =>
        negatives.note(key, this.#fromSource(await intake.bring(repository, reference, toSource))),
      );
    }
    const refresh = o?.refresh === true;
    const newer = refresh || this.#manifests.has(anew(key), o);
    return this.#manifests.join(newer ? anew(key) : key, o, async () =>
      negatives.note(key, await this.#confirm(repository, reference, refresh, o)),
    );
  }

  /** Asks the source what the tag points to. @param refresh also where the tag was confirmed while this question waited. */
  async #confirm(repository: string, tag: string, refresh: boolean, o: ViaOptions | undefined): Promise<Lookup<ManifestContent>> {
    const { source, policy, freshness, intake, call } = this.#o;
    const toSource = sourceCall(call, o);
    const held = await this.#held(repository, tag);
    if (held && !refresh && held.age.asked < policy.tagTtl) return this.#fresh(repository, held, o);
    const now = await source.resolveManifest(repository, tag, toSource);
    if (now.kind === "denied" || now.kind === "unavailable") {
      return this.#orStale(now, `the source could not be asked: ${now.error.message}`, repository, tag, held, o);
    }
    if (now.kind !== "found") return held ? this.#gone(repository, tag, held, o) : { kind: "absent" };
    const { digest } = now.value;
    if (held?.content.descriptor.digest === digest) {
      await intake.contained(`the confirmation of ${repository}:${tag} could not be kept`, () => freshness.confirm(repository, tag));
      return this.#fresh(repository, { ...held, age: { asked: 0, seen: 0, gone: false } }, o);
    }
    const brought = await intake.bring(repository, digest, toSource, tag);
    if (brought.kind === "found") return this.#fromSource(brought);
    const why = brought.kind === "absent" || brought.kind === "linked" ? "it does not have it" : brought.error.message;
    return this.#orStale(brought, `the source has ${digest} for it now, but ${why}`, repository, tag, held, o);
  }

  async #gone(repository: string, tag: string, held: Held, o: ViaOptions | undefined): Promise<Lookup<ManifestContent>> {
    const { store, policy, freshness, intake } = this.#o;
    if (!held.age.gone) this.#tell(repository, tag, "gone", held.age.seen, "the source has this tag no more");
    if (policy.deletedTags === "keep") {
      await intake.contained(`that ${repository}:${tag} is gone could not be kept`, () => freshness.keep(repository, tag));
      return this.#fresh(repository, { ...held, age: { ...held.age, asked: 0, gone: true } }, o);
    }
    await intake.contained(`${repository}:${tag} could not be forgotten`, async () => {
      const ifMatch = held.content.descriptor.digest;
      await store.deleteManifest(repository, tag, { ifMatch }).catch(ignoreChanged);
      await freshness.forget(repository, tag);
    });
    return { kind: "absent" };
  }

  async #held(repository: string, tag: string): Promise<Held | undefined> {
    const { store, freshness } = this.#o;
    const stored = await store.getManifest(repository, tag);
    return stored.kind === "found" ? { content: stored.value, age: await freshness.age(repository, tag) } : undefined;
  }

  #hit(repository: string, content: ManifestContent, o: ViaOptions | undefined, more: Partial<Served> = {}): Lookup<ManifestContent> {
    this.#o.hit(repository, content, o);
    return { kind: "found", value: content, served: { ...this.#served, ...more } };
  }

  #fresh(repository: string, { content, age }: Held, o: ViaOptions | undefined): Lookup<ManifestContent> {
    const ttl = this.#o.policy.tagTtl - age.asked;
    return this.#hit(repository, content, o, { age: age.seen, ttl, ...(age.gone && { cache: "stale", warnings: [keptWarning] }) });
  }

  #orStale(
    answer: Exclude<Lookup<never>, { kind: "found" }>,
    why: string,
    repository: string,
    tag: string,
    held: Held | undefined,
    o: ViaOptions | undefined,
  ): Lookup<ManifestContent> {
    // A loop: nobody has it, or whoever asked. An older answer would hide that it was deleted.
    const isOutdated = answer.kind === "unavailable" && isLoop(answer.error);
    return held && !isOutdated && held.age.asked < this.#o.policy.staleIfError ? this.#stale(repository, tag, held, why, o) : answer;
  }

  #stale(repository: string, tag: string, { content, age }: Held, why: string, o: ViaOptions | undefined): Lookup<ManifestContent> {
    this.#tell(repository, tag, "stale", age.seen, why);
    const warnings = [...(age.gone ? [keptWarning] : []), `this may be outdated: ${why}`];
    return this.#hit(repository, content, o, { cache: "stale", age: age.seen, ttl: this.#o.policy.tagTtl - age.asked, warnings });
  }

  #fromSource<T>(lookup: Lookup<T>): Lookup<T> {
    if (lookup.kind !== "found") return lookup;
    const { member } = this.#o.partition.served;
    const inwards = lookup.served.member.filter((name) => !member.includes(name));
    return { ...lookup, served: { ...lookup.served, member: [...member, ...inwards], cache: "miss" } };
  }

  #tell(repository: string, tag: string, why: "stale" | "gone", age: number, message: string): void {
    const { clock, events, name } = this.#o.partition;
    events.emit("stale", { time: clock.now(), registry: name, repository, tag, why, age, message });
  }
}

/** The key of a question that is asked even if the tag is fresh. */
function anew(key: string): string {
  return `${key} anew`;
}

/** The tag is gone already, or another process has confirmed that it points to another digest. */
function ignoreChanged(error: unknown): void {
  if (!isRegistryError(error) || (error.code !== "MANIFEST_UNKNOWN" && error.code !== "PRECONDITION_FAILED")) throw error;
}

/** The origin in blob references of a cache: the bytes come from its source, of which there is one. No connector can have this name. */
export const sourceMember = "(source)";

interface ManifestIntakeOptions {
  readonly source: Registry;
  readonly store: StoringRegistry;
  readonly partition: Partition;
  readonly freshness: Freshness;
  /** Called with every manifest that came from the source and is kept. */
  arrived(repository: string, descriptor: Descriptor, manifest: Manifest, o: ViaOptions): void;
}

/** Brings manifests from the source into the store. What cannot be stored is passed on all the same: neither a full disk nor an unknown type fails a pull. */
export class ManifestIntake {
  readonly #o: ManifestIntakeOptions;

  constructor(options: ManifestIntakeOptions) {
    this.#o = options;
  }

  /** @param tag a tag that points to this digest, as the source has just said. */
  async bring(repository: string, digest: string, call: CallOptions, tag?: string): Promise<Lookup<ManifestContent>> {
    const { source, store, partition } = this.#o;
    const here = tag === undefined ? absent : await store.getManifest(repository, digest);
    let lookup = here.kind === "found" ? here : await source.getManifest(repository, digest, call);
    // A replica that lags behind, or a registry that converts for some readers, has it by its tag alone. That it has the tag it has said: absent is no answer any more.
    if (tag !== undefined && lookup.kind === "absent") {
      lookup = await source.getManifest(repository, tag, call);
      if (lookup.kind === "absent" || lookup.kind === "linked") return neither(repository, tag, digest);
      if (lookup.kind === "found") digest = lookup.value.descriptor.digest;
    }
    if (lookup.kind !== "found") return lookup;
    const { bytes } = lookup.value;
    if (digestOf(bytes, algorithmOf(parseDigest(digest))) !== digest) {
      return {
        kind: "unavailable",
        error: new RegistryError("UNAVAILABLE", `the source sent other bytes than ${digest}; they were discarded`),
      };
    }
    let content = lookup.value;
    await this.contained(`${digest} of ${repository} could not be kept`, async () => {
      try {
        content = await this.#keep(repository, digest, lookup.value, call, tag);
      } catch (error) {
        if (!isRegistryError(error) || error.code !== "INSUFFICIENT_STORAGE" || !(await evictFor(partition.blobs, bytes.byteLength)))
          throw error;
        content = await this.#keep(repository, digest, lookup.value, call, tag);
      }
    });
    return { ...lookup, value: content };
  }

  /** Runs what happens beside an answer: a failure is told by an event, and the answer is given all the same. */
  async contained(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      reportFault(this.#o.partition, what, error);
    }
  }

  /** @returns the manifest as it is stored: of a type that its body can have, and that this repository has known it by. The source may state another one. */
  async #keep(
    repository: string,
    digest: string,
    { bytes, descriptor: stated }: ManifestContent,
    call: CallOptions,
    tag: string | undefined,
  ): Promise<ManifestContent> {
    const { store, freshness, arrived } = this.#o;
    const manifest = keptManifest(bytes, stated.mediaType);
    const origin = { member: sourceMember, repository };
    // Blob references first: once a manifest is visible, its layers are.
    const references = requiredReferences(manifest).blobs.map(async (blob) => {
      if ((await store.resolveBlob(repository, blob.digest)).kind === "absent") await store.addBlobReference(repository, blob, origin);
    });
    await Promise.all(references);
    const put = (mediaType: string) =>
      store.putManifest(repository, digest, { bytes, mediaType }, { references: "trust", ...(tag && { tags: [tag] }) });
    const descriptor = await put(manifest.mediaType).catch(async (error: unknown) => {
      // Another question may have stored it as another type a moment ago.
      const stored = await store.resolveManifest(repository, digest);
      if (stored.kind !== "found" || stored.value.mediaType === manifest.mediaType) throw error;
      return put(stored.value.mediaType);
    });
    if (tag !== undefined) await freshness.confirm(repository, tag);
    arrived(repository, descriptor, manifest, call);
    return { descriptor, bytes };
  }
}

function neither(repository: string, tag: string, digest: string): Lookup<never> {
  const message = `the source says that ${repository}:${tag} is ${digest}, and gives neither the tag nor the digest`;
  return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", message, { retryAfter: 30 }) };
}

/** @throws RegistryError MANIFEST_INVALID for a type that is not kept, and for bytes of no kind. */
function keptManifest(bytes: Uint8Array, statedType: string): Manifest {
  const isKnown = isManifestType(statedType);
  return parseManifest(bytes, isKnown ? followManifest(bytes, statedType).mediaType : statedType);
}
