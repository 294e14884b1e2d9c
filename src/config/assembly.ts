import { isDeepStrictEqual } from "node:util";
import type { AggregateRegistry } from "../aggregate/aggregate.js";
import { releaseEach } from "../aggregate/members.js";
import type { Connector } from "../core/connector.js";
import type { RuntimeOptions } from "../core/events.js";
import type { Storage } from "../core/metadata-store.js";
import { retain } from "../core/ownership.js";
import type { Registry } from "../core/registry.js";
import type { CredentialSource } from "../remote/credentials.js";
import { type Built, build, connectorsOf, type Parts, tableOf } from "./build.js";
import type { Config, RegistryConfig, RegistryReference, StorageConfig } from "./config.js";
import { configReferencesOf, credentialsOf, type Plan, type Planned, planOf } from "./plan.js";
import type { Problems } from "./reading.js";
import { checkCredentials } from "./secrets.js";

/** What a host gives beside the configuration. */
export interface ConfigRuntimeOptions extends RuntimeOptions {
  /** Storages by name, of kinds that a configuration has no words for. Default: none. */
  readonly storages?: Readonly<Record<string, Storage>>;
  /** Registries by name, to be used like those of the configuration. Default: none. */
  readonly registries?: Readonly<Record<string, Registry>>;
  /** Credentials, or functions that give them, by the name that the configuration uses. Default: none. */
  readonly credentials?: Readonly<Record<string, CredentialSource>>;
}

interface Made {
  readonly planned: Planned;
  readonly built: Built;
  /** What it was made of. */
  readonly parts: readonly object[];
}

/** Everything that a configuration has made. */
export interface Assembly {
  readonly plan: Plan;
  readonly storages: ReadonlyMap<string, { readonly config: StorageConfig; readonly storage: Storage }>;
  readonly made: ReadonlyMap<string, Made>;
  registry(reference: RegistryReference, path: string): Registry;
}

export const nothing: Assembly = {
  plan: { order: [], serve: "", idOf: () => "" },
  storages: new Map(),
  made: new Map(),
  registry: () => {
    throw new Error("nothing is made yet");
  },
};

export interface Assembled {
  readonly assembly: Assembly;
  /** Made now, each retained once. */
  readonly created: readonly Registry[];
}

/**
 * Makes what a configuration says, of what is there already where that is still the same. Nothing that serves is changed.
 * @throws RegistryError UNKNOWN with every problem; what was made is closed then.
 */
export async function assemble(config: Config, given: ConfigRuntimeOptions, before: Assembly, problems: Problems): Promise<Assembled> {
  const known = { storages: Object.keys(given.storages ?? {}), registries: Object.keys(given.registries ?? {}) };
  const plan = planOf(config, known, problems);
  const credentials = given.credentials ?? {};
  await Promise.all(plan.order.flatMap(credentialsOf).map((one) => checkCredentials(one.config, one.path, credentials, problems)));
  problems.throwAny();
  const storages = await openStorages(config, plan, before);
  const made = new Map<string, Made>();
  const created: Registry[] = [];
  const registry = (reference: RegistryReference, path: string): Registry => {
    const id = plan.idOf(reference, path);
    const there = made.get(id)?.built.registry ?? given.registries?.[id];
    if (!there) throw new Error(`${id} is needed before it is made`);
    return there;
  };
  const storage = (name: string): Storage => {
    const there = storages.get(name)?.storage ?? given.storages?.[name];
    if (!there) throw new Error(`there is no storage ${name}`);
    return there;
  };
  const parts: Parts = { ...given, credentials, storage, registry };
  for (const planned of plan.order) {
    const references = configReferencesOf(planned.config, planned.path);
    // The problem is that of the reference, which is collected already.
    if (!references.every(({ reference, path }) => made.has(plan.idOf(reference, path)) || given.registries?.[plan.idOf(reference, path)]))
      continue;
    const madeOf = partsOf(planned, parts);
    const old = before.made.get(planned.id);
    if (old && sameBut(old, planned, madeOf)) {
      made.set(planned.id, { planned, built: old.built, parts: madeOf });
      continue;
    }
    const built = problems.attempt(planned.path, () => build(planned, parts));
    if (!built) continue;
    retain([built.registry]);
    created.push(built.registry);
    made.set(planned.id, { planned, built, parts: madeOf });
  }
  try {
    problems.throwAny();
  } catch (error) {
    await releaseEach(created);
    throw error;
  }
  return { assembly: { plan, storages, made, registry }, created };
}

/** The aggregates that stay and have other connectors now. */
export function connectorChanges({ made, registry }: Assembly, before: Assembly) {
  const changes: { readonly path: string; readonly registry: AggregateRegistry; readonly connectors: readonly Connector[] }[] = [];
  for (const { planned, built, parts } of made.values()) {
    const old = before.made.get(planned.id);
    if (built.kind !== "aggregate" || planned.config.kind !== "aggregate" || old?.built !== built) continue;
    const same = isDeepStrictEqual(old.planned.config, planned.config) && sameObjects(old.parts, parts);
    if (!same)
      changes.push({ path: planned.path, registry: built.registry, connectors: connectorsOf(planned.config, planned.path, { registry }) });
  }
  return changes;
}

/** Gives tables of routes that stay their new routes. Their names were checked, so nothing can fail. */
export function reroute({ made, registry }: Assembly): void {
  for (const { planned, built } of made.values()) {
    if (built.kind !== "routes" || planned.config.kind !== "routes") continue;
    const { table, extras } = tableOf(planned.config, planned.path, { registry });
    built.registry.replace(table, extras);
  }
}

/** Whether the old registry can stay: as it is, or with other connectors or routes. */
function sameBut(old: Made, { config }: Planned, parts: readonly object[]): boolean {
  const { config: before, permanentName } = old.planned;
  if (before.kind !== config.kind || permanentName !== old.planned.permanentName) return false;
  if (config.kind === "routes") return true;
  // The local registry is the first of an aggregate's parts.
  if (config.kind === "aggregate") return old.parts[0] === parts[0] && isDeepStrictEqual(fixedPart(before), fixedPart(config));
  return sameObjects(old.parts, parts) && isDeepStrictEqual(fixedPart(before), fixedPart(config));
}

/** A registry's own settings. What it is made of is compared as objects. */
function fixedPart(config: RegistryConfig): object {
  const {
    source: _source,
    local: _local,
    connectors: _connectors,
    ...rest
  } = { source: undefined, local: undefined, connectors: undefined, ...config };
  return rest;
}

function partsOf({ config, path }: Planned, { registry, storage }: Parts): object[] {
  const kept = config.kind === "local" || config.kind === "cached" ? [storage(config.storage)] : [];
  return [...configReferencesOf(config, path).map(({ reference, path: at }) => registry(reference, at)), ...kept];
}

function sameObjects(a: readonly object[], b: readonly object[]): boolean {
  return a.length === b.length && a.every((part, index) => part === b[index]);
}

/** Opens the storages that are used, and no others: a storage that nobody holds any more is closed, and must not be found here later. */
async function openStorages(config: Config, plan: Plan, before: Assembly): Promise<Assembly["storages"]> {
  const used = new Set(plan.order.flatMap((planned) => ("storage" in planned.config ? [planned.config.storage] : [])));
  const storages = new Map<string, { readonly config: StorageConfig; readonly storage: Storage }>();
  for (const [name, declared] of Object.entries(config.storages ?? {})) {
    if (!used.has(name)) continue;
    const old = before.storages.get(name);
    storages.set(name, old && isDeepStrictEqual(old.config, declared) ? old : { config: declared, storage: await openStorage(declared) });
  }
  return storages;
}

/** An adapter is loaded when it is used: the one for files brings drivers along that others do without. */
async function openStorage(config: StorageConfig): Promise<Storage> {
  if (config.kind === "memory") return (await import("../storage/memory/index.js")).memoryStorage();
  return (await import("../storage/files/index.js")).fileStorage(config.folder);
}
