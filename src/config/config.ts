import type { AggregateOptions } from "../aggregate/aggregate.js";
import type { CachedOptions } from "../cache/cached.js";
import type { Connector } from "../core/connector.js";
import type { ContentFilter } from "../core/filter.js";
import type { LocalRegistryOptions } from "../local/local-registry.js";
import type { RemoteOptions } from "../remote/options.js";
import type { RenameConfig } from "./rename.js";
import type { CredentialsConfig } from "./secrets.js";

/** A composition as plain data, fit for JSON. */
export interface Config {
  /** By name; the host may give others. */
  readonly storages?: Readonly<Record<string, StorageConfig>>;
  /** By name. A local registry or cache is kept under its name here, unless it says another `name`. */
  readonly registries: Readonly<Record<string, RegistryConfig>>;
  /** Which of them is answered as `registry`. */
  readonly serve: string;
}

export type StorageConfig = { readonly kind: "memory" } | { readonly kind: "files"; readonly folder: string };

/** The name of a registry, of the configuration or of the host; or one that is declared where it is used. */
export type RegistryReference = string | RegistryConfig;

export type RegistryConfig =
  | LocalConfig
  | RemoteConfig
  | PresetConfig
  | CachedConfig
  | AggregateConfig
  | RoutesConfig
  | FilteredConfig
  | RenamedConfig
  | ReadOnlyConfig;

type Given = "clock" | "events";

export interface LocalConfig extends Omit<LocalRegistryOptions, Given | "storage" | "name"> {
  readonly kind: "local";
  readonly storage: string;
  readonly name?: string;
}

type RemoteSettings = Pick<
  RemoteOptions,
  | "name"
  | "readOnly"
  | "userAgent"
  | "timeouts"
  | "maxRequests"
  | "maxConnections"
  | "maxRequestsPerSecond"
  | "quotaReserve"
  | "retries"
  | "breaker"
> & { readonly credentials?: CredentialsConfig };

export interface RemoteConfig extends RemoteSettings {
  readonly kind: "remote";
  readonly url: string | readonly string[];
  readonly realmHosts?: readonly string[];
}

export interface PresetConfig extends RemoteSettings {
  readonly kind: "dockerHub" | "ghcr" | "quay" | "registryK8s";
  readonly url?: string;
}

export interface CachedConfig extends Omit<CachedOptions, Given | "storage" | "name" | "partition"> {
  readonly kind: "cached";
  readonly source: RegistryReference;
  readonly storage: string;
  readonly name?: string;
}

export interface ConnectorConfig extends Omit<Connector, "source" | "rename" | "permit"> {
  readonly source: RegistryReference;
  readonly rename?: RenameConfig;
}

export interface AggregateConfig extends Pick<AggregateOptions, "reserved" | "sticky"> {
  readonly kind: "aggregate";
  readonly local: RegistryReference;
  readonly connectors?: readonly ConnectorConfig[];
  readonly resolver?: "firstFound" | "strict";
}

export interface RoutesConfig {
  readonly kind: "routes";
  readonly routes: Readonly<Record<string, RegistryReference>>;
  readonly fallback?: RegistryReference;
  readonly namespaces?: Readonly<Record<string, RegistryReference>>;
}

export interface FilteredConfig extends Omit<ContentFilter, "permit"> {
  readonly kind: "filtered";
  readonly source: RegistryReference;
}

export interface RenamedConfig {
  readonly kind: "renamed";
  readonly source: RegistryReference;
  readonly rename: RenameConfig;
}

export interface ReadOnlyConfig {
  readonly kind: "readOnly";
  readonly source: RegistryReference;
}
