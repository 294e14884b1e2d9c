import type { Digest } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import type { ReferencedBlob } from "../core/lookup.js";
import type { Exchange } from "./exchange.js";

/**
 * Mounts a blob, or answers `undefined`: the client then uploads, and learns nothing about what the other repository has. A mount that
 * fails is no error either, since every client can go on with an upload (404 instead of 202 fails the conformance program).
 */
export async function mountedBlob(
  x: Exchange,
  repository: string,
  digest: Digest,
  from: string | undefined,
): Promise<ReferencedBlob | undefined> {
  const { registry } = x.site;
  try {
    if (from !== undefined) {
      if (!(await mayPull(x, from, digest))) return undefined;
      return await registry.mountBlob(repository, digest, { registry, repository: from }, x.call);
    }
    // The registry takes the blob from wherever it is, but only the host knows which repositories this caller may read.
    const asked = x.site.policy.isUniform ? x.call : { ...x.call, permits: (source: string) => mayPull(x, source, digest) };
    return await registry.mountBlob(repository, digest, undefined, asked);
  } catch (error) {
    // A full disk would fail the upload too, and a bug must be seen.
    if (isRegistryError(error) && error.code !== "INSUFFICIENT_STORAGE") return undefined;
    throw error;
  }
}

async function mayPull(x: Exchange, repository: string, reference: string): Promise<boolean> {
  const { caller } = x.call;
  try {
    await x.site.policy.admit({ action: "pull", repository, reference, ...(caller && { caller }) });
    return true;
  } catch (error) {
    if (isRegistryError(error) && (error.code === "UNAUTHORIZED" || error.code === "DENIED")) return false;
    throw error;
  }
}
