import type { Descriptor } from "./descriptor.js";
import { RegistryError } from "./errors.js";

/** Where the bytes of a blob reference can be had: a member's permanent name and a repository there. One hop, never a chain. */
export interface Origin {
  readonly member: string;
  readonly repository: string;
}

/** A blob whose bytes are elsewhere. `size` is what a manifest says of it, and nobody has verified that; absent where no manifest has. */
export type ReferencedBlob = Omit<Descriptor, "size"> & { readonly size?: number };

/** Who answered, and from what. */
export interface Served {
  /** The path of members from the outermost registry inwards, e.g. `["prerelease", "hub"]`. */
  readonly member: readonly string[];
  /** Absent where no cache was involved. `stale`: the source could not answer, so an older answer was given. */
  readonly cache?: "hit" | "miss" | "stale";
  /** Milliseconds since the cached answer was last confirmed. */
  readonly age?: number;
  /** Milliseconds for which the cached answer needs no confirmation; negative when it is stale. Absent: for ever. */
  readonly ttl?: number;
  readonly warnings?: readonly string[];
}

/**
 * The answer to a read. Between members an answer is a value, not an exception: an aggregate decides by it, and a throw through five
 * async frames costs twenty times as much.
 */
export type Lookup<T> =
  | { readonly kind: "found"; readonly value: T; readonly served: Served }
  /** `error`: what is known about why, for the client that is told. */
  | { readonly kind: "absent"; readonly error?: RegistryError }
  /** Known here, the bytes are elsewhere: only an aggregate or a cache follows it. */
  | { readonly kind: "linked"; readonly descriptor: ReferencedBlob; readonly origin: Origin }
  /** Refused. `permanent`: it would be refused again whoever asks and whenever, as what is too large or of a kind that is not served; see {@link permanentlyDenied}. */
  | { readonly kind: "denied"; readonly error: RegistryError; readonly permanent?: true }
  /** Not to be had at the moment. The error's `retryAfter` is in seconds. */
  | { readonly kind: "unavailable"; readonly error: RegistryError };

export const absent = { kind: "absent" } as const;

export function found<T>(value: T, served: Served): Lookup<T> {
  return { kind: "found", value, served };
}

/** The same answer with another value; every other kind passes unchanged. */
export function mapFound<T, U>(lookup: Lookup<T>, map: (value: T) => U): Lookup<U> {
  return lookup.kind === "found" ? { ...lookup, value: map(lookup.value) } : lookup;
}

/** Puts a member's name in front of the path of who answered, unless it stands there already. */
export function servedBy<T>(member: string, lookup: Lookup<T>): Lookup<T> {
  if (lookup.kind !== "found" || lookup.served.member[0] === member) return lookup;
  return { ...lookup, served: { ...lookup.served, member: [member, ...lookup.served.member] } };
}

/**
 * A failure that no new attempt would change: 400 and no Retry-After. By tag it ends a search unless the connector says `onFailure: "next"`; by digest it is the
 * answer where every other member said absent.
 *
 * @param what names the member and the question.
 * @param why names the limit or the setting, and no place: clients that may not know of members are told it.
 */
export function permanentlyDenied(what: string, why: string, cause?: unknown): Extract<Lookup<never>, { kind: "denied" }> {
  const error = new RegistryError("UNSUPPORTED", `${what}: ${why}`, {
    status: 400,
    detail: { permanent: why },
    ...(cause !== undefined && { cause }),
  });
  return { kind: "denied", error, permanent: true };
}

/** Why a failure is permanent; `undefined` for one that is not. It survives being thrown, and being folded with others. */
export function permanentReason({ detail }: RegistryError): string | undefined {
  const reason = typeof detail === "object" && detail !== null && "permanent" in detail ? detail.permanent : undefined;
  return typeof reason === "string" ? reason : undefined;
}

/** Whether it is there, for those to whom it makes no difference why not. @throws RegistryError why nobody could be asked. */
export function isThere<T>(lookup: Lookup<T>): lookup is Extract<Lookup<T>, { kind: "found" }> {
  if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
  return lookup.kind === "found";
}

/**
 * For hosts that prefer exceptions: the value, or a throw.
 *
 * @param code what an absent answer is called: MANIFEST_UNKNOWN unless said otherwise.
 * @throws RegistryError with `code` when absent or elsewhere, or the error of a refusal or failure.
 *
 * @example
 * ```ts
 * import { localRegistry, orThrow } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const registry = localRegistry({ storage: memoryStorage(), name: "release" });
 * const tags = await registry.listTags("team/app", { limit: 100 });
 * console.log(tags.kind === "found" ? orThrow(tags).items : "no such repository");
 * ```
 */
export function orThrow<T>(lookup: Lookup<T>, code: "MANIFEST_UNKNOWN" | "BLOB_UNKNOWN" | "NAME_UNKNOWN" = "MANIFEST_UNKNOWN"): T {
  switch (lookup.kind) {
    case "found":
      return lookup.value;
    case "absent":
      throw lookup.error ?? new RegistryError(code, "not found");
    case "linked":
      throw new RegistryError(code, `the bytes of ${lookup.descriptor.digest} are at ${lookup.origin.member}, which was not asked`);
    case "denied":
    case "unavailable":
      throw lookup.error;
  }
}
