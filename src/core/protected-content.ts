import type { Digest } from "./digest.js";
import { isRegistryError, RegistryError } from "./errors.js";

/** What a delete of something that a protected tag reaches fails with. */
export function protectedContent(digest: Digest, tag: string): RegistryError {
  return new RegistryError("DENIED", `${digest} cannot be deleted: the tag ${tag}, which is protected, needs it`, {
    detail: { digest, protectedBy: tag },
  });
}

/** The tag that a delete failed for; `undefined` where it failed for something else. */
export function protectingTag(error: unknown): string | undefined {
  const detail = isRegistryError(error) ? error.detail : undefined;
  const isIt = typeof detail === "object" && detail !== null && "protectedBy" in detail && typeof detail.protectedBy === "string";
  return isIt ? (detail.protectedBy as string) : undefined;
}
