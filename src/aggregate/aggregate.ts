import { systemClock } from "../core/clock.js";
import type { Connector, ManifestResolver } from "../core/connector.js";
import { noEvents, type RuntimeOptions, reportFault, safeSink } from "../core/events.js";
import type { Lookup } from "../core/lookup.js";
import { madeOf } from "../core/mount-source.js";
import { closes, once } from "../core/ownership.js";
import type { Page, PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { SearchResult } from "../core/search.js";
import type { StoringRegistry } from "../core/storing-registry.js";
import { toMilliseconds } from "../core/units.js";
import { newHop } from "../core/via.js";
import { compilePatterns } from "../views/patterns.js";
import { AggregateBlobs } from "./blobs.js";
import { CanonicalNames } from "./canonical.js";
import { type Explanation, explain } from "./explain.js";
import { mergedListing } from "./listings.js";
import { LocalCopies } from "./local-copies.js";
import { type ConnectedMember, localName, Membership } from "./members.js";
import { AggregateManifests, firstFound, loopOf, StickyNames } from "./read.js";
import { knownListing, search } from "./search.js";
import { AggregateWrites } from "./writes.js";

export interface AggregateOptions extends RuntimeOptions {
  /** The write target, asked first. */
  readonly local: StoringRegistry;
  /** In the order in which they are asked. `setConnectors` changes them later. */
  readonly connectors: readonly Connector[];
  /** Who answers for a manifest. Default: `firstFound`, the first member, in order, that is not absent. */
  readonly resolver?: ManifestResolver;
  /** Names (patterns as in `allow`, without tags) that connectors are never asked for. Default: none. */
  readonly reserved?: readonly string[];
  /**
   * What happens when a repository's name, once served from one member by tag, is claimed by another. `warn` (default): a `conflict` event; `refuse`: also DENIED,
   * except for what is pushed here; `off`: nothing is remembered.
   */
  readonly sticky?: "off" | "warn" | "refuse";
}

/** A connector, made ready to be asked. */
export interface AggregateMember {
  readonly connector: Connector;
  /** Filtered, under the source's own names, as the origins of blob references have them. */
  readonly bySourceName: Registry;
  /** Filtered, under the aggregate's names; `undefined` when the connector is reached only through blob references and mounts. */
  readonly byName: Registry | undefined;
  /** The source's name for one of ours. */
  toSource(repository: string): string | undefined;
}

/** Many registries as one, and what can be asked of it and changed while it runs. */
export interface AggregateRegistry extends Registry {
  /** The write target. */
  readonly local: StoringRegistry;
  /** The connectors of this moment, made ready: what `findDangling`, `impactOfRemoving`, `copyToLocal` and `repair` work on. */
  readonly members: readonly AggregateMember[];
  /** Whether connectors are never asked for this repository by name. */
  isReserved(repository: string): boolean;
  /** Those of this moment, in order. */
  readonly connectors: readonly Connector[];
  /**
   * Other connectors from now on: added, removed, in another order, with other options. Everything is checked first. Operations that run, transfers included, end with the
   * connectors they began with; a source that is no longer used is closed after them, unless another composition holds it.
   *
   * @throws RegistryError NAME_INVALID for a duplicate or malformed name or pattern, DENIED when a name stood for another registry before, and what `ready()` of a
   *   source throws. Nothing has changed then.
   *
   * @example
   * ```ts
   * import { aggregate, localRegistry } from "oci-manifold";
   * import { memoryStorage } from "oci-manifold/storage/memory";
   * const storage = memoryStorage();
   * const all = aggregate({ local: localRegistry({ storage, name: "all" }), connectors: [] });
   * await all.setConnectors([{ name: "release", source: localRegistry({ storage, name: "release" }) }]);
   * await all.setConnectors(all.connectors.map((connector) => ({ ...connector, block: ["internal/**"] })));
   * await all.close();
   * ```
   */
  setConnectors(connectors: readonly Connector[]): Promise<void>;
  /**
   * Who would answer for a tag or digest, and why: every member is asked by HEAD, in order, and the resolver decides over their answers. Nothing is remembered by
   * it, except by caches that it asks.
   *
   * @example
   * ```ts
   * import { aggregate, localRegistry } from "oci-manifold";
   * import { memoryStorage } from "oci-manifold/storage/memory";
   * const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [] });
   * const { winner, why, members } = await all.explain("team/app", "1.0");
   * console.log(winner ?? "nobody", why, members);
   * await all.close();
   * ```
   */
  explain(repository: string, reference: string, o?: CallOptions): Promise<Explanation>;
  /**
   * Finds repositories by a part of their names, in ASCII order: what is stored here, what members list, what was served through them before, and what their
   * own search services say. What could not be searched is told in the page's warnings.
   */
  search(text: string, page: PageRequest, o?: CallOptions): Promise<Page<SearchResult>>;
}

/**
 * Many registries as one: what is pushed goes to `local`; what `local` does not have is looked for at the connectors. Between registries of the same
 * process no bytes are copied and no request is made.
 *
 * @throws RegistryError NAME_INVALID for a duplicate or malformed connector name or pattern; `ready()` throws DENIED when a name stood for another
 *   registry before.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const prerelease = aggregate({
 *   local: localRegistry({ storage, name: "prerelease" }),
 *   connectors: [{ name: "release", source: release, block: ["internal/**"] }],
 * });
 * await prerelease.ready();
 * ```
 */
export function aggregate(options: AggregateOptions): AggregateRegistry {
  const { local, resolver = firstFound } = options;
  const clock = options.clock ?? systemClock;
  const events = safeSink(options.events ?? noEvents);
  const name = local.identity ?? "aggregate";
  const hop = newHop();
  const reserved = compilePatterns(options.reserved ?? []);
  const isReserved = (repository: string) => reserved.repository(repository) !== "none";
  const membership = new Membership({ name, hop, local, connectors: options.connectors, clock, events });
  const canonical = new CanonicalNames(() => membership.members);
  const localCopies = new LocalCopies({ name, local, membership, outer: () => outer, clock, events });
  const distrust = local.distrust();
  const blobs = new AggregateBlobs({
    name,
    local,
    distrust,
    isReserved,
    pulled: (repository, blob) => localCopies.pulled(repository, blob),
    clock,
    events,
  });
  const isMember = (member: string) =>
    member === localName || membership.connectors.some((connector) => connector.name === member && connector.reach !== "links");
  const sticky = new StickyNames({ policy: options.sticky ?? "warn", name, memory: local.nameMemory(), clock, events, isMember });
  const index = local.nameIndex();
  const note = (member: string, repositories: readonly string[]) => {
    index
      .note(member, repositories)
      .catch((error) => reportFault({ events, clock, name }, `names of ${member} could not be recorded`, error));
  };
  const served = (member: string, repository: string) => note(member, [repository]);
  const manifests = new AggregateManifests({ local, distrust, resolver, sticky, isReserved, served });
  const writes = new AggregateWrites({ local, distrust, blobs, localCopies, outer: () => outer });

  const read = async <T>(o: CallOptions | undefined, run: (members: readonly ConnectedMember[]) => Promise<Lookup<T>>) =>
    loopOf(name, hop, o) ?? membership.during(run);
  const merged = <T>(
    o: CallOptions | undefined,
    hidden: boolean,
    limit: number,
    keyOf: (item: T) => string,
    ask: (registry: Registry) => Promise<Lookup<Page<T>>>,
  ) => read(o, (members) => mergedListing(local, hidden ? [] : members, ask, limit, keyOf));
  const itself = (item: string) => item;

  const outer: AggregateRegistry = {
    identity: `aggregate ${name}`,
    local,
    get members() {
      return membership.members;
    },
    isReserved,
    get connectors() {
      return membership.connectors;
    },
    setConnectors: (connectors) => membership.set(connectors),
    explain: (repository, reference, o) =>
      membership.during((members) => explain({ local, resolver, sticky, clock, isReserved }, members, repository, reference, o)),
    search: (text, page, o) => membership.during((members) => search({ local, index, members, isReserved }, text, page, o)),
    canonicalName: (repository) => (isReserved(repository) ? repository : canonical.of(repository)),
    resolveManifest: (repository, reference, o) => read(o, (members) => manifests.resolve(members, repository, reference, o)),
    getManifest: (repository, reference, o) => read(o, (members) => manifests.get(members, repository, reference, o)),
    resolveBlob: (repository, digest, o) => read(o, (members) => blobs.resolve(members, repository, digest, o)),
    getBlob: (repository, digest, o) => read(o, (members) => blobs.get(members, repository, digest, o)),
    listTags: (repository, page, o) =>
      merged(o, isReserved(repository), page.limit, itself, (registry) => registry.listTags(repository, page, o)),
    listRepositories: (page, o) =>
      read(o, (members) =>
        mergedListing(local, members, (registry) => registry.listRepositories(page, o), page.limit, itself, {
          listed: note,
          known: () => knownListing({ local, index, members, isReserved }, page, o),
        }),
      ),
    listReferrers: (repository, subject, page, o) =>
      merged(
        o,
        isReserved(repository),
        page.limit,
        (item) => item.digest,
        (registry) => registry.listReferrers(repository, subject, page, o),
      ),
    putManifest: (repository, reference, content, o) =>
      membership.during((members) => writes.putManifest(members, repository, reference, content, o)),
    putBlob: (repository, expected, source, o) => local.putBlob(repository, expected, source, o),
    mountBlob: (repository, digest, from, o) => membership.during((members) => blobs.mount(members, outer, repository, digest, from, o)),
    startUpload: (repository, o) => local.startUpload(repository, o),
    resumeUpload: (repository, id, o) => local.resumeUpload(repository, id, o),
    deleteManifest: (repository, reference, o) => writes.deleteManifest(repository, reference, o),
    deleteBlob: (repository, digest, o) => writes.deleteBlob(repository, digest, o),
    forNamespace: () => undefined,
    async ready(o) {
      await membership.ready(o);
      localCopies.resume();
    },
    close: once(async (o = {}) => {
      closes(outer);
      await localCopies.close(toMilliseconds(o.deadline ?? "10s"));
      await membership.close(o);
    }),
  };
  madeOf(outer, {
    parts: () => [local, ...membership.connectors.map(({ source }) => source)],
    behind: (repository, digest, o) => membership.during((members) => blobs.sourceOf(members, repository, digest, o)),
    namesOf: (part, repository) => [
      ...(part === local ? [repository] : []),
      ...membership.connectors.flatMap(({ source, rename, reach }) => {
        const ours = rename ? rename.fromSource(repository) : repository;
        return source !== part || reach === "links" || ours === undefined || isReserved(ours) ? [] : [ours];
      }),
    ],
  });
  return outer;
}
