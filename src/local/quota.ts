import pLimit from "p-limit";
import { expectedSizeOf } from "../core/blob-reference.js";
import type { Clock } from "../core/clock.js";
import { compareAndSet, conflicted } from "../core/compare-and-set.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { Change, Condition, MetadataStore, StoredRecord } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { untilAborted } from "../core/until-aborted.js";
import { endedBy } from "./ended-by.js";
import { recordPages } from "./every-record.js";

/** `Infinity` for no limit. */
interface QuotaLimits {
  readonly bytes: number;
  readonly repositories: number;
}

/** What a registry takes up, and what it may take up. */
export interface RegistryUsage {
  /** The distinct blobs that its repositories refer to, wherever the bytes are, and its manifests. */
  readonly bytes: number;
  /** Those that the catalog lists. */
  readonly repositories: number;
  readonly quota: { readonly bytes?: number; readonly repositories?: number };
}

export interface UsageOptions {
  /** Counts anew; changes wait for it. Default: false. */
  readonly recount?: boolean;
  /** Ends it, with the signal's reason. What was counted is forgotten. */
  readonly signal?: AbortSignal;
}

type Used = { readonly bytes: number; readonly repositories: number };

/** What a change adds. `counted`: something comes or goes, so the record of usage is part of the commit, even where the sum stays the same. */
interface Effect extends Used {
  readonly counted: boolean;
  readonly conditions: readonly Condition[];
}

/**
 * Keeps one registry within its quota. `metadata` is the store as the registry uses it: each commit that adds or removes a blob reference, a manifest or a repository
 * also rewrites the record of usage, conditional on its version. So whatever others commit at the same time, the sum is right and never above the quota.
 * {@link countUsage} counts anew from all records: when a registry first gets a quota, or when it is asked to.
 */
export class Quota {
  readonly metadata: MetadataStore;
  readonly #inner: MetadataStore;
  readonly #name: string;
  readonly #limits: QuotaLimits;
  readonly #clock: Clock;
  /** All write the same record: at the same time all but one would have to try again. */
  readonly #waiting = pLimit(1);

  constructor(inner: MetadataStore, name: string, limits: QuotaLimits, clock: Clock) {
    this.#inner = inner;
    this.#name = name;
    this.#limits = limits;
    this.#clock = clock;
    this.metadata = {
      get: (key) => inner.get(key),
      page: (range) => inner.page(range),
      names: (range) => inner.names(range),
      commit: (conditions, changes) =>
        changes.some((change) => this.#concerns(change))
          ? this.#turn(() => this.#commit(conditions, changes))
          : inner.commit(conditions, changes),
      ready: () => inner.ready(),
      close: () => inner.close(),
    };
  }

  async usage(o: UsageOptions = {}): Promise<RegistryUsage> {
    const { bytes, repositories } = this.#limits;
    const used = await this.#turn(async () => {
      // While there is no record nothing can be committed, here or in another process, so what is counted stays true.
      if (o.recount) await this.#inner.commit([], [{ remove: recordKey.usage(this.#name) }]);
      return (await this.#stored(o.signal)).value;
    }, o.signal);
    return {
      bytes: used.bytes,
      repositories: used.repositories,
      quota: { ...(Number.isFinite(bytes) && { bytes }), ...(Number.isFinite(repositories) && { repositories }) },
    };
  }

  /** Whether a blob reference would be refused, to be asked before the bytes are made durable. @throws RegistryError DENIED */
  async admit(repository: string, digest: Digest, size: number): Promise<void> {
    const reference: Change = { put: recordKey.link(this.#name, repository, digest), value: { size, linkedAt: 0 } };
    const { value } = await this.#turn(() => this.#stored());
    this.#check(value, await this.#effect([reference], value));
  }

  #turn<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return untilAborted(this.#waiting(work), signal);
  }

  #concerns(change: Change): boolean {
    const key = "put" in change ? change.put : change.remove;
    return key.parts[0] === this.#name && (key.kind === "link" || key.kind === "manifest" || key.kind === "repository");
  }

  async #commit(conditions: readonly Condition[], changes: readonly Change[]): Promise<boolean> {
    const key = recordKey.usage(this.#name);
    // Other processes may change the same registry; in this one changes wait for their turn.
    return compareAndSet(this.#name, async () => {
      const { value, version } = await this.#stored();
      const effect = await this.#effect(changes, value);
      this.#check(value, effect);
      const used = {
        ...value,
        // Never below zero: what was removed by others, past this record, was not taken off.
        bytes: Math.max(0, value.bytes + effect.bytes),
        repositories: Math.max(0, value.repositories + effect.repositories),
      };
      const committed = effect.counted
        ? await this.#inner.commit(
            [...conditions, ...effect.conditions, { key, is: "version", version }],
            [...changes, { put: key, value: used }],
          )
        : await this.#inner.commit([...conditions, ...effect.conditions], changes);
      if (committed) return true;
      return (await this.#hold(conditions)) ? conflicted : false;
    });
  }

  async #stored(signal?: AbortSignal): Promise<StoredRecord<"usage">> {
    const key = recordKey.usage(this.#name);
    return compareAndSet(this.#name, async () => {
      const stored = await this.#inner.get(key);
      if (stored) return stored;
      const counted = { ...(await countUsage(endedBy(this.#inner, signal), this.#name)), countedAt: this.#clock.now() };
      await this.#inner.commit([{ key, is: "absent" }], [{ put: key, value: counted }]);
      // Read again: somebody else may have counted, too.
      return conflicted;
    });
  }

  async #effect(changes: readonly Change[], used: Used): Promise<Effect> {
    let bytes = 0;
    let repositories = 0;
    let counted = false;
    const conditions: Condition[] = [];
    for (const change of changes.filter((one) => this.#concerns(one))) {
      const key = "put" in change ? change.put : change.remove;
      const before = await this.#inner.get(key);
      const size = await this.#sizeOf(change, before);
      if ("put" in change && before && size === 0) {
        // It is there already, and must be so at the moment of the commit.
        conditions.push({ key, is: "present" });
        continue;
      }
      if (!("put" in change) && !before) continue;
      counted = true;
      bytes += size;
      if (key.kind === "repository") repositories += "put" in change ? 1 : -1;
      // A manifest that cannot come is said before its layers are sent.
      if ("put" in change && key.kind === "link" && !before) await this.#checkRepository(key.parts[1] ?? "", used);
    }
    return { bytes, repositories, counted, conditions };
  }

  /** How many bytes one change adds. */
  async #sizeOf(change: Change, before: StoredRecord<RecordKindOf> | undefined): Promise<number> {
    const key = "put" in change ? change.put : change.remove;
    if (key.kind === "manifest") {
      const old = before?.bytes?.byteLength ?? 0;
      return ("put" in change ? (change.bytes?.byteLength ?? 0) : 0) - old;
    }
    if (key.kind !== "link") return 0;
    const old = sizeIn(before?.value);
    const now = "put" in change ? sizeIn(change.value) : 0;
    if (now === old && before) return 0;
    const [, repository = "", digest = ""] = key.parts;
    // Not by their names, which may lag behind another process: both would count the blob that they come to refer to at the same time.
    const references = await this.#inner.page({ kind: "linkByDigest", under: [digest, this.#name], limit: 2 });
    return references.some((reference) => reference.key.parts[2] !== repository) ? 0 : now - old;
  }

  async #checkRepository(repository: string, used: Used): Promise<void> {
    if (used.repositories < this.#limits.repositories || (await this.#inner.get(recordKey.repository(this.#name, repository)))) return;
    throw this.#tooMany(used);
  }

  #check(used: Used, { bytes, repositories }: Used): void {
    if (repositories > 0 && used.repositories + repositories > this.#limits.repositories) throw this.#tooMany(used);
    if (bytes <= 0 || used.bytes + bytes <= this.#limits.bytes) return;
    throw this.#exceeded(`quota of ${this.#limits.bytes} bytes, used ${used.bytes}: ${bytes} more do not fit`, used);
  }

  #tooMany(used: Used): RegistryError {
    return this.#exceeded(`quota of ${this.#limits.repositories} repositories, used ${used.repositories}: another one does not fit`, used);
  }

  #exceeded(what: string, { bytes, repositories }: Used): RegistryError {
    // DENIED (403) is the specification's code for a quota. INSUFFICIENT_STORAGE (507) would be tried again by clients, as any 5xx, which helps nobody here.
    return new RegistryError("DENIED", `${this.#name}: ${what}; delete something, or ask for a larger quota`, {
      detail: {
        quota: { bytes: finite(this.#limits.bytes), repositories: finite(this.#limits.repositories) },
        used: { bytes, repositories },
      },
    });
  }

  async #hold(conditions: readonly Condition[]): Promise<boolean> {
    for (const condition of conditions) {
      const stored = await this.#inner.get(condition.key);
      if (condition.is === "absent" ? stored : !stored) return false;
      if (condition.is === "version" && stored?.version !== condition.version) return false;
    }
    return true;
  }
}

type RecordKindOf = Parameters<MetadataStore["get"]>[0]["kind"];

/** Where the bytes are elsewhere, and nobody has verified them, what the manifest says of them counts. */
function sizeIn(reference: object | undefined): number {
  return reference === undefined ? 0 : (expectedSizeOf(reference) ?? 0);
}

function finite(limit: number): number | undefined {
  return Number.isFinite(limit) ? limit : undefined;
}

const pageSize = 1000;

/** What a registry takes up, counted anew from its records, in bounded memory. */
export async function countUsage(metadata: MetadataStore, name: string): Promise<{ bytes: number; repositories: number }> {
  let bytes = 0;
  for await (const page of recordPages(metadata, "link", [name])) {
    for (const { key, value } of page) {
      const [, repository, digest = ""] = key.parts;
      // A blob of several repositories counts in the first of them; names may lag behind another process.
      const [first] = await metadata.page({ kind: "linkByDigest", under: [digest, name], limit: 1 });
      if (first?.key.parts[2] === repository) bytes += expectedSizeOf(value) ?? 0;
    }
  }
  for await (const page of recordPages(metadata, "manifest", [name])) {
    for (const { key } of page) {
      const [, repository = "", digest = ""] = key.parts;
      bytes += (await metadata.get(recordKey.manifest(name, repository, parseDigest(digest))))?.bytes?.byteLength ?? 0;
    }
  }
  let repositories = 0;
  for (let after: string | undefined; ; ) {
    const names = await metadata.names({ kind: "repository", under: [name], limit: pageSize, ...(after !== undefined && { after }) });
    repositories += names.length;
    after = names.at(-1);
    if (names.length < pageSize) return { bytes, repositories };
  }
}
