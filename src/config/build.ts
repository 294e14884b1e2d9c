import { type AggregateRegistry, aggregate } from "../aggregate/aggregate.js";
import { firstFound } from "../aggregate/read.js";
import { type RoutesRegistry, routes } from "../aggregate/routes.js";
import { strict } from "../aggregate/strict.js";
import { cached } from "../cache/cached.js";
import type { Connector } from "../core/connector.js";
import { RegistryError } from "../core/errors.js";
import type { RuntimeOptions } from "../core/events.js";
import type { Storage } from "../core/metadata-store.js";
import type { Registry } from "../core/registry.js";
import type { StoringRegistry } from "../core/storing-registry.js";
import { localRegistry } from "../local/local-registry.js";
import type { CredentialSource } from "../remote/credentials.js";
import type { RemoteOptions } from "../remote/options.js";
import { dockerHub } from "../remote/presets/docker-hub.js";
import { ghcr } from "../remote/presets/ghcr.js";
import { quay } from "../remote/presets/quay.js";
import { registryK8s } from "../remote/presets/registry-k8s.js";
import { remoteRegistry } from "../remote/remote-registry.js";
import { filtered } from "../views/filtered.js";
import { readOnly } from "../views/read-only.js";
import { renamed } from "../views/renamed.js";
import type { AggregateConfig, PresetConfig, RegistryReference, RemoteConfig, RoutesConfig } from "./config.js";
import type { Planned } from "./plan.js";
import { below } from "./reading.js";
import { nameMapping } from "./rename.js";
import { credentialSource } from "./secrets.js";

/** Where a registry that is made finds what it is made of. */
export interface Parts extends RuntimeOptions {
  readonly credentials: Readonly<Record<string, CredentialSource>>;
  storage(name: string): Storage;
  registry(reference: RegistryReference, path: string): Registry;
}

/** A registry as made, with what can be changed while it serves. */
export type Built =
  | { readonly kind: "aggregate"; readonly registry: AggregateRegistry }
  | { readonly kind: "routes"; readonly registry: RoutesRegistry }
  | { readonly kind: "fixed"; readonly registry: Registry };

/** @throws RegistryError for options that cannot work. */
export function build({ config, path, permanentName }: Planned, parts: Parts): Built {
  const around: RuntimeOptions = { ...(parts.clock && { clock: parts.clock }), ...(parts.events && { events: parts.events }) };
  const fixed = (registry: Registry): Built => ({ kind: "fixed", registry });
  switch (config.kind) {
    case "local": {
      const { kind: _, storage, name = permanentName, ...rest } = config;
      return fixed(localRegistry({ ...rest, ...around, name, storage: parts.storage(storage) }));
    }
    case "cached": {
      const { kind: _, source, storage, name = permanentName, ...rest } = config;
      return fixed(cached(parts.registry(source, `${path}.source`), { ...rest, ...around, name, storage: parts.storage(storage) }));
    }
    case "aggregate": {
      const { reserved, sticky, resolver = "firstFound" } = config;
      const registry = aggregate({
        ...around,
        local: storing(parts.registry(config.local, `${path}.local`)),
        connectors: connectorsOf(config, path, parts),
        resolver: resolver === "strict" ? strict : firstFound,
        ...(reserved && { reserved }),
        ...(sticky && { sticky }),
      });
      return { kind: "aggregate", registry };
    }
    case "routes": {
      const { table, extras } = tableOf(config, path, parts);
      return { kind: "routes", registry: routes(table, { ...extras, ...around }) };
    }
    case "filtered": {
      const { kind: _, source, ...filter } = config;
      return fixed(filtered(parts.registry(source, `${path}.source`), filter));
    }
    case "renamed":
      return fixed(renamed(parts.registry(config.source, `${path}.source`), nameMapping(config.rename)));
    case "readOnly":
      return fixed(readOnly(parts.registry(config.source, `${path}.source`)));
    case "remote":
      return fixed(
        remoteRegistry(config.url, { ...remoteOptions(config, parts), ...(config.realmHosts && { realmHosts: config.realmHosts }) }),
      );
    default:
      return fixed(
        presets[config.kind]({ ...remoteOptions(config, parts), ...around, ...(config.url !== undefined && { url: config.url }) }),
      );
  }
}

const presets = { dockerHub, ghcr, quay, registryK8s } satisfies Record<
  PresetConfig["kind"],
  (o: RemoteOptions & { url?: string }) => Registry
>;

function remoteOptions(config: RemoteConfig | PresetConfig, { credentials, clock, events }: Parts): RemoteOptions {
  const { kind: _kind, url: _url, credentials: where, ...rest } = config;
  return {
    ...rest,
    ...(clock && { clock }),
    ...(events && { events }),
    ...(where !== undefined && { credentials: credentialSource(where, credentials) }),
  };
}

/** The connectors of an aggregate as they should be now. */
export function connectorsOf({ connectors = [] }: AggregateConfig, path: string, parts: Pick<Parts, "registry">): Connector[] {
  return connectors.map(({ source, rename, ...rest }, index) => ({
    ...rest,
    source: parts.registry(source, `${path}.connectors[${index}].source`),
    ...(rename && { rename: nameMapping(rename) }),
  }));
}

/** The routes as they should be now. */
export function tableOf({ routes: table, fallback, namespaces = {} }: RoutesConfig, path: string, parts: Pick<Parts, "registry">) {
  const registries = (named: Readonly<Record<string, RegistryReference>>, at: string): Record<string, Registry> =>
    Object.fromEntries(Object.entries(named).map(([name, reference]) => [name, parts.registry(reference, below(at, name))]));
  return {
    table: registries(table, `${path}.routes`),
    extras: {
      namespaces: registries(namespaces, `${path}.namespaces`),
      ...(fallback !== undefined && { fallback: parts.registry(fallback, `${path}.fallback`) }),
    },
  };
}

function storing(registry: Registry): StoringRegistry {
  if (isStoring(registry)) return registry;
  throw new RegistryError("UNKNOWN", "the local registry of an aggregate must be one that stores, of the kind local");
}

function isStoring(registry: Registry): registry is StoringRegistry {
  return "addBlobReference" in registry && typeof registry.addBlobReference === "function";
}
