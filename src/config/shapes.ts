import type { ChildrenPolicy } from "../cache/children.js";
import type { ContentFilter } from "../core/filter.js";
import { isRepositoryName } from "../core/name.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../core/units.js";
import type { BreakerOptions } from "../remote/limits/upstream-limits.js";
import { parseBaseUrl } from "../remote/options.js";
import type { RemoteTimeouts } from "../remote/transport.js";
import { compilePatterns } from "../views/patterns.js";
import type {
  AggregateConfig,
  CachedConfig,
  Config,
  ConnectorConfig,
  FilteredConfig,
  LocalConfig,
  PresetConfig,
  ReadOnlyConfig,
  RegistryConfig,
  RegistryReference,
  RemoteConfig,
  RenamedConfig,
  RoutesConfig,
  StorageConfig,
} from "./config.js";
import { nearest } from "./nearest.js";
import {
  below,
  either,
  type Fields,
  flag,
  form,
  list,
  named,
  number,
  objectAt,
  oneOf,
  type Problems,
  type Read,
  record,
  text,
} from "./reading.js";
import { rename } from "./rename.js";
import { credentials } from "./secrets.js";

const duration = form<Duration>(toMilliseconds);
const size = form<Size>(toBytes);
const isText = (value: unknown) => typeof value === "string";
const url = form((value: string) => parseBaseUrl(value));
const patterns = list(form((pattern: string) => compilePatterns([pattern])));

const storages: { readonly [K in StorageConfig["kind"]]: Read<StorageConfig> } = {
  memory: record<Extract<StorageConfig, { kind: "memory" }>>(["kind"], { kind: oneOf("memory") }),
  files: record<Extract<StorageConfig, { kind: "files" }>>(["kind", "folder"], { kind: oneOf("files"), folder: text }),
};

const remoteSettings = {
  name: text,
  credentials,
  readOnly: flag,
  userAgent: text,
  timeouts: record<RemoteTimeouts>([], { connect: duration, headers: duration, body: duration, open: duration }),
  maxRequests: number,
  maxConnections: number,
  maxRequestsPerSecond: number,
  quotaReserve: number,
  retries: number,
  breaker: either<false, BreakerOptions>(
    (value) => value === false,
    () => false,
    record<BreakerOptions>([], { failures: number, openFor: duration }),
  ),
};

const preset = (kind: PresetConfig["kind"]) => record<PresetConfig>(["kind"], { kind: oneOf(kind), url, ...remoteSettings });

/** A registry by name or declared in place. */
const reference: Read<RegistryReference> = (value, path, problems) =>
  isText(value) ? text(value, path, problems) : registry(value, path, problems);

const contentFilter: Fields<Omit<ContentFilter, "permit">> = {
  allow: patterns,
  block: patterns,
  platforms: list(text),
  mediaTypes: list(text),
  artifactTypes: list(text),
  maxManifestBytes: size,
  maxBlobBytes: size,
  minimumAge: duration,
  digests: oneOf("reached", "any"),
  hidden: oneOf("absent", "denied"),
};

const connector = record<ConnectorConfig>(["name", "source"], {
  name: text,
  source: reference,
  rename,
  ...contentFilter,
  reach: oneOf("names", "links"),
  onFailure: oneOf("stop", "next"),
  copyToLocal: oneOf("onPush", "onPull", "never"),
});

const routeTable: Read<Readonly<Record<string, RegistryReference>>> = (value, path, problems) => {
  for (const name of Object.keys(objectAt(value, path, problems) ?? {})) {
    if (!isRepositoryName(name)) problems.add(below(path, name), "cannot be a route: repository names are lower case");
  }
  return named(reference)(value, path, problems);
};

const kinds: { readonly [K in RegistryConfig["kind"]]: Read<RegistryConfig> } = {
  local: record<LocalConfig>(["kind", "storage"], {
    kind: oneOf("local"),
    storage: text,
    name: text,
    sparse: flag,
    uploadTimeToLive: duration,
    maxUploads: number,
    maxUploadBytes: size,
    maxUploadsPerCaller: number,
    maxUploadBytesPerCaller: size,
    maxBytes: size,
    maxRepositories: number,
  }),
  remote: record<RemoteConfig>(["kind", "url"], {
    kind: oneOf("remote"),
    url: either(isText, url, list(url)),
    realmHosts: list(text),
    ...remoteSettings,
  }),
  dockerHub: preset("dockerHub"),
  ghcr: preset("ghcr"),
  quay: preset("quay"),
  registryK8s: preset("registryK8s"),
  cached: record<CachedConfig>(["kind", "source", "storage"], {
    kind: oneOf("cached"),
    source: reference,
    storage: text,
    name: text,
    tagTtl: duration,
    staleWhileRevalidate: duration,
    staleIfError: duration,
    negativeTtl: duration,
    deletedTags: oneOf("forget", "keep"),
    children: either<ChildrenPolicy, ChildrenPolicy>(
      isText,
      oneOf("all", "on demand"),
      record<{ readonly platforms: readonly string[] }>(["platforms"], { platforms: list(text) }),
    ),
    referrers: oneOf("all", "on demand"),
    concurrency: number,
    onAbandoned: oneOf("finish", "stop"),
    unverifiedRanges: flag,
    maxBytes: size,
    keepFree: number,
    maxBlobBytes: size,
  }),
  aggregate: record<AggregateConfig>(["kind", "local"], {
    kind: oneOf("aggregate"),
    local: reference,
    connectors: list(connector),
    reserved: patterns,
    resolver: oneOf("firstFound", "strict"),
    sticky: oneOf("off", "warn", "refuse"),
  }),
  routes: record<RoutesConfig>(["kind", "routes"], {
    kind: oneOf("routes"),
    routes: routeTable,
    fallback: reference,
    namespaces: named(reference),
  }),
  filtered: record<FilteredConfig>(["kind", "source"], { kind: oneOf("filtered"), source: reference, ...contentFilter }),
  renamed: record<RenamedConfig>(["kind", "source", "rename"], { kind: oneOf("renamed"), source: reference, rename }),
  readOnly: record<ReadOnlyConfig>(["kind", "source"], { kind: oneOf("readOnly"), source: reference }),
};

function byKind<T>(readers: Readonly<Record<string, Read<T>>>): Read<T> {
  const known = Object.keys(readers);
  return (value, path, problems) => {
    const object = objectAt(value, path, problems);
    if (!object) return undefined;
    const { kind } = object;
    if (kind === undefined) return problems.add(`${path}.kind`, `is missing: one of ${known.join(", ")}`);
    const reader = typeof kind === "string" && Object.hasOwn(readers, kind) ? readers[kind] : undefined;
    if (reader) return reader(value, path, problems);
    const hint = typeof kind === "string" ? nearest(kind, known) : "";
    return problems.add(`${path}.kind`, hint ? `is not known${hint}` : `must be one of ${known.join(", ")}`);
  };
}

const registry: Read<RegistryConfig> = byKind(kinds);

const whole = record<Config>(["registries", "serve"], {
  storages: named(byKind<StorageConfig>(storages)),
  registries: named(registry),
  serve: text,
});

/** The configuration, when everything in it has a place and the form of that place. @throws RegistryError UNKNOWN with every problem. */
export function readConfig(value: unknown, problems: Problems): Config {
  const config = whole(value, "", problems);
  problems.throwAny();
  // Without a problem there is a result.
  return config ?? { registries: {}, serve: "" };
}
