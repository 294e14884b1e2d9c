import { RegistryError } from "../core/errors.js";

/** What uploads in progress may take up. */
export interface UploadLimits {
  readonly sessions: number;
  /** Staged bytes of all uploads together. */
  readonly bytes: number;
}

/** What a push whose size nobody knows asks of caches that share a full store. */
export const roomForPush = 256 * 1024 * 1024;

/** Seconds. podman tries again on 429 and on nothing else; by then others may have finished. */
const retryAfter = 30;

/**
 * How much of its limits the uploads of one registry take up. Counted in memory, so that no push reads other uploads' records; what other processes hold
 * becomes known with each sweep.
 */
export class UploadUsage {
  readonly #limits: UploadLimits;
  readonly #sizes = new Map<string, number>();
  #bytes = 0;

  constructor(limits: UploadLimits) {
    this.#limits = limits;
  }

  get full(): boolean {
    return this.#sizes.size >= this.#limits.sessions;
  }

  /** @throws RegistryError TOOMANYREQUESTS when there are as many uploads as there may be. */
  begin(id: string): void {
    if (this.full) {
      throw new RegistryError(
        "TOOMANYREQUESTS",
        `${this.#limits.sessions} uploads are in progress, which is this registry's limit: finish or cancel some, or try again later`,
        { retryAfter },
      );
    }
    this.set(id, 0);
  }

  /** @throws RegistryError INSUFFICIENT_STORAGE when the bytes would exceed the limit. */
  add(id: string, bytes: number): void {
    if (this.#bytes + bytes > this.#limits.bytes) {
      throw new RegistryError(
        "INSUFFICIENT_STORAGE",
        `uploads in progress hold ${this.#bytes} bytes and may hold ${this.#limits.bytes}: finish or cancel some, then go on with this one`,
      );
    }
    this.set(id, (this.#sizes.get(id) ?? 0) + bytes);
  }

  /** What is known for sure: from a record or from the store. */
  set(id: string, bytes: number): void {
    this.#bytes += bytes - (this.#sizes.get(id) ?? 0);
    this.#sizes.set(id, bytes);
  }

  end(id: string): void {
    this.#bytes -= this.#sizes.get(id) ?? 0;
    this.#sizes.delete(id);
  }

  has(id: string): boolean {
    return this.#sizes.has(id);
  }

  get ids(): readonly string[] {
    return [...this.#sizes.keys()];
  }
}
