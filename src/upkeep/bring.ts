import { LRUCache } from "lru-cache";
import pLimit from "p-limit";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { followManifest } from "../core/manifest.js";
import type { ManifestContent } from "../core/registry.js";
import type { Auditable, Place } from "./auditable.js";
import { Places } from "./auditable.js";
import { answered, type Reference, referencesOf, standing } from "./availability.js";
import { transfer } from "./blob-transfer.js";

export interface BringOptions {
  readonly signal?: AbortSignal;
  readonly concurrency: number;
  /** A reference has become known, in whichever state. */
  known(): void;
  /** A reference is here. */
  done(): void;
  received(bytes: number): void;
  failed(repository: string, reference: Descriptor, why: string): void;
}

/** So many references are remembered as looked after. */
const remembered = 100_000;

/** Brings what manifests refer to into the local registry, each reference once, verified, from whichever member gives it. */
export class Bring {
  readonly #aggregate: Auditable;
  readonly #places: Places;
  readonly #o: BringOptions;
  readonly #limit: ReturnType<typeof pLimit>;
  readonly #outcomes = new LRUCache<string, Promise<boolean>>({ max: remembered });

  constructor(aggregate: Auditable, options: BringOptions) {
    this.#aggregate = aggregate;
    this.#places = new Places(aggregate);
    this.#o = options;
    this.#limit = pLimit(options.concurrency);
  }

  /** @returns whether everything the manifest refers to is here now. */
  async references(repository: string, { bytes, descriptor }: ManifestContent): Promise<boolean> {
    const references = referencesOf(followManifest(bytes, descriptor.mediaType));
    const blobs = await Promise.all(
      references.flatMap((reference) => (reference.as === "blob" ? [this.#once(repository, reference)] : [])),
    );
    let all = blobs.every(Boolean);
    // One after the other: each holds a manifest in memory while what it refers to is brought.
    for (const reference of references) if (reference.as === "manifest" && !(await this.#once(repository, reference))) all = false;
    return all;
  }

  #once(repository: string, reference: Reference): Promise<boolean> {
    const key = `${repository} ${reference.as} ${reference.descriptor.digest}`;
    const known = this.#outcomes.get(key);
    if (known) return known;
    this.#o.known();
    const outcome = this.#bring(repository, reference);
    this.#outcomes.set(key, outcome);
    return outcome;
  }

  async #bring(repository: string, reference: Reference): Promise<boolean> {
    const { signal, done } = this.#o;
    signal?.throwIfAborted();
    const { here, origin, as } = await standing(this.#aggregate.local, repository, reference, { priority: "background" });
    if (as === "manifest") return this.#manifest(repository, reference.descriptor, here);
    if (here) {
      done();
      return true;
    }
    return this.#limit(() => this.#blob(repository, reference.descriptor, this.#places.of(repository, origin)));
  }

  async #blob(repository: string, descriptor: Descriptor, places: readonly Place[]): Promise<boolean> {
    const { local } = this.#aggregate;
    const { signal, received, done, failed } = this.#o;
    const call = signal ? { signal } : {};
    signal?.throwIfAborted();
    // Whoever has it still has to confirm that; then the bytes that others brought to the same store will do.
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

  async #manifest(repository: string, descriptor: Descriptor, here: boolean): Promise<boolean> {
    const { done, failed } = this.#o;
    const content = here ? await this.#stored(repository, descriptor) : await this.#limit(() => this.#fetched(repository, descriptor));
    if (typeof content === "string") {
      failed(repository, descriptor, content);
      return false;
    }
    const complete = await this.references(repository, content);
    if (here) {
      done();
      return complete;
    }
    const refused = complete ? await this.#store(repository, { ...content, descriptor }) : "not all it refers to could be brought";
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
