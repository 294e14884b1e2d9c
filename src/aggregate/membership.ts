import type { Clock } from "../core/clock.js";
import type { Connector } from "../core/connector.js";
import type { EventSink } from "../core/events.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import { retain } from "../core/ownership.js";
import type { ReadyOptions, Registry } from "../core/registry.js";
import type { Duration } from "../core/units.js";
import { InUse } from "./in-use.js";
import { type ConnectedMember, claimNames, connect } from "./members.js";
import { Retirement, releaseEach } from "./retirement.js";

export interface MembershipOptions {
  readonly name: string;
  /** What the aggregate calls itself in `via`. */
  readonly hop: string;
  readonly local: LinkingRegistry;
  readonly connectors: readonly Connector[];
  readonly clock: Clock;
  readonly events: EventSink;
}

/** The members at one time. Operations that began with them end with them. */
interface Generation {
  readonly connectors: readonly Connector[];
  readonly members: readonly ConnectedMember[];
  readonly sources: readonly Registry[];
  readonly inUse: InUse;
}

/** Who belongs to an aggregate: changed while it runs. */
export class Membership {
  readonly #o: MembershipOptions;
  #now: Generation;
  /** Changes happen one after the other. */
  #changing: Promise<unknown> = Promise.resolve();
  readonly #retirement: Retirement;
  #closed = false;
  /** Sources are being asked whether they are ready. */
  #asking = false;

  /** @throws RegistryError NAME_INVALID */
  constructor(options: MembershipOptions) {
    this.#o = options;
    this.#retirement = new Retirement(options);
    this.#now = this.#generation(options.connectors);
    retain([options.local]);
    retainEach(this.#now.sources);
  }

  get connectors(): readonly Connector[] {
    return this.#now.connectors;
  }

  get members(): readonly ConnectedMember[] {
    return this.#now.members;
  }

  /** Runs an operation with the members of this moment: none of them is closed before it ends. */
  during<T>(run: (members: readonly ConnectedMember[]) => Promise<T>): Promise<T> {
    const { members, inUse } = this.#now;
    return members.length === 0 ? run(members) : inUse.during(() => run(members));
  }

  async ready(o?: ReadyOptions): Promise<void> {
    const { connectors, sources } = this.#now;
    await this.#readied(sources, o);
    await claimNames(this.#o.local, connectors);
  }

  /**
   * Among aggregates that show each other the question comes back, within the very call, to who is asking it: then only what is our own is waited for. Another
   * caller at the same time waits for everything.
   */
  #readied(sources: readonly Registry[], o?: ReadyOptions): Promise<unknown> {
    const again = this.#asking;
    this.#asking = true;
    try {
      return Promise.all([this.#o.local, ...(again ? [] : sources)].map((part) => part.ready(o)));
    } finally {
      this.#asking = again;
    }
  }

  /** @throws RegistryError NAME_INVALID or DENIED, and whatever `ready()` of a new source throws; nothing has changed then. */
  set(connectors: readonly Connector[]): Promise<void> {
    const change = this.#changing.then(() => this.#set(connectors));
    this.#changing = change.catch(() => {});
    return change;
  }

  async #set(connectors: readonly Connector[]): Promise<void> {
    const { local } = this.#o;
    if (this.#closed) throw new Error("this aggregate is closed");
    const next = this.#generation([...connectors]);
    await this.#readied(next.sources);
    await claimNames(local, next.connectors);
    // Before the old ones are given up, so that what stays is never without a holder.
    retainEach(next.sources);
    const old = this.#now;
    this.#now = next;
    this.#retirement.retire(old.sources, old.inUse);
  }

  async close(o: { deadline?: Duration }): Promise<void> {
    this.#closed = true;
    await this.#changing;
    await Promise.all([this.#retirement.close(o), releaseEach([this.#o.local, ...this.#now.sources], o)]);
  }

  #generation(connectors: readonly Connector[]): Generation {
    const { local, hop, clock } = this.#o;
    const inUse = new InUse();
    const sources = [...new Set(connectors.map(({ source }) => source))].filter((source) => source !== local);
    return { connectors, members: connect(local, connectors, { hop, inUse, clock }), sources, inUse };
  }
}

/** One use of each, as `releaseEach` gives up. */
function retainEach(registries: readonly Registry[]): void {
  for (const registry of registries) retain([registry]);
}
