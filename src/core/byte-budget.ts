import { type Clock, systemClock } from "./clock.js";
import { RegistryError } from "./errors.js";

/** How long somebody waits for others to give bytes back, in milliseconds: longer than a burst takes, shorter than clients wait for an answer. */
const patience = 10_000;

/** Those who wait in one name are refused one after the other, in milliseconds: what the first gives back may be enough for the next. */
const apart = 250;
const mostApart = 10_000;

/** What one holder may have of the whole: the others then still have as much. */
const shareOfOne = 1 / 2;

/** What may grow by more than it needs: the rest is for those who have nothing yet. */
const shareOfGrowth = 1 / 4;

/** What a process holds at most, unless its host says otherwise: two thousand slow readers, or sixty manifests of the largest size. */
export const defaultBudget = 256 * 2 ** 20;

/** Who waits for what. */
interface Waiting {
  readonly bytes: number;
  readonly lease: ByteLease;
  readonly admit: () => void;
}

/** What one caller or address holds, and who waits in its name, in the order in which they came. */
class Holder {
  readonly key: string;
  held = 0;
  readonly waiting: Waiting[] = [];

  constructor(key: string) {
    this.key = key;
  }
}

/**
 * A limit on bytes that are held in memory for others: bodies that come in, and bodies that their clients do not read. A body that finds it used up waits, and its
 * request is refused with 429 when that takes too long. Nobody gets more than half of it, and holders that wait take turns.
 */
export class ByteBudget {
  readonly #limit: number;
  readonly #share: number;
  readonly #growth: number;
  readonly #clock: Clock;
  /** Those who hold or wait for something. In the order in which they get what is given back. */
  readonly #holders = new Map<string, Holder>();
  #held = 0;
  #waiting = 0;
  /** Somebody waits for whom only the whole is too small: who comes now would take it away. */
  #blocked = false;

  /** @param limit in bytes. */
  constructor(limit: number, clock: Clock) {
    this.#limit = limit;
    this.#share = limit * shareOfOne;
    this.#growth = limit * shareOfGrowth;
    this.#clock = clock;
  }

  /** Bytes that are held now. */
  get held(): number {
    return this.#held;
  }

  /** What one holder may have, in bytes. */
  get mostOfOne(): number {
    return this.#share;
  }

  /** @param holder the caller's name or address: leases of one holder share its half of the budget. */
  lease(holder: string): ByteLease {
    return new ByteLease(this, holder);
  }

  /** For leases. Whether the bytes were free, and are held now. Those who wait come first. */
  tryTake(key: string, bytes: number): boolean {
    const holder = this.#holders.get(key);
    if (this.#blocked || holder?.waiting.length) return false;
    return this.#taken(holder, key, bytes, this.#share, this.#limit);
  }

  /** For leases. As `tryTake`, for what one can do without. */
  tryGrow(key: string, bytes: number): boolean {
    if (this.#waiting > 0) return false;
    return this.#taken(this.#holders.get(key), key, bytes, this.#growth, this.#limit * shareOfOne);
  }

  /** For leases. @throws RegistryError TOOMANYREQUESTS when it takes too long; the signal's reason when that aborts. */
  async wait(lease: ByteLease, bytes: number, signal: AbortSignal): Promise<void> {
    const holder = this.#holderOf(lease.holder);
    const over = new AbortController();
    const turns = Math.min(mostApart, holder.waiting.length * apart);
    const timedOut = this.#clock.sleep(patience + turns, AbortSignal.any([signal, over.signal]));
    let waiting: Waiting | undefined;
    const admitted = new Promise<void>((admit) => {
      waiting = { bytes, lease, admit };
      holder.waiting.push(waiting);
      this.#waiting += 1;
      if (holder.held + bytes <= this.#share) this.#blocked = true;
    });
    const late = timedOut.then(() => {
      throw new RegistryError("TOOMANYREQUESTS", "the registry holds as many bytes in memory as it may: try again later", {
        retryAfter: 5,
      });
    });
    try {
      await Promise.race([admitted, late]);
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      over.abort();
      late.catch(() => {});
      const at = waiting ? holder.waiting.indexOf(waiting) : -1;
      if (at >= 0) {
        // Not admitted. It may have stood in front of others who need less.
        holder.waiting.splice(at, 1);
        this.#waiting -= 1;
        this.#forget(holder);
        this.#admit();
      }
    }
  }

  /** For leases. */
  give(key: string, bytes: number): void {
    const holder = this.#holders.get(key);
    if (!holder) return;
    this.#held -= bytes;
    holder.held -= bytes;
    this.#forget(holder);
    if (this.#waiting > 0) this.#admit();
  }

  #taken(holder: Holder | undefined, key: string, bytes: number, share: number, limit: number): boolean {
    const held = holder?.held ?? 0;
    if (held + bytes > share || this.#held + bytes > limit) return false;
    const by = holder ?? this.#holderOf(key);
    by.held += bytes;
    this.#held += bytes;
    return true;
  }

  #holderOf(key: string): Holder {
    const known = this.#holders.get(key);
    if (known) return known;
    const holder = new Holder(key);
    this.#holders.set(key, holder);
    return holder;
  }

  #forget(holder: Holder): void {
    if (holder.held === 0 && holder.waiting.length === 0) this.#holders.delete(holder.key);
  }

  /** What was given back goes to those who wait, one for each holder in turn, until the next one does not fit. */
  #admit(): void {
    this.#blocked = false;
    for (let passed = 0; this.#waiting > 0 && passed < this.#holders.size; ) {
      const [holder] = this.#holders.values();
      if (!holder) return;
      const [first] = holder.waiting;
      const permitted = first && holder.held + first.bytes <= this.#share;
      if (permitted && this.#held + first.bytes > this.#limit) {
        this.#blocked = true;
        return;
      }
      // To the end of the turns.
      this.#holders.delete(holder.key);
      this.#holders.set(holder.key, holder);
      if (permitted) {
        passed = 0;
        holder.waiting.shift();
        this.#waiting -= 1;
        holder.held += first.bytes;
        this.#held += first.bytes;
        first.lease.admitted(first.bytes);
        first.admit();
      } else {
        passed += 1;
      }
    }
  }
}

/** What one transfer holds of a budget. What it takes is given back by `release`, all at once. */
export class ByteLease {
  readonly holder: string;
  readonly #budget: ByteBudget;
  #held = 0;
  #released = false;

  constructor(budget: ByteBudget, holder: string) {
    this.#budget = budget;
    this.holder = holder;
  }

  /** Takes bytes if they are free now, and says whether. */
  tryTake(bytes: number): boolean {
    // What is larger than anybody's part would never be free.
    const counted = Math.min(bytes, this.#budget.mostOfOne);
    if (this.#released || !this.#budget.tryTake(this.holder, counted)) return false;
    this.#held += counted;
    return true;
  }

  /** As `tryTake`, for bytes that make something faster and that it can do without. */
  tryGrow(bytes: number): boolean {
    if (this.#released || !this.#budget.tryGrow(this.holder, bytes)) return false;
    this.#held += bytes;
    return true;
  }

  /**
   * Takes bytes when they are free.
   *
   * @param waiter its signal is looked at only where there is something to wait for.
   * @throws RegistryError TOOMANYREQUESTS when that takes longer than ten seconds, twenty where others of its holder wait before it; the signal's reason when that aborts.
   */
  async take(bytes: number, waiter: { readonly signal: AbortSignal }): Promise<void> {
    if (this.#released || this.tryTake(bytes)) return;
    await this.#budget.wait(this, Math.min(bytes, this.#budget.mostOfOne), waiter.signal);
  }

  /** For the budget: the bytes were taken for this lease. */
  admitted(bytes: number): void {
    if (this.#released) this.#budget.give(this.holder, bytes);
    else this.#held += bytes;
  }

  /** Gives back what it holds; it may take more. */
  empty(): void {
    const held = this.#held;
    this.#held = 0;
    if (held > 0) this.#budget.give(this.holder, held);
  }

  /** Gives everything back, also what is still waited for. Idempotent. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.empty();
  }
}

/** The budget of all in this process that have none of their own. */
export const sharedBudget = new ByteBudget(defaultBudget, systemClock);
