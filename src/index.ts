/**
 * Manifold: container registries composed from parts. Everything is a `Registry`, and composition is `Registry -> Registry`:
 *
 * - `localRegistry` stores what is pushed; `remoteRegistry` and its presets (`dockerHub`, `ghcr`, `ecr`, …) read from elsewhere;
 * - `cached` keeps what another registry gives; `aggregate` shows several as one through connectors; `routes` puts several side by side;
 * - `filtered`, `renamed`, `readOnly` and `tagRules` are views of one.
 *
 * The rest has entries named after their jobs:
 *
 * - `oci-manifold/node`, `/koa` and `/fetch` serve any registry over HTTP; `/storage/*` is where bytes and records are kept; `/config` composes from plain data;
 * - `oci-manifold/maintenance` looks after what is stored; `/layout` reads and writes OCI image layouts; `/migrate` takes over a docker-registry;
 * - `oci-manifold/resolvers` says which member of an aggregate answers for a tag; `/names` maps names of repositories;
 * - `oci-manifold/extend` is for authors of registries, wrappers and stores, and `/testing` has the contracts that these must keep.
 *
 * @example
 * ```ts
 * import { createServer } from "node:http";
 * import { aggregate, cached, dockerHub, localRegistry, routes } from "oci-manifold";
 * import { nodeHandler } from "oci-manifold/node";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const hub = cached(dockerHub(), { storage, name: "hub" });
 * const prerelease = aggregate({
 *   local: localRegistry({ storage, name: "prerelease" }),
 *   connectors: [
 *     { name: "release", source: release },
 *     { name: "hub", source: hub, allow: ["library/*"] },
 *   ],
 * });
 * const handler = nodeHandler(routes({ release, prerelease }));
 * const server = createServer(handler).listen(0, "127.0.0.1");
 * server.close();
 * await handler.close();
 * ```
 */
export { type AggregateMember, type AggregateOptions, type AggregateRegistry, aggregate } from "./aggregate/aggregate.js";
export type { ExplainedMember, Explanation } from "./aggregate/explain.js";
export type { FilterVerdict } from "./aggregate/filter-verdict.js";
export type { ToldFailure } from "./aggregate/read.js";
export { type FindRegistry, type RouteExtras, type RoutesOptions, type RoutesRegistry, routes } from "./aggregate/routes.js";
export { type CachedOptions, type CachedRegistry, type CacheStatus, cached } from "./cache/cached.js";
export type { ChildrenPolicy } from "./cache/children.js";
export type { Completeness } from "./cache/completeness.js";
export type { WarmOptions, WarmProgress } from "./cache/images.js";
export type { WarmPlan } from "./cache/keep-warm.js";
export type { Clock } from "./core/clock.js";
export type * from "./core/connector.js";
export type { Content } from "./core/content.js";
export type { Descriptor, Platform } from "./core/descriptor.js";
export type { Digest, DigestAlgorithm } from "./core/digest.js";
export { type ErrorCode, errorStatus, isRegistryError, RegistryError, type RegistryErrorOptions } from "./core/errors.js";
export type * from "./core/events.js";
export type * from "./core/filter.js";
export { type Lookup, type Origin, orThrow, type ReferencedBlob, type Served } from "./core/lookup.js";
export { mediaTypes } from "./core/media-types.js";
export type { Storage } from "./core/metadata-store.js";
export { allPages, type Page, type PageRequest } from "./core/page.js";
export type { ByteRange, ResolvedRange } from "./core/range.js";
export type * from "./core/registry.js";
export type { SearchResult } from "./core/search.js";
export type { Duration, Size } from "./core/units.js";
export { type LocalRegistry, type LocalRegistryOptions, localRegistry } from "./local/local-registry.js";
export type { RegistryUsage, UsageOptions } from "./local/quota.js";
export type { ConnectionOptions, Pem, TlsOptions } from "./remote/connections.js";
export type { CredentialFunction, CredentialRequest, CredentialSource, Credentials } from "./remote/credentials.js";
export { type DockerConfigOptions, dockerConfig } from "./remote/docker-credentials.js";
export type { PullQuota } from "./remote/limits/pull-quota.js";
export type { BreakerOptions, UpstreamLimits } from "./remote/limits/upstream-limits.js";
export type { RemoteOptions, VendorOptions } from "./remote/options.js";
export { type AcrOptions, acr } from "./remote/presets/acr.js";
export { type DockerHubOptions, dockerHub } from "./remote/presets/docker-hub.js";
export { type EcrAuthorization, type EcrOptions, ecr } from "./remote/presets/ecr.js";
export { type GhcrOptions, ghcr } from "./remote/presets/ghcr.js";
export { type GoogleArtifactRegistryOptions, googleArtifactRegistry } from "./remote/presets/google-artifact-registry.js";
export { harbor } from "./remote/presets/harbor.js";
export { type QuayOptions, quay } from "./remote/presets/quay.js";
export { type RegistryK8sOptions, registryK8s } from "./remote/presets/registry-k8s.js";
export { remoteRegistry } from "./remote/remote-registry.js";
export type { RemoteTimeouts } from "./remote/transport.js";
export type { RemoteRegistry, RemoteStatus, UpstreamStatus } from "./remote/upstream-status.js";
export { type FilteredOptions, filtered } from "./views/filtered.js";
export type { ManagedTags } from "./views/managed-tags.js";
export { readOnly } from "./views/read-only.js";
export { renamed } from "./views/renamed.js";
export { type TagRules, type TagScope, tagRules } from "./views/tag-rules.js";
