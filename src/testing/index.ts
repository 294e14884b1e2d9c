export { type BlobStoreContract, type BlobStoreUnderTest, blobStoreContract } from "./blob-store-contract.js";
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
  type RegistryAlias,
  type RegistryCapabilities,
  type RegistryContract,
  type RegistryUnderTest,
  registryContract,
} from "./registry-contract.js";
