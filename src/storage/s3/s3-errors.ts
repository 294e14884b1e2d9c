import { isRegistryError } from "../../core/errors.js";
import { storageError } from "../storage-error.js";

interface ServiceError {
  readonly name?: unknown;
  readonly code?: unknown;
  readonly message?: unknown;
  readonly $metadata?: { readonly httpStatusCode?: number; readonly requestId?: string };
  readonly $response?: { readonly headers?: Readonly<Record<string, unknown>> };
}

/** Seconds. A longer pause is a mistake, and clients would take it for the end. */
const longestPause = 3600;

const fields = (error: unknown): ServiceError => (typeof error === "object" && error !== null ? error : {});

/** What S3 calls the error: `NoSuchKey`, for example. For an answer to HEAD, which has no body, the SDK makes one up of the status. */
export function s3Code(error: unknown): string {
  const { name } = fields(error);
  return typeof name === "string" ? name : "";
}

export function s3Status(error: unknown): number | undefined {
  return fields(error).$metadata?.httpStatusCode;
}

/** No such object. Without a body to tell it from a bucket that is missing, it is taken for this. */
export function isMissingObject(error: unknown): boolean {
  return s3Code(error) !== "NoSuchBucket" && s3Code(error) !== "NoSuchUpload" && s3Status(error) === 404;
}

export function isMissingUpload(error: unknown): boolean {
  return s3Code(error) === "NoSuchUpload";
}

/** The condition `If-None-Match` was not met, or another write to the key was under way. */
export function isConflict(error: unknown): boolean {
  return s3Status(error) === 412 || s3Status(error) === 409;
}

/** Backblaze B2 and older versions of others answer 501 to conditions that they do not know. */
export function isUnknownCondition(error: unknown): boolean {
  return s3Code(error) === "NotImplemented" || s3Status(error) === 501;
}

// MinIO has names of its own for a full disk and a used-up quota.
const fullCodes = ["QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity"];
const credentialCodes = [
  "InvalidAccessKeyId",
  "SignatureDoesNotMatch",
  "ExpiredToken",
  "ExpiredTokenException",
  "InvalidToken",
  "TokenRefreshRequired",
  "CredentialsProviderError",
];
const regionCodes = ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"];
const networkCodes = /^(?:ECONN|ENOTFOUND|EAI_|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/;

/** The disk or a quota of the store is used up. */
export function isS3Full(error: unknown): boolean {
  return fullCodes.includes(s3Code(error)) || s3Status(error) === 507;
}

/** The credentials are known, and may not do this. */
export function isS3Denied(error: unknown): boolean {
  const code = s3Code(error);
  if (isS3Full(error) || credentialCodes.includes(code) || regionCodes.includes(code)) return false;
  return s3Status(error) === 401 || s3Status(error) === 403;
}

/** Whether the store does not answer, or not now. */
export function isS3Outage(error: unknown): boolean {
  const status = s3Status(error);
  if (isS3Full(error) || status === 501) return false;
  return status === 429 || (status !== undefined && status >= 500) || isNetworkError(error);
}

/**
 * The error to throw for one of the SDK's. What says nothing about the store, as a cancellation or a bug, stays as it is.
 *
 * @param retryAfter seconds to wait for a store that does not answer, where it does not say so itself.
 */
export function s3Error(bucket: string, error: unknown, retryAfter = 1): unknown {
  if (isRegistryError(error)) return error;
  const said = explanation(bucket, error, retryAfter);
  if (!said) return error;
  const [code, message, more] = said;
  return storageError(code, bucket, message, { cause: withoutSecrets(error), ...more });
}

type Explanation = readonly ["UNAVAILABLE" | "INSUFFICIENT_STORAGE", string, { retryAfter?: number }?];

function explanation(bucket: string, error: unknown, retryAfter: number): Explanation | undefined {
  const code = s3Code(error);
  const status = s3Status(error);
  if (isS3Full(error))
    return [
      "INSUFFICIENT_STORAGE",
      `the S3 store has no room left for bucket ${bucket}: free space there or raise its quota, then try again`,
    ];
  if (code === "NoSuchBucket") return ["UNAVAILABLE", `the S3 bucket ${bucket} does not exist: create it, or correct the option bucket`];
  if (credentialCodes.includes(code))
    return [
      "UNAVAILABLE",
      `the S3 store does not accept the credentials used for bucket ${bucket} (${code}): check those of the S3 client, and this machine's clock`,
    ];
  if (regionCodes.includes(code) || status === 301)
    return ["UNAVAILABLE", `the S3 bucket ${bucket} is in another region or at another endpoint (${code}): correct those of the S3 client`];
  if (isS3Denied(error))
    return [
      "UNAVAILABLE",
      `access to the S3 bucket ${bucket} is denied (${code}): permit these credentials to list the bucket and its multipart uploads, and to get, put and delete objects`,
    ];
  if (status === 429 || (status !== undefined && status >= 500) || isNetworkError(error))
    return [
      "UNAVAILABLE",
      `the S3 store of bucket ${bucket} does not answer requests now (${whyNot(error)}): try again`,
      { retryAfter: askedPause(error) ?? retryAfter },
    ];
  return undefined;
}

/** The seconds that the service has asked to wait for, as a number or a date (RFC 9110, "Retry-After"). */
function askedPause(error: unknown): number | undefined {
  const headers = fields(error).$response?.headers ?? {};
  const [, value] = Object.entries(headers).find(([name]) => name.toLowerCase() === "retry-after") ?? [];
  if (typeof value !== "string") return undefined;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(longestPause, Math.max(1, Math.ceil(seconds))) : undefined;
}

/** The system's word where the connection failed: the SDK names such an error "Error". */
function whyNot(error: unknown): string {
  const { code } = fields(error);
  return typeof code === "string" && networkCodes.test(code) ? code : `${s3Code(error) || s3Status(error)}`;
}

/** Whether the connection failed, or the client gave up waiting. */
function isNetworkError(error: unknown): boolean {
  const { code, name, message } = fields(error);
  if (typeof code === "string" && networkCodes.test(code)) return true;
  return (
    name === "TimeoutError" || name === "SlowDown" || (typeof message === "string" && /socket hang up|aborted by the peer/i.test(message))
  );
}

/** The service's words. The SDK's error also holds the request that was signed, the key's id and more; causes end up in logs. */
function withoutSecrets(error: unknown): Error {
  const { message, $metadata } = fields(error);
  const request = $metadata?.requestId ? ` (request ${$metadata.requestId})` : "";
  return new Error(`${s3Code(error)}: ${typeof message === "string" ? message : ""}${request}`);
}
