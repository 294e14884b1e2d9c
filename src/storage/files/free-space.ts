import { statfs } from "node:fs/promises";
import { type Clock, systemClock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import type { EventSink } from "../../core/events.js";

export interface FreeSpaceOptions {
  readonly events: EventSink;
  readonly clock?: Clock;
  /** The part of the volume, from 0 to 1. */
  readonly below: number;
}

/** Between two looks, in milliseconds: a disk of some size does not fill up faster. */
const interval = 10_000;
/** Free space has to be so many times the limit before the next warning, so that a disk around the limit does not warn all the time. */
const recovered = 1.2;

/** Warns the host before the disk is full, once each time that it comes near: afterwards pushes fail, and a cache gives up what it keeps. */
export class FreeSpaceWatch {
  readonly #dir: string;
  readonly #o: FreeSpaceOptions;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #isLow = false;

  /** @throws RegistryError UNKNOWN for a part that is not from 0 to 1. */
  constructor(dir: string, o: FreeSpaceOptions) {
    if (!(o.below >= 0 && o.below <= 1)) throw new RegistryError("UNKNOWN", `freeSpaceWarning is a number from 0 to 1, not ${o.below}`);
    this.#dir = dir;
    this.#o = o;
  }

  /** Looks, now and then. Nobody waits for it; a disk that cannot be looked at says so when it is used. */
  look(): void {
    const { below, clock = systemClock } = this.#o;
    if (below === 0 || performance.now() - this.#lookedAt < interval) return;
    this.#lookedAt = performance.now();
    statfs(this.#dir).then(
      ({ bsize, blocks, bavail }) => this.#compare(bavail * bsize, blocks * bsize, clock),
      () => {},
    );
  }

  #compare(free: number, total: number, clock: Clock): void {
    const { below, events } = this.#o;
    const wasLow = this.#isLow;
    this.#isLow = free < total * below * (wasLow ? recovered : 1);
    if (!this.#isLow || wasLow) return;
    const megabytes = Math.floor(free / 1e6);
    const message = `only ${megabytes} MB of ${Math.floor(total / 1e6)} MB are free at ${this.#dir}: pushes fail once the disk is full; free space, collect garbage, or move the folder to a larger disk`;
    events.emit("fault", { time: clock.now(), registry: "storage", message });
  }
}
