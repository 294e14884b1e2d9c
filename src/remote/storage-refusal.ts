/**
 * Where a redirect of a blob leads is storage, and not the registry: what it refuses says nothing about whether the registry has the blob or who may read it. A signature that has ended, a
 * bucket that lacks an object for a while and a clock that is wrong are all mended by a fresh redirect, or by asking elsewhere.
 */
import { absent } from "../core/lookup.js";
import { failureOfStatus, type RemoteError, unavailable } from "./failures.js";
import { isTransient } from "./retry.js";
import { parseJsonObject, readCapped, type UpstreamResponse } from "./transport.js";

/** An error body is a few lines; what is larger comes from no registry. */
const bodyLimit = 64 * 1024;
/** Codes by which another registry says that the blob is not there: registry.k8s.io redirects to a regional one for what its buckets lack. */
const absences: ReadonlySet<unknown> = new Set(["BLOB_UNKNOWN", "NAME_UNKNOWN", "MANIFEST_UNKNOWN"]);

/** @param asked the URL of the first hop. A registry may also redirect to itself, by another name of a repository. */
export function isFromStorage({ url }: UpstreamResponse, asked: URL): boolean {
  return url.href !== asked.href && !(url.origin === asked.origin && url.pathname.startsWith("/v2/"));
}

/**
 * What a status from behind a redirect means for the reader.
 * @param what names the registry and the request.
 */
export async function failureOfStorage(response: UpstreamResponse, what: string, retryAfter: number | undefined): Promise<RemoteError> {
  const { status } = response;
  if (status === 404 && (await isFromRegistry(response))) return absent;
  if (isTransient(status)) return failureOfStatus(status, storageOf(what), retryAfter);
  return unavailable(`${storageOf(what)} refused with ${status}`);
}

/** For messages. The target is not named: it may be a signed URL. */
export function storageOf(what: string): string {
  return `${what}: the storage that the registry redirects to`;
}

async function isFromRegistry(response: UpstreamResponse): Promise<boolean> {
  if (!response.url.pathname.startsWith("/v2/")) return false;
  try {
    const { errors } = parseJsonObject(await readCapped(response, bodyLimit));
    return Array.isArray(errors) && errors.some((error: { readonly code?: unknown } | null) => absences.has(error?.code));
  } catch {
    return false;
  }
}
