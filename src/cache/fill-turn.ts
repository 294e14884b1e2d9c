import { type Clock, pause } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import type { Lookup } from "../core/lookup.js";
import type { FillLease } from "./fill-lease.js";

/** Milliseconds. Longer than a lease, so that whoever waits for a node that was killed takes over; a large layer is not waited for to its end. */
const patience = 30_000;
/** Between two looks, in milliseconds: a small blob is there at once, a large one may be seen a little later. */
const shortestPause = 50;
const longestPause = 500;

export interface TurnOptions {
  readonly lease: FillLease;
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** What the source says of the blob in the repository. */
  shown(): Promise<Lookup<Descriptor>>;
  /** Gives the repositories what another node has stored, where it is what the source has shown; false when it is gone again, `undefined` when it is something else. */
  link(shown: Descriptor): Promise<boolean | undefined>;
  /** What the answer is when nobody was asked. */
  readonly unknown: Lookup<Descriptor>;
  /** Called when another node fills it, or has filled it. */
  waiting(): void;
}

/** `filling`: the source is to be asked. Else what became of it: stored by another node, passed by, or refused by the source. */
export type Turn =
  | { readonly phase: "filling" }
  | { readonly phase: "stored" | "overflowed" | "failed"; readonly start: Lookup<Descriptor>; readonly elsewhere?: true };

/** Waits until this node is to fill a blob, or another one has. Nobody waits before the source has shown that the repository may see it. */
export async function turnToFill(o: TurnOptions): Promise<Turn> {
  const since = o.clock.now();
  let shown: Lookup<Descriptor> | undefined;
  for (;;) {
    const standing = await o.lease.take();
    if (standing === "ours") return { phase: "filling" };
    o.signal.throwIfAborted();
    if (standing === "not to wait for") return { phase: "overflowed", start: o.unknown };
    o.waiting();
    shown ??= await o.shown();
    if (shown.kind !== "found") return { phase: "failed", start: shown };
    if (standing === "stored") {
      // A store that cannot be written passes it on.
      const linked = await o.link(shown.value).catch(() => undefined);
      if (linked !== false) return { phase: linked ? "stored" : "overflowed", start: shown };
    }
    const waited = o.clock.now() - since;
    if (waited >= patience) return { phase: "overflowed", start: shown, elsewhere: true };
    await pause(o.clock, Math.min(longestPause, Math.max(shortestPause, waited / 4), patience - waited), o.signal);
  }
}
