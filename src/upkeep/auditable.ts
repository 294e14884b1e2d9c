import { RegistryError } from "../core/errors.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import type { Origin } from "../core/lookup.js";
import type { Registry } from "../core/registry.js";

/** A connector as the aggregate has made it ready. */
export interface AuditableMember {
  readonly connector: { readonly name: string };
  /** Filtered, under the source's own names: what links speak of. */
  readonly bySourceName: Registry;
  /** Filtered, under the aggregate's names; `undefined` where the connector is never asked by name. */
  readonly byName: Registry | undefined;
  /** The source's name for one of ours. */
  toSource(repository: string): string | undefined;
}

/** What an aggregate tells of itself to those who look after it. */
export interface Auditable extends Registry {
  /** The write target. */
  readonly local: LinkingRegistry;
  /** Its connectors as they are at the moment, in order. */
  readonly members: readonly AuditableMember[];
  /** Whether connectors are never asked for this repository by name. */
  isReserved(repository: string): boolean;
}

/** A place where content of one of our repositories may be had: filters and names are applied already. */
export interface Place {
  readonly member: string;
  readonly registry: Registry;
  readonly repository: string;
}

/** Where an aggregate's members may have what a repository of ours refers to: the same rules as for a pull. */
export class Places {
  readonly #aggregate: Auditable;
  readonly #counts: (connector: string) => boolean;

  /** @param counts which of the connectors are asked. */
  constructor(aggregate: Auditable, counts: (connector: string) => boolean = () => true) {
    this.#aggregate = aggregate;
    this.#counts = counts;
  }

  /** Read anew each time: connectors may change while something runs. */
  get #members(): readonly AuditableMember[] {
    return this.#aggregate.members.filter(({ connector }) => this.#counts(connector.name));
  }

  /** The origin first, if its connector is here; then whoever may be asked by name, in order. */
  of(repository: string, origin?: Origin): Place[] {
    const linked = this.#members.find(({ connector }) => connector.name === origin?.member);
    const places = this.named(repository);
    if (!linked || !origin) return places;
    const first = { member: origin.member, registry: linked.bySourceName, repository: origin.repository };
    const sameName = linked.toSource(repository) === origin.repository;
    return [first, ...places.filter(({ member }) => member !== origin.member || !sameName)];
  }

  named(repository: string): Place[] {
    if (this.#aggregate.isReserved(repository)) return [];
    return this.#members.flatMap(({ connector, byName }) => (byName ? [{ member: connector.name, registry: byName, repository }] : []));
  }
}

/** @throws RegistryError NAME_UNKNOWN when the aggregate has no connector of that name. */
export function memberNamed(aggregate: Auditable, name: string): AuditableMember {
  const member = aggregate.members.find(({ connector }) => connector.name === name);
  if (member) return member;
  const known = aggregate.members.map(({ connector }) => connector.name).join(", ") || "none";
  throw new RegistryError("NAME_UNKNOWN", `there is no connector ${JSON.stringify(name)}: the connectors are ${known}`);
}
