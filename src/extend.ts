/**
 * For authors of registries, wrappers and stores:
 *
 * - wrappers: `intercept` guards every method of a registry at one point, `behindNamespaces` what it answers for other hosts, `observed` tells events of what passes;
 * - stores: the interfaces `BlobStore` and `MetadataStore`, and the records that they keep. `oci-manifold/testing` has their contracts;
 * - registries: `StoringRegistry`, what an aggregate needs of the registry that it stores in; `parseDigest`, `parseReference` and others, which validate what clients
 *   send; `chunksOf` and `contentChunks`, for bytes; `encodeVia` and `decodeVia`, for the detection of loops between aggregates;
 * - searches: `searchable` gives a registry a search service, such as `dockerHubSearch`.
 *
 * @example
 * ```ts
 * import { localRegistry, type Registry } from "oci-manifold";
 * import { intercept } from "oci-manifold/extend";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * // Nobody sees the repositories below `secret/`.
 * function withoutSecrets(source: Registry): Registry {
 *   return intercept(source, ({ repository }) => (repository.startsWith("secret/") ? undefined : repository));
 * }
 * const shown = withoutSecrets(localRegistry({ storage: memoryStorage(), name: "release" }));
 * await shown.close();
 * ```
 */
export type { Awaitable } from "./core/awaitable.js";
export type * from "./core/blob-store.js";
export { chunksOf, contentChunks } from "./core/content.js";
export { digestOf, parseDigest } from "./core/digest.js";
export { type Manifest, parseManifest } from "./core/manifest.js";
export type * from "./core/metadata-store.js";
export { parseReference, parseRepositoryName, type Reference } from "./core/name.js";
export type * from "./core/records.js";
export type { Access, RegistryCall, RegistryMethod } from "./core/registry-calls.js";
export { isSearchable, type KnownName, type NameIndex, type Searchable, type SearchSource } from "./core/search.js";
export type * from "./core/storing-registry.js";
export { decodeVia, encodeVia, viaHeader, viaLimit } from "./core/via.js";
export type { TakeBlobOptions } from "./local/blob-bytes.js";
export { dockerHubSearch, harborSearch, quaySearch, type SearchServiceOptions, searchable } from "./remote/search.js";
export { behindNamespaces, type Enter, intercept, type Refusal } from "./views/intercept.js";
export { observed } from "./views/observed.js";
