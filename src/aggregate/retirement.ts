import type { Clock } from "../core/clock.js";
import type { EventSink } from "../core/events.js";
import { release } from "../core/ownership.js";
import type { Registry } from "../core/registry.js";
import type { Duration } from "../core/units.js";
import { type InUse, opensWithin } from "./in-use.js";

interface Retired {
  readonly registries: readonly Registry[];
  released?: Promise<void>;
}

/** Gives up registries that were taken away at run time, once nothing runs through them any more. */
export class Retirement {
  readonly #o: { readonly clock: Clock; readonly events: EventSink; readonly name: string };
  readonly #retired = new Set<Retired>();
  readonly #closing = new AbortController();

  constructor(options: { readonly clock: Clock; readonly events: EventSink; readonly name: string }) {
    this.#o = options;
  }

  /** In the background: what goes wrong is told by an event. */
  retire(registries: readonly Registry[], inUse: InUse): void {
    const retired: Retired = { registries };
    this.#retired.add(retired);
    this.#wait(retired, inUse).catch((error: unknown) => {
      const { events, clock, name } = this.#o;
      const why = error instanceof Error ? error.message : String(error);
      events.emit("fault", { time: clock.now(), registry: name, message: `a removed registry could not be closed: ${why}` });
    });
  }

  /** Gives up at once what still waits. */
  async close(o?: { deadline?: Duration }): Promise<void> {
    this.#closing.abort();
    await Promise.all([...this.#retired].map((retired) => this.#release(retired, o)));
  }

  async #wait(retired: Retired, inUse: InUse): Promise<void> {
    const { signal } = this.#closing;
    await this.#o.clock.sleep(opensWithin, signal).catch(() => {});
    // From here on close() does it.
    if (signal.aborted) return;
    await inUse.idle();
    await this.#release(retired);
  }

  #release(retired: Retired, o?: { deadline?: Duration }): Promise<void> {
    retired.released ??= releaseEach(retired.registries, o).finally(() => this.#retired.delete(retired));
    return retired.released;
  }
}

/** One use of each, of the same registry more than once where it stands there more than once. */
export async function releaseEach(registries: readonly Registry[], o?: { deadline?: Duration }): Promise<void> {
  const outcomes = await Promise.allSettled(registries.map((registry) => release([registry], o)));
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}
