import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import { RegistryError } from "../core/errors.js";
import type { EventSink } from "../core/events.js";
import type { NameMemory, NameOrigin } from "../core/linking-registry.js";
import { localName } from "./members.js";

export type StickyPolicy = "off" | "warn" | "refuse";

export interface StickyNamesOptions {
  readonly policy: StickyPolicy;
  /** The aggregate's. */
  readonly name: string;
  readonly memory: NameMemory;
  readonly clock: Clock;
  readonly events: EventSink;
  /** Whether there is such a member now: a name of one that was removed is free. */
  isMember(name: string): boolean;
}

/** Names of which the record need not be read again, and conflicts that were told: so many each, the latest. */
const kept = 10_000;

/** Whose a name is: the member that it was first served from. Another one that has it too may be somebody who takes private names in public. */
export class StickyNames {
  readonly #o: StickyNamesOptions;
  readonly #known = new LRUCache<string, NameOrigin>({ max: kept });
  readonly #told = new LRUCache<string, true>({ max: kept });

  constructor(options: StickyNamesOptions) {
    this.#o = options;
  }

  /** Whose the name is now, changing nothing. */
  async origin(repository: string): Promise<NameOrigin | undefined> {
    const origin = this.#known.get(repository) ?? (await this.#o.memory.get(repository));
    return origin && this.#o.isMember(origin.member) ? origin : undefined;
  }

  /**
   * Decides whether a member may answer for a tag, and remembers the first that does.
   * @returns why not.
   */
  async refusal(repository: string, tag: string, member: string): Promise<RegistryError | undefined> {
    const { policy } = this.#o;
    if (policy === "off") return undefined;
    const origin = await this.#originOr(repository, member);
    if (!origin || origin.member === member) return undefined;
    const refused = this.refuses(member);
    this.#tell(repository, tag, member, origin, refused);
    return refused ? conflict(repository, member, origin) : undefined;
  }

  /** What is pushed here was meant to be served: the aggregate's own registry is never refused. */
  refuses(member: string): boolean {
    return this.#o.policy === "refuse" && member !== localName;
  }

  async #originOr(repository: string, member: string): Promise<NameOrigin | undefined> {
    const { memory, clock, events, name, policy } = this.#o;
    const known = this.#known.get(repository);
    if (known && this.#o.isMember(known.member)) return known;
    try {
      const stored = await memory.get(repository);
      const free = !stored || !this.#o.isMember(stored.member);
      const origin = free ? await memory.bind(repository, { member, since: clock.now() }, stored) : stored;
      this.#known.set(repository, origin);
      return origin;
    } catch (error) {
      if (policy === "refuse") throw error;
      const why = error instanceof Error ? error.message : String(error);
      events.emit("fault", {
        time: clock.now(),
        registry: name,
        message: `whose the name ${repository} is could not be remembered: ${why}`,
      });
      return undefined;
    }
  }

  #tell(repository: string, reference: string, member: string, origin: NameOrigin, refused: boolean): void {
    const pair = `${repository} ${member}`;
    if (this.#told.has(pair)) return;
    this.#told.set(pair, true);
    const { clock, events, name } = this.#o;
    const whose = { origin: origin.member, since: origin.since };
    events.emit("conflict", { time: clock.now(), registry: name, repository, reference, member, ...whose, refused });
  }
}

export function conflict(repository: string, member: string, origin: NameOrigin): RegistryError {
  const message = `${repository} is served from ${origin.member} since ${new Date(origin.since).toISOString()}, and ${member} claims it now`;
  return new RegistryError("DENIED", message, { detail: { members: [{ member, code: "DENIED", message }] } });
}
