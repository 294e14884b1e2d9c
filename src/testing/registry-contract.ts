import type { Registry } from "../core/registry.js";
import { type ContractTest, contractCases } from "./contract.js";
import { blobCases } from "./registry-blob-cases.js";
import { blobPushCases } from "./registry-blob-push-cases.js";
import { callCases } from "./registry-call-cases.js";
import { deleteCases } from "./registry-delete-cases.js";
import type { RegistryAlias, RegistryCapabilities, RegistryCase, RegistryOnTest } from "./registry-fixtures.js";
import { listingCases } from "./registry-listing-cases.js";
import { manifestCases } from "./registry-manifest-cases.js";
import { pushCases } from "./registry-push-cases.js";
import { referrerCases } from "./registry-referrer-cases.js";
import { uploadCases } from "./registry-upload-cases.js";

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
