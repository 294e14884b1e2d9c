import { systemClock } from "../core/clock.js";
import type { Connector, ManifestResolver, Member } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { contained, noEvents, type Surroundings } from "../core/events.js";
import { type Lookup, orThrow } from "../core/lookup.js";
import { parseManifest } from "../core/manifest.js";
import { once, release, retain } from "../core/ownership.js";
import type { Page } from "../core/page.js";
import { missingReference, requiredReferences } from "../core/references.js";
import type { LinkingRegistry, Registry } from "../core/registry.js";
import { toMilliseconds } from "../core/units.js";
import { mergePages } from "../views/merge-pages.js";
import { compilePatterns } from "../views/patterns.js";
import { AggregateBlobs } from "./blobs.js";
import { BringHome } from "./bring-home.js";
import { claimNames, connect } from "./members.js";
import { ordered } from "./resolve.js";

export interface AggregateOptions extends Surroundings {
  /** The write target, asked first. */
  readonly local: LinkingRegistry;
  /** In the order in which they are asked. */
  readonly connectors: readonly Connector[];
  /** Who answers for a manifest. Default: the first member, in order, that is not absent. */
  readonly resolver?: ManifestResolver;
  /** Names (patterns as in `allow`, without tags) that connectors are never asked for. Default: none. */
  readonly reserved?: readonly string[];
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
export function aggregate(options: AggregateOptions): Registry {
  const { local, connectors, resolver = ordered } = options;
  const clock = options.clock ?? systemClock;
  const events = contained(options.events ?? noEvents);
  const name = local.identity ?? "aggregate";
  const members = connect(local, connectors);
  const reserved = compilePatterns(options.reserved ?? []);
  const isReserved = (repository: string) => reserved.repository(repository) !== "none";
  const blobs = new AggregateBlobs({ name, local, members, isReserved, clock, events });
  const home = new BringHome({ name, local, members, outer: () => outer, clock, events });
  const parts = [...new Set<Registry>([local, ...connectors.map((connector) => connector.source)])];
  retain(parts);

  const localMember = memberOf("local", local, "stop");
  const connected = members.flatMap(({ connector, byName }) =>
    byName ? [memberOf(connector.name, byName, connector.onFailure ?? "stop")] : [],
  );
  const resolve = <T>(repository: string, reference: string, ask: (member: Member) => Promise<Lookup<T>>): Promise<Lookup<T>> => {
    const asked = isReserved(repository) ? [localMember] : [localMember, ...connected];
    return resolver.resolve({ repository, reference, members: asked }, ask);
  };
  const merged = async <T>(
    ask: (registry: Registry) => Promise<Lookup<Page<T>>>,
    limit: number,
    keyOf: (item: T) => string,
    hidden: boolean,
  ) => {
    const others = hidden ? [] : members.flatMap(({ connector, byName }) => (byName ? [{ member: connector.name, registry: byName }] : []));
    const all = [{ member: "local", registry: local as Registry }, ...others];
    const pages = await Promise.all(all.map(async ({ member, registry }) => ({ member, lookup: await ask(registry) })));
    return mergePages(pages, limit, keyOf, { member: all.map(({ member }) => member) });
  };

  const outer: Registry = {
    identity: `aggregate ${name}`,
    resolveManifest: (repository, reference, o) =>
      resolve(repository, reference, (member) => member.resolveManifest(repository, reference, o)),
    getManifest: (repository, reference, o) => resolve(repository, reference, (member) => member.getManifest(repository, reference, o)),
    resolveBlob: (repository, digest, o) => blobs.ask(repository, (registry, there) => registry.resolveBlob(there, digest, o)),
    getBlob: (repository, digest, o) => blobs.get(repository, digest, o),
    listTags: (repository, page, o) =>
      merged(
        (registry) => registry.listTags(repository, page, o),
        page.limit,
        (tag) => tag,
        isReserved(repository),
      ),
    listRepositories: (page, o) =>
      merged(
        (registry) => registry.listRepositories(page, o),
        page.limit,
        (repository) => repository,
        false,
      ),
    listReferrers: (repository, subject, page, o) =>
      merged(
        (registry) => registry.listReferrers(repository, subject, page, o),
        page.limit,
        (item) => item.digest,
        isReserved(repository),
      ),

    async putManifest(repository, reference, content, o) {
      if (o?.references === "trust") return local.putManifest(repository, reference, content, o);
      const manifest = parseManifest(content.bytes, content.mediaType);
      const { blobs: needed, children } = requiredReferences(manifest);
      for (const blob of needed) await blobs.claim(repository, blob.digest, o);
      let elsewhere = false;
      for (const child of children) {
        if ((await local.resolveManifest(repository, child.digest, o)).kind === "found") continue;
        const there = await outer.resolveManifest(repository, child.digest, o);
        if (there.kind === "found") elsewhere = true;
        else if (there.kind === "absent") await blobs.claim(repository, child.digest, o);
        // Whether the child exists could not be found out: to say that it does not would be wrong.
        else orThrow(there);
      }
      if (elsewhere) await checkAll(repository, [...needed, ...children]);
      // The local member's check holds at the moment of the commit; it does not know children that only a connector has.
      const stored = await local.putManifest(repository, reference, content, elsewhere ? { ...o, references: "trust" } : o);
      home.later(repository, manifest);
      return stored;
    },
    putBlob: (repository, expected, source, o) => local.putBlob(repository, expected, source, o),
    mountBlob: (repository, digest, from, o) => blobs.mount(outer, repository, digest, from, o),
    startUpload: (repository, o) => local.startUpload(repository, o),
    resumeUpload: (repository, id, o) => local.resumeUpload(repository, id, o),
    deleteManifest: (repository, reference, o) =>
      local
        .deleteManifest(repository, reference, o)
        .catch(behindConnector(repository, async () => outer.resolveManifest(repository, reference, o))),
    deleteBlob: (repository, digest, o) =>
      local.deleteBlob(repository, digest, o).catch(behindConnector(repository, async () => outer.resolveBlob(repository, digest, o))),
    forNamespace: () => undefined,
    async ready() {
      await Promise.all(parts.map((part) => part.ready()));
      await claimNames(local, members);
    },
    close: once(async (o = {}) => {
      await home.close(toMilliseconds(o.deadline ?? "10s"));
      await release(parts, o);
    }),
  };

  async function checkAll(repository: string, references: readonly Descriptor[]): Promise<void> {
    for (const reference of references) {
      if ((await local.resolveBlob(repository, reference.digest)).kind !== "absent") continue;
      if ((await outer.resolveManifest(repository, reference.digest)).kind !== "found") throw missingReference(reference);
    }
  }
  return outer;
}

function memberOf(name: string, registry: Registry, onFailure: "stop" | "next"): Member {
  return {
    name,
    onFailure,
    resolveManifest: (repository, reference, o) => registry.resolveManifest(repository, reference, o),
    getManifest: (repository, reference, o) => registry.getManifest(repository, reference, o),
  };
}

/** What only a connector gives cannot be deleted here; to say it is unknown would be wrong, since it is served. */
function behindConnector(repository: string, ask: () => Promise<Lookup<unknown>>): (error: unknown) => Promise<never> {
  return async (error) => {
    const unknown = isRegistryError(error) && error.status === 404;
    if (unknown && (await ask()).kind === "found") {
      throw new RegistryError(
        "UNSUPPORTED",
        `${repository} has this only through a connector: delete it at its source, or block it in the connector`,
      );
    }
    throw error;
  };
}
