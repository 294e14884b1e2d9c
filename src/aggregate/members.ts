import type { Connector } from "../core/connector.js";
import { RegistryError } from "../core/errors.js";
import { assertPermanentName } from "../core/name.js";
import type { LinkingRegistry, Registry } from "../core/registry.js";
import { filtered } from "../views/filtered.js";
import { renamed } from "../views/renamed.js";

/** A connector made ready: its source behind its filter, under the source's names and under ours. */
export interface ConnectedMember {
  readonly connector: Connector;
  /** Filtered, under the source's own names: what links speak of. */
  readonly bySourceName: Registry;
  /** Filtered, under this aggregate's names; `undefined` when the connector is reached only through links and mounts. */
  readonly byName: Registry | undefined;
  /** The source's name for one of ours. */
  toSource(repository: string): string | undefined;
}

/**
 * @throws RegistryError NAME_INVALID for a duplicate or malformed connector name or a malformed pattern.
 */
export function connect(local: LinkingRegistry, connectors: readonly Connector[]): readonly ConnectedMember[] {
  const names = new Set<string>();
  return connectors.map((connector) => {
    const { name, source, rename, allow, block } = connector;
    assertPermanentName(name, "connector");
    if (names.has(name))
      throw new RegistryError(
        "NAME_INVALID",
        `two connectors are called ${JSON.stringify(name)}: links remember names, so each needs its own`,
      );
    names.add(name);
    const open = allow === undefined && block === undefined;
    const reach = local.reachMemory(name);
    const bySourceName = open ? source : filtered(source, { reach, ...(allow && { allow }), ...(block && { block }) });
    const byName = rename ? renamed(bySourceName, rename) : bySourceName;
    return {
      connector,
      bySourceName,
      byName: connector.reach === "links" ? undefined : byName,
      toSource: (repository) => (rename ? rename.toSource(repository) : repository),
    };
  });
}

/** Binds each connector's name to its source, or refuses one that stood for another source before. @throws RegistryError DENIED */
export async function claimNames(local: LinkingRegistry, members: readonly ConnectedMember[]): Promise<void> {
  for (const { connector } of members) {
    if (connector.source.identity !== undefined) await local.claimMember(connector.name, connector.source.identity);
  }
}
