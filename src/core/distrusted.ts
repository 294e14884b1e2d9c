import type { Digest } from "./digest.js";
import type { Distrust } from "./storing-registry.js";

/** Whether what members state of a digest counts for nothing: it was refuted, and nobody has given the bytes since. */
export async function isDistrusted(distrust: Distrust, repository: string, digest: Digest): Promise<boolean> {
  const refuted = await distrust.get(repository, digest);
  return refuted !== undefined && refuted.verifiedSize === undefined;
}
