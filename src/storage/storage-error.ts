import { type ErrorCode, RegistryError } from "../core/errors.js";

/**
 * An error whose message names a path, a bucket or a server: clients are told what is wrong and not where, the host is told all. `detail.storage` marks it.
 *
 * @param where which path, bucket or server.
 */
export function storageError(
  code: ErrorCode,
  where: string,
  message: string,
  more: { readonly cause?: unknown; readonly retryAfter?: number } = {},
): RegistryError {
  return new RegistryError(code, message, { detail: { storage: where }, ...more });
}
