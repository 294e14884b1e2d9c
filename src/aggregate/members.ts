import type { Clock } from "../core/clock.js";
import type { Connector } from "../core/connector.js";
import type { Content } from "../core/content.js";
import { RegistryError } from "../core/errors.js";
import { type EventSink, reportFault } from "../core/events.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import { assertPermanentName } from "../core/name.js";
import { release, retain } from "../core/ownership.js";
import type { BlobContent, CallOptions, ReadyOptions, Registry, UploadSession } from "../core/registry.js";
import { mapReads, sessionThrough } from "../core/registry-calls.js";
import type { StoringRegistry, VisibleDigests } from "../core/storing-registry.js";
import type { Duration } from "../core/units.js";
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

/** The members at one time. Operations that begin with them end with them. */
interface Generation {
  readonly connectors: readonly Connector[];
  readonly members: readonly ConnectedMember[];
  readonly sources: readonly Registry[];
  readonly useCount: UseCount;
}

/**
 * The members of an aggregate, which can change while it runs.
 *
 * {@link connect} makes a connector's source a member: behind its filter and under our names, seen through {@link memberView}. All members of one moment are a generation,
 * with one {@link UseCount}. A change makes a new generation; the sources of the old one are closed by {@link Drain}, once nothing runs through them any more.
 */
export class Membership {
  readonly #o: MembershipOptions;
  #now: Generation;
  /** The latest change: changes happen one after the other. */
  #changing: Promise<unknown> = Promise.resolve();
  readonly #drain: Drain;
  #closed = false;
  /** `ready()` of the sources is being called. */
  #callsReady = false;

  /** @throws RegistryError NAME_INVALID */
  constructor(options: MembershipOptions) {
    this.#o = options;
    this.#drain = new Drain(options);
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
    const { members, useCount } = this.#now;
    return members.length === 0 ? run(members) : useCount.during(() => run(members));
  }

  async ready(o?: ReadyOptions): Promise<void> {
    const { connectors, sources } = this.#now;
    await this.#readied(sources, o);
    await bindMemberNames(this.#o.local, connectors);
  }

  /**
   * Among aggregates that show each other `ready()` comes back, within the very call, to the aggregate that called it: then only the local registry is waited for. Another
   * caller at the same time waits for everything.
   */
  #readied(sources: readonly Registry[], o?: ReadyOptions): Promise<unknown> {
    const again = this.#callsReady;
    this.#callsReady = true;
    try {
      return Promise.all([this.#o.local, ...(again ? [] : sources)].map((part) => part.ready(o)));
    } finally {
      this.#callsReady = again;
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
    // Before the old ones are released, so that what stays is never without a holder.
    retainEach(next.sources);
    const old = this.#now;
    this.#now = next;
    this.#drain.add(old.sources, old.useCount);
  }

  async close(o: { deadline?: Duration }): Promise<void> {
    this.#closed = true;
    await this.#changing;
    await Promise.all([this.#drain.close(o), releaseEach([this.#o.local, ...this.#now.sources], o)]);
  }

  #generation(connectors: readonly Connector[]): Generation {
    const { local, hop, clock } = this.#o;
    const useCount = new UseCount();
    const sources = [...new Set(connectors.map(({ source }) => source))].filter((source) => source !== local);
    return { connectors, members: connect(local, connectors, { hop, useCount, clock }), sources, useCount };
  }
}

/** Holds each once, until `releaseEach`. */
function retainEach(registries: readonly Registry[]): void {
  for (const registry of registries) retain([registry]);
}

/** What the aggregate's own registry is called where members are told apart. No connector may have this name. */
export const localName = "local";

/** A connector made ready: its source behind its filter, under the source's names and under ours. */
export interface ConnectedMember {
  readonly connector: Connector;
  /** Filtered, under the source's own names, as the origins of blob references have them. */
  readonly bySourceName: Registry;
  /** Filtered, under this aggregate's names; `undefined` when the connector is reached only through blob references and mounts. */
  readonly byName: Registry | undefined;
  /** As `byName`, whatever the connector's reach, and its filter remembers nothing: for questions that must not change what is visible. */
  readonly probe: Registry;
  /** What permitted tags have led to. */
  readonly visibleDigests: VisibleDigests;
  /** The filter's patterns, over the source's names: `verdict` tells which one decided. */
  readonly patterns: Patterns;
  /** The source's name for one of ours. */
  toSource(repository: string): string | undefined;
}

/**
 * Makes members of connectors.
 *
 * @param hop what the aggregate calls itself in `via`.
 * @throws RegistryError NAME_INVALID for a duplicate or malformed connector name or a malformed pattern.
 */
export function connect(
  local: StoringRegistry,
  connectors: readonly Connector[],
  { hop, useCount, clock }: { readonly hop: string; readonly useCount: UseCount; readonly clock?: Clock },
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
    const visibleDigests = local.visibleDigests(name);
    const view = (memory: VisibleDigests) => (open ? source : filtered(source, { ...filter, reach: memory, ...(clock && { clock }) }));
    const ours = (registry: Registry) => memberView(rename ? renamed(registry, rename) : registry, hop, useCount);
    const visible = view(visibleDigests);
    return {
      connector,
      bySourceName: memberView(visible, hop, useCount),
      byName: connector.reach === "links" ? undefined : ours(visible),
      probe: ours(view({ ...visibleDigests, remember: async () => {} })),
      visibleDigests,
      patterns: compilePatterns(filter.allow, filter.block),
      toSource: (repository) => (rename ? rename.toSource(repository) : repository),
    };
  });
}

/** Binds each connector's name to its source, or refuses a name that meant another source before. @throws RegistryError DENIED */
async function bindMemberNames(local: StoringRegistry, connectors: readonly Connector[]): Promise<void> {
  for (const { name, source } of connectors) {
    if (source.identity !== undefined) await local.bindMember(name, source.identity);
  }
}

/** A member as its aggregate calls it: it is told whom the question has passed, and content that it gives counts as used until it is read. */
function memberView(source: Registry, hop: string, useCount: UseCount): Registry {
  const passed = (o: CallOptions | undefined) => ({ via: [...(o?.via ?? []), hop], knownVia: [...(o?.knownVia ?? []), hop] });
  return intercept(
    source,
    ({ repository }) => repository,
    (guarded) => {
      const reads = mapReads(({ repository, options }, send) => send(guarded, repository, passed(options)));
      return { ...reads, getBlob: async (repository, digest, o) => useCount.reading(await reads.getBlob(repository, digest, o)) };
    },
  );
}

/**
 * Content that was answered may be opened so long after, so a registry that is removed at run time stays open for that time. Remotes give up content that nobody opens
 * after half a minute as well. Milliseconds.
 */
export const opensWithin = 30_000;

/** How much runs through a registry at the moment, so that a registry that is removed is not closed under a transfer. */
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

  /** The same upload session; each step of it counts. */
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

interface Removed {
  readonly registries: readonly Registry[];
  released?: Promise<void>;
}

/** Releases registries that were removed at run time, once nothing runs through them any more. */
export class Drain {
  readonly #o: { readonly clock: Clock; readonly events: EventSink; readonly name: string };
  readonly #removed = new Set<Removed>();
  readonly #closing = new AbortController();

  constructor(options: { readonly clock: Clock; readonly events: EventSink; readonly name: string }) {
    this.#o = options;
  }

  /** Drains registries in the background. A failure is told by an event. */
  add(registries: readonly Registry[], useCount: UseCount): void {
    const removed: Removed = { registries };
    this.#removed.add(removed);
    this.#wait(removed, useCount).catch((error: unknown) => reportFault(this.#o, "a removed registry could not be closed", error));
  }

  /** Releases at once what is not drained yet. */
  async close(o?: { deadline?: Duration }): Promise<void> {
    this.#closing.abort();
    await Promise.all([...this.#removed].map((removed) => this.#release(removed, o)));
  }

  async #wait(removed: Removed, useCount: UseCount): Promise<void> {
    const { signal } = this.#closing;
    await this.#o.clock.sleep(opensWithin, signal).catch(() => {});
    // From here on close() does it.
    if (signal.aborted) return;
    await useCount.idle();
    await this.#release(removed);
  }

  #release(removed: Removed, o?: { deadline?: Duration }): Promise<void> {
    removed.released ??= releaseEach(removed.registries, o).finally(() => this.#removed.delete(removed));
    return removed.released;
  }
}

/** Releases each once; a registry that is listed twice, twice. */
export async function releaseEach(registries: readonly Registry[], o?: { deadline?: Duration }): Promise<void> {
  const outcomes = await Promise.allSettled(registries.map((registry) => release([registry], o)));
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}
