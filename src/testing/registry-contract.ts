import type { Registry } from "../core/registry.js";
import { type ContractTest, contractCases } from "./contract.js";
import { blobCases } from "./registry-blob-cases.js";
import { blobPushCases } from "./registry-blob-push-cases.js";
import { callCases } from "./registry-call-cases.js";
import { deleteCases } from "./registry-delete-cases.js";
import type { RegistryCase, RegistryOnTest } from "./registry-fixtures.js";
import { listingCases } from "./registry-listing-cases.js";
import { manifestCases } from "./registry-manifest-cases.js";
import { pushCases } from "./registry-push-cases.js";
import { referrerCases } from "./registry-referrer-cases.js";
import { uploadCases } from "./registry-upload-cases.js";

/** What a registry can do. What is declared absent is tested as well: to be refused with the right code, and to change nothing. */
export interface RegistryCapabilities {
  /** Takes manifests and blobs. Default: true. False: UNSUPPORTED or DENIED, before a source is read. */
  readonly push: boolean;
  /** Deletes tags, manifests and blobs. Default: true. False: UNSUPPORTED or DENIED. */
  readonly delete: boolean;
  /** Mounts blobs of its own repositories, with a source and without. Default: true. False: answers `undefined`. */
  readonly mount: boolean;
  /** Has upload sessions. Default: true. False: UNSUPPORTED. */
  readonly uploads: boolean;
  /** Finds sessions again by their id. Default: true. False: BLOB_UPLOAD_UNKNOWN or UNSUPPORTED. */
  readonly resume: boolean;
  /** Lists referrers. Default: true. False: an empty page, absent, or a refusal as a value. */
  readonly referrers: boolean;
  /** Lists repositories. Default: true. False: an empty page, or a refusal as a value. */
  readonly catalog: boolean;
  /** Answers a part of a blob alone, though it has to verify it (see `GetBlobOptions.verify`). Default: true. False: the part or the whole, and says which. */
  readonly ranges: boolean;
  /** Takes manifests without what they refer to. Default: false, MANIFEST_BLOB_UNKNOWN. */
  readonly sparse: boolean;
  /** Heeds `ifMatch` and `ifNoneMatch` of a put. Default: true. False: refuses such a put. */
  readonly conditionalPuts: boolean;
  /** Takes content named by sha512. Default: true. False: DIGEST_INVALID or UNSUPPORTED. */
  readonly sha512: boolean;
  /** Shows a change of the seed at once. Default: true. False, as for caches: later. */
  readonly live: boolean;
}

/** Two names of one repository. */
export interface RegistryAlias {
  readonly name: string;
  /** What `canonicalName` makes of it. */
  readonly canonical: string;
}

/** A registry for one case. */
export interface RegistryUnderTest {
  readonly registry: Registry;
  /** Takes the content that `registry` shows, under the same names. Default: `registry`. It is made ready and closed by whoever made it. */
  readonly seed?: Registry;
  /** Called after the registry was closed. */
  dispose(): Promise<void>;
}

export interface RegistryContract {
  /** Registers a case with whatever runs the tests: `test` of `node:test` or vitest, `it` of mocha. */
  readonly test: ContractTest;
  /** An empty registry for each case. */
  readonly create: () => Promise<RegistryUnderTest>;
  readonly capabilities?: Partial<RegistryCapabilities>;
  /** What all its repositories' names begin with, as `team/`. Default: nothing. */
  readonly prefix?: string;
  /** Another name of a repository. Default: each name is a repository of its own. */
  readonly alias?: RegistryAlias;
}

/**
 * The promises of a {@link Registry}, each as a named case: for registries that a host writes itself, or makes by wrapping another one.
 *
 * @example
 * ```ts
 * import { test } from "node:test";
 * import { localRegistry, readOnly } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * import { registryContract } from "oci-manifold/testing";
 * registryContract({
 *   test,
 *   create: async () => {
 *     const seed = localRegistry({ storage: memoryStorage(), name: "release" });
 *     return { registry: readOnly(seed), seed, dispose: async () => {} };
 *   },
 *   capabilities: { push: false, delete: false },
 * });
 * ```
 */
export function registryContract({ test, create, capabilities, prefix = "", alias }: RegistryContract): void {
  const can: RegistryCapabilities = {
    push: true,
    delete: true,
    mount: true,
    uploads: true,
    resume: true,
    referrers: true,
    catalog: true,
    ranges: true,
    sparse: false,
    conditionalPuts: true,
    sha512: true,
    live: true,
    ...capabilities,
  };
  const given = ({ registry, seed = registry }: RegistryUnderTest): RegistryOnTest => ({ registry, seed, at: (name) => prefix + name });
  const contract: RegistryCase = contractCases(test, create, ({ registry }) => registry, given);
  manifestCases(contract);
  blobCases(contract, can);
  listingCases(contract, can);
  referrerCases(contract, can);
  if (can.push) {
    pushCases(contract, can);
    blobPushCases(contract, can);
    uploadCases(contract, can);
  }
  deleteCases(contract, can);
  callCases(contract, can, alias);
}
