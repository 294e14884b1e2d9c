/**
 * Manifold: container registries composed from parts. Everything is a `Registry`, and composition is `Registry -> Registry`:
 *
 * - `localRegistry` stores what is pushed; `remoteRegistry` and `dockerHub` read from elsewhere;
 * - `cached` keeps what another registry gives; `aggregate` shows several as one through connectors; `routes` puts several side by side;
 * - `filtered`, `renamed`, `readOnly` and `tagRules` are views of one.
 *
 * Storage comes from `oci-manifold/storage/*`; `oci-manifold/node`, `oci-manifold/koa` and `oci-manifold/fetch` serve any registry over HTTP;
 * `oci-manifold/testing` holds what adapter authors test with. The words all of them speak are in `core`.
 */
export { type AggregateMember, type AggregateOptions, type AggregateRegistry, aggregate } from "./aggregate/aggregate.js";
export type { ExplainedMember, Explanation } from "./aggregate/explain.js";
export type { ToldFailure } from "./aggregate/failures.js";
export { type Drift, drift, type Lock, type LockSelection, lock } from "./aggregate/lock.js";
export { type PinnedOptions, pinned } from "./aggregate/pinned.js";
export { ordered } from "./aggregate/resolve.js";
export type { RouteExtras } from "./aggregate/route-table.js";
export { type FindRegistry, type RoutesOptions, type RoutesRegistry, routes } from "./aggregate/routes.js";
export { strict } from "./aggregate/strict.js";
export type { FilterVerdict } from "./aggregate/verdict.js";
export { type CachedOptions, type CachedRegistry, type CacheStatus, cached } from "./cache/cached.js";
export type { ChildrenPolicy } from "./cache/children.js";
export type { Completeness } from "./cache/completeness.js";
export type { WarmOptions, WarmProgress } from "./cache/images.js";
export type { WarmPlan } from "./cache/keep-warm.js";
export type * from "./core/blob-store.js";
export type { Clock } from "./core/clock.js";
export type * from "./core/connector.js";
export { type Content, chunksOf, contentChunks } from "./core/content.js";
export type { Descriptor, Platform } from "./core/descriptor.js";
export { type Digest, type DigestAlgorithm, digestOf, parseDigest } from "./core/digest.js";
export type { DistributionStorage } from "./core/distribution-storage.js";
export { type ErrorCode, errorStatus, isRegistryError, RegistryError, type RegistryErrorOptions } from "./core/errors.js";
export type * from "./core/events.js";
export type * from "./core/filter.js";
export type * from "./core/linking-registry.js";
export { type LinkedBlob, type Lookup, type Origin, orThrow, type Served } from "./core/lookup.js";
export { type Manifest, parseManifest } from "./core/manifest.js";
export { mediaTypes } from "./core/media-types.js";
export type * from "./core/metadata-store.js";
export { parseReference, parseRepositoryName, type Reference } from "./core/name.js";
export { allPages, type Page, type PageRequest } from "./core/page.js";
export type { ByteRange, ResolvedRange } from "./core/range.js";
export type * from "./core/records.js";
export type * from "./core/registry.js";
export { isSearchable, type KnownName, type NameIndex, type Searchable, type SearchResult, type SearchSource } from "./core/search.js";
export type { Duration, Size } from "./core/units.js";
export { decodeVia, encodeVia, viaHeader, viaLimit } from "./core/via.js";
export { type LocalRegistry, type LocalRegistryOptions, localRegistry } from "./local/local-registry.js";
export type { RegistryUsage, UsageOptions } from "./local/quota.js";
export type { TakeBlobOptions } from "./local/take-blob.js";
export type { ConnectionOptions, Pem, TlsOptions } from "./remote/connections.js";
export type { CredentialFunction, CredentialRequest, CredentialSource, Credentials } from "./remote/credentials.js";
export { type DockerConfigOptions, dockerConfig } from "./remote/docker-config.js";
export type { PullQuota } from "./remote/limits/pull-quota.js";
export type { BreakerOptions, UpstreamLimits } from "./remote/limits/upstream-limits.js";
export type { RemoteOptions, VendorOptions } from "./remote/options.js";
export { type AcrOptions, acr } from "./remote/presets/acr.js";
export { type DockerHubOptions, dockerHub, dockerHubName } from "./remote/presets/docker-hub.js";
export { type EcrAuthorization, type EcrOptions, ecr } from "./remote/presets/ecr.js";
export { type GhcrOptions, ghcr } from "./remote/presets/ghcr.js";
export { type GoogleArtifactRegistryOptions, googleArtifactRegistry } from "./remote/presets/google-artifact-registry.js";
export { harbor } from "./remote/presets/harbor.js";
export { type QuayOptions, quay } from "./remote/presets/quay.js";
export { type RegistryK8sOptions, registryK8s } from "./remote/presets/registry-k8s.js";
export { remoteRegistry } from "./remote/remote-registry.js";
export { dockerHubSearch, harborSearch, quaySearch, type SearchServiceOptions } from "./remote/search.js";
export { searchable } from "./remote/searchable.js";
export type { RemoteTimeouts } from "./remote/transport.js";
export type { RemoteRegistry, RemoteStatus, UpstreamStatus } from "./remote/upstream-status.js";
export { type AdoptOptions, type AdoptProgress, type AdoptReport, adoptDistribution } from "./upkeep/adopt.js";
export type { AdoptProblem, KeptTag, RemovedTag } from "./upkeep/adopt-tally.js";
export { audit } from "./upkeep/audit.js";
export type { Auditable, AuditableMember } from "./upkeep/auditable.js";
export { type BrowsedTag, type BrowseOptions, browse } from "./upkeep/browse.js";
export { collect } from "./upkeep/collect.js";
export type { Collected, CollectOptions, CollectPhase, CollectProgress, CollectReport } from "./upkeep/collection-report.js";
export { distributionFolder } from "./upkeep/distribution-folder.js";
export type { AuditOptions, AuditProgress, AuditReport } from "./upkeep/examine.js";
export { type ExportedImage, type ExportLayoutOptions, type ExportLayoutReport, exportLayout } from "./upkeep/export-layout.js";
export type { Finding } from "./upkeep/findings.js";
export type { BlobClaim, Healer } from "./upkeep/heal.js";
export { type ImpactReport, impactOfRemoving } from "./upkeep/impact.js";
export type { LostNames } from "./upkeep/impact-names.js";
export {
  type ImportedImage,
  type ImportLayoutOptions,
  type ImportLayoutReport,
  importLayout,
  type LayoutProgress,
} from "./upkeep/import-layout.js";
export type { LayoutEntry } from "./upkeep/layout-entries.js";
export { type PinFailure, type Pinned, type PinOptions, type PinProgress, type PinReport, pin } from "./upkeep/pin.js";
export { type PromoteOptions, type PromoteProgress, type PromoteReport, promote } from "./upkeep/promote.js";
export { type PromotionTarget, promotions } from "./upkeep/promotions.js";
export { type LostBlob, type RepairOptions, type RepairProgress, type RepairReport, repair } from "./upkeep/repair.js";
export { type ScrubFinding, type ScrubLoss, type ScrubOptions, type ScrubProgress, type ScrubReport, scrub } from "./upkeep/scrub.js";
export type { TarStream, TarStreamSource } from "./upkeep/tar-stream.js";
export { type FilteredOptions, filtered } from "./views/filtered.js";
export {
  type Access,
  behindNamespaces,
  type Call as RegistryCall,
  type Enter,
  intercept,
  type Method as RegistryMethod,
  type Refusal,
} from "./views/intercept.js";
export type { ManagedTags } from "./views/managed-tags.js";
export { chained, library, mapping, prefixed, stripped } from "./views/names.js";
export { observed } from "./views/observed.js";
export { readOnly } from "./views/read-only.js";
export { renamed } from "./views/renamed.js";
export { type TagRules, type TagScope, tagRules } from "./views/tag-rules.js";
