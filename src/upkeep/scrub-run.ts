import { randomBytes } from "node:crypto";
import { type Clock, systemClock } from "../core/clock.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { contained, type EventSink, noEvents } from "../core/events.js";
import type { MetadataStore, RecordItem, Storage } from "../core/metadata-store.js";
import { allPages } from "../core/page.js";
import { recordKey } from "../core/records.js";
import { recordPages } from "../local/every-record.js";
import { readoptBlob, readoptFromQuarantine } from "../local/quarantine.js";
import type { StoredBytesOptions } from "../local/stored-bytes.js";
import { BoundedList } from "./bounded-list.js";
import { Healing } from "./heal.js";
import { Pace } from "./pace.js";
import { takeOut } from "./quarantine.js";
import type { ScrubFinding, ScrubLoss, ScrubOptions, ScrubReport } from "./scrub.js";
import { examine, isReadable, type StoredBlob, type Verdict } from "./scrub-read.js";
import { Tally } from "./tally.js";

/** Between two tellings of bytes alone. */
const tellEvery = 64 * 1024 * 1024;
/**
 * The part of all blobs that may be missing in a store that is there. Disks lose a sector or a folder; a restore that has not ended, or another volume, lacks much
 * more.
 */
const usualShare = 0.05;
/** So few are taken for lost whatever their share: a store of three blobs is scrubbed, too. */
const fewMissing = 10;
/** Locations in memory at a time: as hashes, some 25 MB. */
const comparedAtOnce = 1_000_000;
const toldPerListed = 10_000;
/** A blob that gets another place with every look at it is in good hands. */
const looks = 3;

/** In order of their digests, as their records are when their page is read. */
export async function* storedBlobs(metadata: MetadataStore, after: Digest | undefined): AsyncGenerator<StoredBlob> {
  for await (const page of recordPages(metadata, "blob", [], after)) yield* page.map(storedBlob);
}

function storedBlob({ key, value }: RecordItem<"blob">): StoredBlob {
  return { ...value, digest: parseDigest(key.parts[0] ?? "") };
}

/** A few from anywhere, and from the beginning where there are no more. */
async function someBlobs(metadata: MetadataStore): Promise<StoredBlob[]> {
  const after = `sha256:${randomBytes(8).toString("hex")}`;
  const range = { kind: "blob", under: [], limit: 20 } as const;
  return [...(await metadata.page({ ...range, after })), ...(await metadata.page(range))].map(storedBlob);
}

/** One scrub: what it has found, and what becomes of that. */
export class ScrubRun {
  readonly #storage: Storage;
  readonly #o: ScrubOptions;
  readonly #signal: AbortSignal;
  readonly #clock: Clock;
  readonly #events: EventSink;
  readonly #pace: Pace;
  readonly #healing: Healing;
  readonly #told = { checked: 0, bytes: 0, readopted: 0, healed: 0, received: 0 };
  readonly #corrupt: BoundedList<ScrubFinding>;
  readonly #missing: BoundedList<ScrubFinding>;
  readonly #unreadable: BoundedList<ScrubFinding & { twice: boolean }>;
  readonly #lost: BoundedList<ScrubLoss>;
  #after: string | undefined;
  #untold = 0;
  #located = 0;
  /** How many more may be found missing and taken out of use. */
  #mayTake = Number.POSITIVE_INFINITY;

  constructor(storage: Storage, options: ScrubOptions, rate: number, signal: AbortSignal) {
    this.#storage = storage;
    this.#o = options;
    this.#signal = signal;
    this.#clock = options.clock ?? systemClock;
    this.#events = contained(options.events ?? noEvents);
    this.#pace = new Pace(this.#clock, rate);
    this.#after = options.after;
    const { limit = 1000 } = options;
    this.#corrupt = new BoundedList(limit);
    this.#missing = new BoundedList(limit);
    this.#unreadable = new BoundedList(limit);
    this.#lost = new BoundedList(limit);
    const received = (bytes: number) => {
      this.#told.received += bytes;
    };
    this.#healing = new Healing({ metadata: storage.metadata, healers: options.heal ?? [], signal, received });
  }

  report(): ScrubReport {
    const [corrupt, missing, unreadable, lost] = [this.#corrupt, this.#missing, this.#unreadable, this.#lost];
    return {
      ...this.#told,
      corrupt: [...corrupt.kept],
      missing: [...missing.kept],
      unreadable: [...unreadable.kept],
      lost: [...lost.kept],
      omitted: corrupt.omitted + missing.omitted + unreadable.omitted + lost.omitted,
    };
  }

  /** All blobs up to this one are done. */
  passed(digest: Digest): void {
    this.#after = digest;
    this.#tell();
  }

  async look(recorded: StoredBlob): Promise<void> {
    let blob = recorded;
    for (let look = 0; look < looks; look++) {
      const verdict = await this.#examine(blob);
      if (verdict.kind === "whole") break;
      const now = await this.#storage.metadata.get(recordKey.blob(blob.digest));
      if (!now) return;
      if (now.value.location === blob.location && (await this.#conclude(blob, verdict))) break;
      blob = { ...now.value, digest: blob.digest };
    }
    this.#told.checked++;
  }

  /**
   * Compares what is recorded with what is stored before anything is taken out of use: where much is not there, it is the store that is not whole, as while a backup is
   * copied back or with the wrong volume mounted.
   * @throws RegistryError UNAVAILABLE when more is missing than `maxMissing` permits.
   */
  async checkPresence(): Promise<void> {
    const { maxMissing = usualShare, dryRun = false } = this.#o;
    if (dryRun || maxMissing >= 1) return;
    let missing = 0;
    let compared = new Tally();
    // The records come first: what is stored later is recorded later.
    for await (const page of recordPages(this.#storage.metadata, "blob", [])) {
      this.#signal.throwIfAborted();
      for (const { value } of page) compared.add(value.location);
      this.#located += page.length;
      if (compared.size < comparedAtOnce) continue;
      missing += await this.#notStored(compared);
      compared = new Tally();
    }
    if (compared.size > 0) missing += await this.#notStored(compared);
    this.#mayTake = Math.max(fewMissing - 1, Math.floor(maxMissing * this.#located));
    if (missing > this.#mayTake) throw this.#notWhole(`${missing} of ${this.#located} blobs are missing`, "nothing was changed");
  }

  #notWhole(what: string, done: string): RegistryError {
    return new RegistryError(
      "UNAVAILABLE",
      `${what}, which is more than usual (maxMissing: ${this.#o.maxMissing ?? usualShare}): ${done}. ` +
        "Is the volume or bucket the right one, and there as a whole? While a backup is copied back, wait for its end and scrub then. " +
        "If these blobs are lost for good, scrub with maxMissing: 1.",
    );
  }

  async #notStored(recorded: Tally): Promise<number> {
    let listed = 0;
    for await (const { location } of allPages((page) => this.#storage.blobs.list(page))) {
      this.#signal.throwIfAborted();
      recorded.delete(location);
      if (++listed % toldPerListed === 0) this.#tell();
    }
    if (recorded.size === 0) return 0;
    // Others were evicted or collected meanwhile, with their records.
    let missing = 0;
    for await (const page of recordPages(this.#storage.metadata, "blob", [])) {
      this.#signal.throwIfAborted();
      for (const { value } of page) missing += Math.min(1, recorded.count(value.location));
    }
    return missing;
  }

  /**
   * What earlier scrubs took out of use, whose records are gone, so that the walk does not come by them: bytes that are right now are taken into use again, others
   * are healed.
   */
  async restoreEarlier(): Promise<void> {
    const { metadata } = this.#storage;
    if (this.#o.dryRun) return;
    let last: Digest | undefined;
    for await (const page of recordPages(metadata, "quarantine", [])) {
      for (const { key } of page) {
        const digest = parseDigest(key.parts[0] ?? "");
        const [, location = ""] = key.parts;
        if ((await readoptBlob(this.#withClock, { digest, location }, this.#paced)) === "readopted") this.#told.readopted++;
      }
      for (const { key, value } of this.#o.heal?.length ? page : []) {
        const digest = parseDigest(key.parts[0] ?? "");
        // Several places of one blob follow each other.
        if (digest === last) continue;
        last = digest;
        if (!(await metadata.get(recordKey.blob(digest)))) await this.#heal(digest, value.size);
      }
    }
  }

  get #withClock(): Storage & { readonly clock: Clock } {
    return { ...this.#storage, clock: this.#clock };
  }

  get #paced(): StoredBytesOptions {
    const read = async (bytes: number) => {
      this.#read(bytes);
      await this.#pace.spend(bytes, this.#signal);
    };
    return { signal: this.#signal, read };
  }

  async #examine(blob: StoredBlob): Promise<Verdict> {
    const read = (bytes: number) => this.#read(bytes);
    const o = { blobs: this.#storage.blobs, pace: this.#pace, signal: this.#signal, read };
    const verdict = await examine(blob, o);
    if (verdict.kind !== "missing") return verdict;
    for (const other of await someBlobs(this.#storage.metadata))
      if (other.digest !== blob.digest && (await isReadable(other, o))) return verdict;
    // A volume that is not mounted is an empty folder, and what it lacks is not lost.
    return {
      kind: "unreadable",
      why: `${verdict.why}, nor any other blob: is the volume or bucket the right one, and there?`,
      twice: false,
    };
  }

  #read(bytes: number): void {
    this.#told.bytes += bytes;
    this.#untold += bytes;
    if (this.#untold >= tellEvery) this.#tell();
  }

  /** @returns whether the verdict is about what is in use. */
  async #conclude(blob: StoredBlob, verdict: Exclude<Verdict, { kind: "whole" }>): Promise<boolean> {
    const { digest, location, size } = blob;
    const finding = { digest, location, size, why: verdict.why };
    if (verdict.kind === "unreadable") {
      this.#unreadable.add({ ...finding, twice: verdict.twice });
      return true;
    }
    const { dryRun = false } = this.#o;
    const { kind: what, why } = verdict;
    if (!dryRun && !(await this.#takeOut(blob, verdict))) return false;
    (what === "corrupt" ? this.#corrupt : this.#missing).add(finding);
    this.#events.emit("damage", { time: this.#clock.now(), digest, location, size, what, why });
    if (dryRun) return true;
    // What was stored in its place before, or what a collection found.
    if (await readoptFromQuarantine(this.#withClock, digest, { ...this.#paced, except: location })) this.#told.readopted++;
    else await this.#heal(digest, size);
    return true;
  }

  async #takeOut(blob: StoredBlob, verdict: Extract<Verdict, { kind: "corrupt" | "missing" }>): Promise<boolean> {
    // Taken at once: several may be looked at the same time.
    if (verdict.kind === "missing" && --this.#mayTake < 0)
      throw this.#notWhole("blobs went missing while they were scrubbed", "no more are taken out of use");
    return takeOut(this.#storage.metadata, this.#clock, blob, verdict);
  }

  async #heal(digest: Digest, size: number): Promise<void> {
    const healed = await this.#healing.heal(digest, size);
    if (healed.kind === "healed") this.#told.healed++;
    else if (healed.kind === "lost") {
      const { claims, omitted, why } = healed;
      this.#lost.add({ digest, size, claims, omitted, why });
    }
  }

  #tell(): void {
    this.#untold = 0;
    this.#o.progress?.({ ...this.report(), located: this.#located, ...(this.#after !== undefined && { after: this.#after }) });
  }
}
