import { RegistryError } from "../core/errors.js";
import type { UploadRecord } from "../core/records.js";
import { type Exceeded, type ShareLimits, Shares, sharerOf } from "../core/shares.js";

/** What uploads in progress may take up, of all callers together and of each. */
export interface UploadLimits {
  readonly sessions: ShareLimits;
  /** Staged bytes. */
  readonly bytes: ShareLimits;
}

/** What a push whose size nobody knows asks of caches that share a full store. */
export const roomForPush = 256 * 1024 * 1024;

/** Seconds. podman tries again on 429 and on nothing else; by then others may have finished. */
const retryAfter = 30;

interface Use {
  readonly sharer: string;
  bytes: number;
}

/**
 * How much of its limits the uploads of one registry take up. Counted in memory, so that no push reads other uploads' records; what other processes hold
 * becomes known with each sweep.
 */
export class UploadUsage {
  readonly #limits: UploadLimits;
  readonly #uses = new Map<string, Use>();
  readonly #sessions: Shares;
  readonly #bytes: Shares;

  constructor(limits: UploadLimits) {
    this.#limits = limits;
    this.#sessions = new Shares(limits.sessions);
    this.#bytes = new Shares(limits.bytes);
  }

  /** Whether another upload of this one would be refused. */
  isFullFor(sharer: string): boolean {
    return this.#sessions.exceededBy(sharer, 1) !== undefined;
  }

  /**
   * Counts an upload before anything is done for it.
   * @throws RegistryError TOOMANYREQUESTS when there are as many uploads as there may be, of all or of this one.
   */
  begin(id: string, sharer: string): void {
    const exceeded = this.#sessions.exceededBy(sharer, 1);
    if (exceeded) {
      throw new RegistryError(
        "TOOMANYREQUESTS",
        `${this.#limits.sessions[exceeded]} uploads ${ofWhom(exceeded)} are in progress, which is the limit: finish or cancel some, or try again later`,
        { retryAfter },
      );
    }
    this.set(id, sharer, 0);
  }

  /** @throws RegistryError INSUFFICIENT_STORAGE when the bytes would exceed the limit, of all or of this one. */
  add(id: string, bytes: number): void {
    const use = this.#uses.get(id);
    if (!use) return;
    const exceeded = this.#bytes.exceededBy(use.sharer, bytes);
    if (exceeded) {
      const held = exceeded === "all" ? this.#bytes.total : this.#bytes.of(use.sharer);
      throw new RegistryError(
        "INSUFFICIENT_STORAGE",
        `uploads ${ofWhom(exceeded)} hold ${held} bytes and may hold ${this.#limits.bytes[exceeded]}: finish or cancel some, then go on with this one`,
      );
    }
    this.set(id, use.sharer, use.bytes + bytes);
  }

  /** What is known for sure: from a record or from the store. */
  set(id: string, sharer: string, bytes: number): void {
    const before = this.#uses.get(id);
    const use = before ?? { sharer, bytes: 0 };
    if (!before) {
      this.#uses.set(id, use);
      this.#sessions.add(sharer, 1);
    }
    this.#bytes.add(use.sharer, bytes - use.bytes);
    use.bytes = bytes;
  }

  end(id: string): void {
    const use = this.#uses.get(id);
    if (!use) return;
    this.#uses.delete(id);
    this.#sessions.add(use.sharer, -1);
    this.#bytes.add(use.sharer, -use.bytes);
  }

  has(id: string): boolean {
    return this.#uses.has(id);
  }

  get ids(): readonly string[] {
    return [...this.#uses.keys()];
  }
}

function ofWhom(exceeded: Exceeded): string {
  return exceeded === "each" ? "of one caller" : "of all callers";
}

/** Who an upload counts for. */
export function sharerIn({ sharer, principal }: UploadRecord): string {
  return sharer ?? sharerOf(principal === undefined ? undefined : { caller: { name: principal } });
}
