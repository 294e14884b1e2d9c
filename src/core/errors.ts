/**
 * Every code a registry may answer with, and its HTTP status. The first block is the specification's
 * (distribution-spec, "Error Codes"); the second is for what it has no word for.
 */
export const errorStatus = {
  BLOB_UNKNOWN: 404,
  BLOB_UPLOAD_INVALID: 400,
  BLOB_UPLOAD_UNKNOWN: 404,
  DIGEST_INVALID: 400,
  MANIFEST_BLOB_UNKNOWN: 400,
  MANIFEST_INVALID: 400,
  MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400,
  NAME_UNKNOWN: 404,
  SIZE_INVALID: 400,
  UNAUTHORIZED: 401,
  DENIED: 403,
  UNSUPPORTED: 405,
  TOOMANYREQUESTS: 429,

  RANGE_INVALID: 416,
  PRECONDITION_FAILED: 412,
  UNKNOWN: 500,
  UNAVAILABLE: 503,
  INSUFFICIENT_STORAGE: 507,
} as const;

export type ErrorCode = keyof typeof errorStatus;

export interface RegistryErrorOptions {
  /** Replaces the code's status where one code has two (MANIFEST_INVALID is 413 when the manifest is too large). */
  status?: number;
  /** Machine-readable detail, sent to clients: never put a secret here. */
  detail?: unknown;
  /** Seconds after which a new attempt makes sense. */
  retryAfter?: number;
  cause?: unknown;
}

// A brand instead of instanceof: a host may load two copies of this library (ESM and CommonJS, or two versions).
const brand = Symbol.for("oci-manifold.RegistryError");

/**
 * The one error class of the library. Writes, cancellation and bugs throw; reads answer a {@link Lookup}, whose
 * failures hold a `RegistryError` as a value.
 *
 * @example
 * ```ts
 * import { RegistryError } from "oci-manifold";
 * const error = new RegistryError("NAME_INVALID", "the name \"A\" has upper-case letters");
 * console.assert(error.status === 400);
 * ```
 */
export class RegistryError extends Error {
  readonly code: ErrorCode;
  readonly status: number;
  readonly detail: unknown;
  readonly retryAfter: number | undefined;

  constructor(code: ErrorCode, message: string, options: RegistryErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "RegistryError";
    this.code = code;
    this.status = options.status ?? errorStatus[code];
    this.detail = options.detail;
    this.retryAfter = options.retryAfter;
    Object.defineProperty(this, brand, { value: true });
  }
}

/** Whether a thrown value is a {@link RegistryError}, from whichever copy of this library. */
export function isRegistryError(value: unknown): value is RegistryError {
  return typeof value === "object" && value !== null && (value as Record<symbol, unknown>)[brand] === true;
}

/** Whether a storage or a limit of it is full: what could be written again once something was freed. */
export function isStorageFull(error: unknown): boolean {
  return isRegistryError(error) && error.code === "INSUFFICIENT_STORAGE";
}

/** What to say of something that was thrown: an error's message, else the value as text. */
export function errorText(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

const places = new WeakMap<object, readonly string[]>();

/** Notes what an error's message calls an upstream: its name and hosts, for {@link withoutPlaceNames}. Answers the error. */
export function naming<E extends RegistryError>(error: E, names: readonly string[]): E {
  places.set(error, names);
  return error;
}

/** An error's message for those who may not know which upstreams there are. */
export function withoutPlaceNames(error: RegistryError): string {
  const names = placesIn(error);
  // The longest first: a host's name may be part of another's.
  const ordered = [...names].sort((a, b) => b.length - a.length);
  return ordered.reduce((message, name) => message.replaceAll(name, "the upstream"), error.message);
}

/** Also those of the error that it was made of. */
function placesIn(error: unknown): readonly string[] {
  for (let at = error; isRegistryError(at); at = at.cause) {
    const names = places.get(at);
    if (names) return names;
  }
  return [];
}
