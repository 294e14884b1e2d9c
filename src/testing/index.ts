/**
 * What authors of stores, registries and wrappers test with:
 *
 * - contracts, each promise as a named case: `blobStoreContract`, `metadataStoreContract`, `registryContract`;
 * - stores that can do as little as is permitted, for wrappers: `partBlobStore`, `transactionMetadataStore`;
 * - `fakeClock`, and `fakeUpstream`, a registry over HTTP that fails as a test wants.
 *
 * @example
 * ```ts
 * import { test } from "node:test";
 * import { localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * import { registryContract } from "oci-manifold/testing";
 *
 * registryContract({
 *   test,
 *   create: async () => ({ registry: localRegistry({ storage: memoryStorage(), name: "release" }), dispose: async () => {} }),
 * });
 * ```
 */
export type { BlobStoreContract, BlobStoreUnderTest } from "./blob-fixtures.js";
export { blobStoreContract } from "./blob-store-contract.js";
export type { ContractTest } from "./contract.js";
export { type FakeClock, fakeClock } from "./fake-clock.js";
export {
  type FakeAuth,
  type FakeImage,
  type FakeImageOptions,
  type FakeRequest,
  type FakeUpstream,
  type FakeUpstreamOptions,
  type Fault,
  fakeUpstream,
  type Intercept,
} from "./fake-upstream.js";
export { PartBacking, partBlobStore, transactionMetadataStore } from "./limited-stores.js";
export { type MetadataStoreContract, type MetadataStoreUnderTest, metadataStoreContract } from "./metadata-store-contract.js";
export {
  type RegistryContract,
  type RegistryUnderTest,
  registryContract,
} from "./registry-contract.js";
export type { RegistryAlias, RegistryCapabilities } from "./registry-fixtures.js";
