import type { Clock } from "../core/clock.js";
import type { Connector } from "../core/connector.js";
import { RegistryError } from "../core/errors.js";
import type { LinkingRegistry, ReachMemory } from "../core/linking-registry.js";
import { assertPermanentName } from "../core/name.js";
import type { Registry } from "../core/registry.js";
import { filtered, showsEverything } from "../views/filtered.js";
import { compilePatterns, type Patterns } from "../views/patterns.js";
import { renamed } from "../views/renamed.js";
import type { InUse } from "./in-use.js";
import { passing } from "./passing.js";

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
  readonly reach: ReachMemory;
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
  local: LinkingRegistry,
  connectors: readonly Connector[],
  { hop, inUse, clock }: { readonly hop: string; readonly inUse: InUse; readonly clock?: Clock },
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
    const reach = local.reachMemory(name);
    const view = (memory: ReachMemory) => (open ? source : filtered(source, { ...filter, reach: memory, ...(clock && { clock }) }));
    const ours = (registry: Registry) => passing(rename ? renamed(registry, rename) : registry, hop, inUse);
    const visible = view(reach);
    return {
      connector,
      bySourceName: passing(visible, hop, inUse),
      byName: connector.reach === "links" ? undefined : ours(visible),
      probe: ours(view({ ...reach, remember: async () => {} })),
      reach,
      patterns: compilePatterns(filter.allow, filter.block),
      toSource: (repository) => (rename ? rename.toSource(repository) : repository),
    };
  });
}

/** Binds each connector's name to its source, or refuses one that stood for another source before. @throws RegistryError DENIED */
export async function claimNames(local: LinkingRegistry, connectors: readonly Connector[]): Promise<void> {
  for (const { name, source } of connectors) {
    if (source.identity !== undefined) await local.claimMember(name, source.identity);
  }
}
