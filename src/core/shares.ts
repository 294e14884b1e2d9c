import { networkOf } from "./ip-addresses.js";
import type { CallOptions } from "./registry.js";

/**
 * Who counts as one where all share a limit: the caller, or the network that an anonymous one calls from. IPv6 hosts have a /64 to themselves, in which they may take
 * any address. Those of whom nothing is known are one.
 */
export function callerKey(o: Pick<CallOptions, "caller" | "address"> | undefined): string {
  if (o?.caller) return `caller ${o.caller.name}`;
  return o?.address === undefined ? "" : `network ${networkOf(o.address)}`;
}

/** A limit on what all hold together, and one on what each of them holds. */
export interface ShareLimits {
  readonly all: number;
  readonly each: number;
}

/** Which limit is in the way. */
export type Exceeded = "all" | "each";

/** Who holds how much of something that is limited. Those who hold nothing take no memory. */
export class Shares {
  readonly #limits: ShareLimits;
  readonly #held = new Map<string, number>();
  #total = 0;

  constructor(limits: ShareLimits) {
    this.#limits = limits;
  }

  get total(): number {
    return this.#total;
  }

  of(sharer: string): number {
    return this.#held.get(sharer) ?? 0;
  }

  /** What would be in the way of so much more, if anything is. */
  exceededBy(sharer: string, amount: number): Exceeded | undefined {
    if (this.of(sharer) + amount > this.#limits.each) return "each";
    return this.#total + amount > this.#limits.all ? "all" : undefined;
  }

  /** Adds, or takes away, whatever the limits are: what is there counts. */
  add(sharer: string, amount: number): void {
    const held = this.of(sharer) + amount;
    this.#total += amount;
    if (held > 0) this.#held.set(sharer, held);
    else this.#held.delete(sharer);
  }
}
