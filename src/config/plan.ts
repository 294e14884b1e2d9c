import { assertPermanentName } from "../core/name.js";
import type { Config, RegistryConfig, RegistryReference } from "./config.js";
import { nearest } from "./nearest.js";
import { below, type Problems } from "./reading.js";

/** One registry that is to be made. */
export interface Planned {
  /** Its name, or for one that is declared in place where that is. */
  readonly id: string;
  readonly path: string;
  /** The name under which it keeps its records unless it says another. */
  readonly permanentName: string;
  readonly config: RegistryConfig;
}

/** All registries that are to be made, each after those that it needs. */
export interface Plan {
  readonly order: readonly Planned[];
  readonly serve: string;
  /** The id that a reference at a path stands for. */
  idOf(reference: RegistryReference, path: string): string;
}

/** What the host brings along, by name. */
export interface Known {
  readonly storages: readonly string[];
  readonly registries: readonly string[];
}

/** References of one registry, each with its path. */
export function configReferencesOf(
  config: RegistryConfig,
  path: string,
): { readonly reference: RegistryReference; readonly path: string }[] {
  switch (config.kind) {
    case "cached":
    case "filtered":
    case "renamed":
    case "readOnly":
      return [{ reference: config.source, path: `${path}.source` }];
    case "aggregate":
      return [
        { reference: config.local, path: `${path}.local` },
        ...(config.connectors ?? []).map(({ source }, index) => ({ reference: source, path: `${path}.connectors[${index}].source` })),
      ];
    case "routes":
      return [
        ...Object.entries(config.routes).map(([name, reference]) => ({ reference, path: below(`${path}.routes`, name) })),
        ...(config.fallback === undefined ? [] : [{ reference: config.fallback, path: `${path}.fallback` }]),
        ...Object.entries(config.namespaces ?? {}).map(([host, reference]) => ({ reference, path: below(`${path}.namespaces`, host) })),
      ];
    default:
      return [];
  }
}

/** Resolves references, and finds cycles and registries that would keep their records under one name. Problems are collected. */
export function planOf(config: Config, known: Known, problems: Problems): Plan {
  const all = new Map<string, Planned>();
  const storages = new Set([...Object.keys(config.storages ?? {}), ...known.storages]);
  const declare = (id: string, path: string, permanentName: string, declared: RegistryConfig): void => {
    all.set(id, { id, path, permanentName, config: declared });
    for (const inner of configReferencesOf(declared, path)) {
      if (typeof inner.reference !== "string") declare(inner.path, inner.path, permanentName, inner.reference);
    }
  };
  for (const [name, declared] of Object.entries(config.registries)) {
    const path = below("registries", name);
    if (known.registries.includes(name)) problems.add(path, "has the name of a registry that the host gave");
    declare(name, path, name, declared);
  }
  for (const name of Object.keys(config.storages ?? {})) {
    if (known.storages.includes(name)) problems.add(below("storages", name), "has the name of a storage that the host gave");
  }

  const names = new Set([...Object.keys(config.registries), ...known.registries]);
  const idOf = (reference: RegistryReference, path: string) => (typeof reference === "string" ? reference : path);
  const check = (reference: RegistryReference, path: string): void => {
    if (typeof reference !== "string" || names.has(reference)) return;
    problems.add(path, `there is no registry ${JSON.stringify(reference)}${nearest(reference, names)}`);
  };
  check(config.serve, "serve");
  for (const { config: declared, path } of all.values())
    for (const one of configReferencesOf(declared, path)) check(one.reference, one.path);

  const kept = new Map<string, string>();
  for (const { config: declared, path, permanentName } of all.values()) {
    if (declared.kind !== "local" && declared.kind !== "cached") continue;
    const { storage, name = permanentName } = declared;
    if (!storages.has(storage))
      problems.add(`${path}.storage`, `there is no storage ${JSON.stringify(storage)}${nearest(storage, storages)}`);
    problems.attempt(declared.name === undefined ? path : `${path}.name`, () => assertPermanentName(name, "registry"));
    const place = JSON.stringify([storage, name]);
    const other = kept.get(place);
    if (other !== undefined)
      problems.add(path, `keeps its records under the name ${JSON.stringify(name)}, as ${other} does: give one another name`);
    kept.set(place, path);
  }
  return { order: ordered(all, idOf, problems), serve: config.serve, idOf };
}

/** Each registry after those that it needs. */
function ordered(all: ReadonlyMap<string, Planned>, idOf: Plan["idOf"], problems: Problems): Planned[] {
  const order = new Set<Planned>();
  const visit = (planned: Planned, way: readonly Planned[]): void => {
    if (order.has(planned)) return;
    const start = way.indexOf(planned);
    if (start >= 0) {
      const cycle = [...way.slice(start), planned].map(({ id }) => id).join(" -> ");
      problems.add(planned.path, `leads back to itself: ${cycle}`);
      return;
    }
    for (const { reference, path } of configReferencesOf(planned.config, planned.path)) {
      const next = all.get(idOf(reference, path));
      if (next) visit(next, [...way, planned]);
    }
    order.add(planned);
  };
  for (const planned of all.values()) visit(planned, []);
  return [...order];
}

/** Where a registry says that its credentials are. */
export function credentialsOf({ config, path }: Planned) {
  return "credentials" in config && config.credentials !== undefined ? [{ config: config.credentials, path: `${path}.credentials` }] : [];
}
