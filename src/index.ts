/**
 * Manifold: container registries composed from parts. Everything is a `Registry`, and composition is `Registry -> Registry`:
 *
 * - `localRegistry` stores what is pushed; `remoteRegistry` and `dockerHub` read from elsewhere;
 * - `cached` keeps what another registry gives; `aggregate` shows several as one through connectors; `routes` puts several side by side;
 * - `filtered`, `renamed` and `readOnly` are views of one.
 *
 * Storage comes from `oci-manifold/storage/*`; `oci-manifold/node`, `oci-manifold/koa` and `oci-manifold/fetch` serve any registry over HTTP;
 * `oci-manifold/testing` holds what adapter authors test with. The words all of them speak are in `core`.
 */
export { type AggregateOptions, aggregate } from "./aggregate/aggregate.js";
export { ordered } from "./aggregate/resolve.js";
export { type RoutesOptions, routes } from "./aggregate/routes.js";
export { type CachedOptions, type CachedRegistry, type CacheStatus, cached } from "./cache/cached.js";
export type { ChildrenPolicy, Completeness, WarmOptions, WarmProgress } from "./cache/images.js";
export type { WarmPlan } from "./cache/keep-warm.js";
export type * from "./core/blob-store.js";
export type { Clock } from "./core/clock.js";
export type * from "./core/connector.js";
export { type Content, chunksOf, contentChunks } from "./core/content.js";
export type { Descriptor, Platform } from "./core/descriptor.js";
export { type Digest, type DigestAlgorithm, digestOf, parseDigest } from "./core/digest.js";
export { type ErrorCode, errorStatus, isRegistryError, RegistryError, type RegistryErrorOptions } from "./core/errors.js";
export type * from "./core/events.js";
export { type Lookup, type Origin, orThrow, type Served } from "./core/lookup.js";
export { type Manifest, parseManifest } from "./core/manifest.js";
export { mediaTypes } from "./core/media-types.js";
export type * from "./core/metadata-store.js";
export { parseReference, parseRepositoryName, type Reference } from "./core/name.js";
export { allPages, type Page, type PageRequest } from "./core/page.js";
export type { ByteRange, ResolvedRange } from "./core/range.js";
export type * from "./core/records.js";
export type * from "./core/registry.js";
export type { Duration, Size } from "./core/units.js";
export { type LocalRegistryOptions, localRegistry } from "./local/local-registry.js";
export type { CredentialSource, Credentials } from "./remote/credentials.js";
export { type DockerHubOptions, dockerHub, dockerHubName } from "./remote/docker-hub.js";
export type { RemoteOptions } from "./remote/options.js";
export { remoteRegistry } from "./remote/remote-registry.js";
export type { RemoteTimeouts } from "./remote/transport.js";
export { type FilteredOptions, filtered } from "./views/filtered.js";
export { observed } from "./views/observed.js";
export { readOnly } from "./views/read-only.js";
export { prefixed, renamed } from "./views/renamed.js";
