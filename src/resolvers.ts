/**
 * Which member of an aggregate answers for a tag is decided by its resolver: `firstFound` (the default), the first in order that has it; `strict`, only where all that
 * have it agree; `fromLockFile`, the digest that a lock file names. `createLockFile` writes such a file, and `compareLockFile` tells which tags have moved since. A resolver of a
 * host's own is an object with a `resolve` function (`ManifestResolver`).
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { createLockFile, fromLockFile } from "oci-manifold/resolvers";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const locked = await createLockFile(release, []); // or [{ repository: "team/app", tags: "1.*" }]
 * const production = aggregate({
 *   local: localRegistry({ storage, name: "production" }),
 *   connectors: [{ name: "release", source: release }],
 *   resolver: fromLockFile(locked),
 * });
 * await production.close();
 * ```
 */
export {
  compareLockFile,
  createLockFile,
  type FromLockFileOptions,
  fromLockFile,
  type LockFile,
  type LockFileSelection,
  type MovedTag,
} from "./aggregate/lock-file.js";
export { firstFound } from "./aggregate/read.js";
export { strict } from "./aggregate/strict.js";
export type { AskMember, ManifestQuestion, ManifestResolver, Member } from "./core/connector.js";
