import type { Clock } from "../core/clock.js";
import type { Connector } from "../core/connector.js";
import type { Content } from "../core/content.js";
import { RegistryError } from "../core/errors.js";
import { type EventSink, reportFault } from "../core/events.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import { assertPermanentName } from "../core/name.js";
import { release, retain } from "../core/ownership.js";
import type { BlobContent, CallOptions, ReadyOptions, Registry, UploadSession } from "../core/registry.js";
import type { StoringRegistry, VisibleDigests } from "../core/storing-registry.js";
import type { Duration } from "../core/units.js";
import { mapReads, sessionThrough } from "../views/calls.js";
import { filtered, showsEverything } from "../views/filtered.js";
import { intercept } from "../views/intercept.js";
import { compilePatterns, type Patterns } from "../views/patterns.js";
import { renamed } from "../views/renamed.js";

interface MembershipOptions {
  readonly name: string;
  /** What the aggregate calls itself in `via`. */
  readonly hop: string;
  readonly local: StoringRegistry;
  readonly connectors: readonly Connector[];
  readonly clock: Clock;
  readonly events: EventSink;
}

/** The members at one time. Operations that began with them end with them. */
interface Generation {
  readonly connectors: readonly Connector[];
  readonly members: readonly ConnectedMember[];
  readonly sources: readonly Registry[];
  readonly inUse: UseCount;
}

/** Who belongs to an aggregate: changed while it runs. */
export class Membership {
  readonly #o: MembershipOptions;
  #now: Generation;
  /** Changes happen one after the other. */
  #changing: Promise<unknown> = Promise.resolve();
  readonly #retirement: Drain;
  #closed = false;
  /** Sources are being asked whether they are ready. */
  #asking = false;

  /** @throws RegistryError NAME_INVALID */
  constructor(options: MembershipOptions) {
    this.#o = options;
    this.#retirement = new Drain(options);
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
    await bindMemberNames(this.#o.local, connectors);
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
    await bindMemberNames(local, next.connectors);
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
    const inUse = new UseCount();
    const sources = [...new Set(connectors.map(({ source }) => source))].filter((source) => source !== local);
    return { connectors, members: connect(local, connectors, { hop, inUse, clock }), sources, inUse };
  }
}

/** One use of each, as `releaseEach` gives up. */
function retainEach(registries: readonly Registry[]): void {
  for (const registry of registries) retain([registry]);
}

/** What the aggregate's own registry is called where members are told apart. No connector may have this name. */
export const localName = "local";

/** A connector made ready: its source behind its filter, under the source's names and under ours. */
export interface ConnectedMember {
  readonly connector: Connector;
  /** Filtered, under the source's own names: what links speak of. */
  readonly bySourceName: Registry;
  /** Filtered, under this aggregate's names; `undefined` when the connector is reached only through links and mounts. */
  readonly byName: Registry | undefined;
  /** As `byName`, whatever the connector's reach, and its filter remembers nothing: for questions that must not change what is visible. */
  readonly probe: Registry;
  /** What the filter has let through. */
  readonly reach: VisibleDigests;
  /** The filter's patterns, over the source's names: `verdict` tells which one decided. */
  readonly patterns: Patterns;
  /** The source's name for one of ours. */
  toSource(repository: string): string | undefined;
}

/**
 * @param hop what the aggregate calls itself in `via`.
 * @throws RegistryError NAME_INVALID for a duplicate or malformed connector name or a malformed pattern.
 */
export function connect(
  local: StoringRegistry,
  connectors: readonly Connector[],
  { hop, inUse, clock }: { readonly hop: string; readonly inUse: UseCount; readonly clock?: Clock },
): readonly ConnectedMember[] {
  const names = new Set<string>();
  return connectors.map((connector) => {
    const { name, source, rename, reach: _, ...filter } = connector;
    assertPermanentName(name, "connector");
    if (name === localName) {
      throw new RegistryError(
        "NAME_INVALID",
        `no connector can be called "${localName}": it is what the aggregate's own registry is called`,
      );
    }
    if (names.has(name))
      throw new RegistryError(
        "NAME_INVALID",
        `two connectors are called ${JSON.stringify(name)}: links remember names, so each needs its own`,
      );
    names.add(name);
    const open = showsEverything(filter);
    const reach = local.visibleDigests(name);
    const view = (memory: VisibleDigests) => (open ? source : filtered(source, { ...filter, reach: memory, ...(clock && { clock }) }));
    const ours = (registry: Registry) => memberView(rename ? renamed(registry, rename) : registry, hop, inUse);
    const visible = view(reach);
    return {
      connector,
      bySourceName: memberView(visible, hop, inUse),
      byName: connector.reach === "links" ? undefined : ours(visible),
      probe: ours(view({ ...reach, remember: async () => {} })),
      reach,
      patterns: compilePatterns(filter.allow, filter.block),
      toSource: (repository) => (rename ? rename.toSource(repository) : repository),
    };
  });
}

/** Binds each connector's name to its source, or refuses one that stood for another source before. @throws RegistryError DENIED */
async function bindMemberNames(local: StoringRegistry, connectors: readonly Connector[]): Promise<void> {
  for (const { name, source } of connectors) {
    if (source.identity !== undefined) await local.bindMember(name, source.identity);
  }
}

/** A member as its aggregate asks it: it is told whom the question has passed, and what it gives counts as in use until it is read. */
function memberView(source: Registry, hop: string, inUse: UseCount): Registry {
  const passed = (o: CallOptions | undefined) => ({ via: [...(o?.via ?? []), hop], knownVia: [...(o?.knownVia ?? []), hop] });
  return intercept(
    source,
    ({ repository }) => repository,
    (guarded) => {
      const reads = mapReads(({ repository, options }, send) => send(guarded, repository, passed(options)));
      return { ...reads, getBlob: async (repository, digest, o) => inUse.reading(await reads.getBlob(repository, digest, o)) };
    },
  );
}

/**
 * Content that was answered may still be opened so long after: what can be removed at run time stays usable for that time. Remotes give up what nobody opens
 * after half a minute as well.
 */
export const opensWithin = 30_000;

/** What runs through a registry at the moment, so that a registry that is taken away is not closed under a transfer. */
export class UseCount {
  #running = 0;
  #waiting: (() => void)[] = [];

  async during<T>(run: () => Promise<T>): Promise<T> {
    const end = this.begin();
    try {
      return await run();
    } finally {
      end();
    }
  }

  /** The same answer; reading its bytes counts until the stream is closed. */
  reading(lookup: Lookup<BlobContent>): Lookup<BlobContent> {
    if (lookup.kind !== "found" || lookup.value.content.kind !== "stream") return lookup;
    return mapFound(lookup, (value) => ({ ...value, content: this.#counted(value.content) }));
  }

  /** The same session; what is done with it counts. */
  writing(session: UploadSession): UploadSession {
    return sessionThrough(session, (step) => this.during(step));
  }

  /** Counts one use until the answer is called. */
  begin(): () => void {
    this.#running++;
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      this.#running--;
      if (this.#running > 0) return;
      for (const resolve of this.#waiting.splice(0)) resolve();
    };
  }

  /** Resolves when nothing runs. */
  async idle(): Promise<void> {
    while (this.#running > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #counted(content: Content): Content {
    if (content.kind !== "stream") return content;
    return {
      kind: "stream",
      open: () => {
        const end = this.begin();
        try {
          return content.open().once("close", end);
        } catch (error) {
          end();
          throw error;
        }
      },
    };
  }
}

interface Retired {
  readonly registries: readonly Registry[];
  released?: Promise<void>;
}

/** Gives up registries that were taken away at run time, once nothing runs through them any more. */
export class Drain {
  readonly #o: { readonly clock: Clock; readonly events: EventSink; readonly name: string };
  readonly #retired = new Set<Retired>();
  readonly #closing = new AbortController();

  constructor(options: { readonly clock: Clock; readonly events: EventSink; readonly name: string }) {
    this.#o = options;
  }

  /** In the background: what goes wrong is told by an event. */
  retire(registries: readonly Registry[], inUse: UseCount): void {
    const retired: Retired = { registries };
    this.#retired.add(retired);
    this.#wait(retired, inUse).catch((error: unknown) => reportFault(this.#o, "a removed registry could not be closed", error));
  }

  /** Gives up at once what still waits. */
  async close(o?: { deadline?: Duration }): Promise<void> {
    this.#closing.abort();
    await Promise.all([...this.#retired].map((retired) => this.#release(retired, o)));
  }

  async #wait(retired: Retired, inUse: UseCount): Promise<void> {
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
