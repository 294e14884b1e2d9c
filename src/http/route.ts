import { type Digest, parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { isRepositoryName, parseRepositoryName } from "../core/name.js";

/** What a path means. Names and digests are valid; a manifest's reference is left to its verb, since a malformed tag is 404 to a reader. */
export type Route =
  | { readonly kind: "ping" }
  | { readonly kind: "catalog" }
  | { readonly kind: "manifest"; readonly repository: string; readonly reference: string }
  | { readonly kind: "blob"; readonly repository: string; readonly digest: Digest }
  | { readonly kind: "uploads"; readonly repository: string }
  | { readonly kind: "upload"; readonly repository: string; readonly id: string }
  | { readonly kind: "tags"; readonly repository: string }
  | { readonly kind: "referrers"; readonly repository: string; readonly digest: Digest }
  /** Of one repository, or of the registry as a whole. */
  | { readonly kind: "extensions"; readonly repository: string | undefined };

export type RouteResult = { readonly kind: "route"; readonly route: Route } | { readonly kind: "invalid"; readonly error: RegistryError };

/** Splits a request target; `path` is absolute and undecoded. */
export function splitTarget(target: string): { path: string; query: string } {
  let start = 0;
  if (target.charCodeAt(0) !== 0x2f) {
    // RFC 9112 section 3.2.2: a request through a proxy names the whole URL.
    const authority = /^https?:\/\/[^/?#]*/i.exec(target);
    start = authority ? authority[0].length : 0;
  }
  const question = target.indexOf("?", start);
  return question < 0
    ? { path: target.slice(start), query: "" }
    : { path: target.slice(start, question), query: target.slice(question + 1) };
}

/** Whether a path is the registry API's; everything else belongs to the host. */
export function isApiPath(path: string): boolean {
  return path.startsWith("/v2") && (path.length === 3 || path.charCodeAt(3) === 0x2f);
}

/** Longer than any name and reference together; a guard for the patterns below. */
const pathLimit = 1024;
/** Sessions that pass through wrappers may carry more than the 32 hexadecimal digits of a local one. */
const uploadIdPattern = /^[A-Za-z0-9_.~=:+-]{1,256}$/;

/**
 * Reads a path below `/v2`. It is matched from the right, because repository names may contain "blobs", "manifests" and "tags".
 * Never throws.
 */
export function parseRoute(path: string): RouteResult {
  try {
    return { kind: "route", route: routeOf(path) };
  } catch (error) {
    if (isRegistryError(error)) return { kind: "invalid", error };
    return { kind: "invalid", error: malformed(path) };
  }
}

function routeOf(path: string): Route {
  if (path.length > pathLimit) throw new RegistryError("NAME_INVALID", `the path is longer than ${pathLimit} characters`);
  if (path === "/v2" || path === "/v2/") return { kind: "ping" };
  const segments = decodedSegments(path);
  const last = segments.at(-1) ?? "";
  const verb = segments.at(-2);
  switch (verb) {
    case "manifests":
      return { kind: "manifest", repository: repositoryOf(segments, 2), reference: last };
    case "blobs":
      if (last === "uploads") return { kind: "uploads", repository: repositoryOf(segments, 2) };
      return { kind: "blob", repository: repositoryOf(segments, 2), digest: parseDigest(last) };
    case "referrers":
      return { kind: "referrers", repository: repositoryOf(segments, 2), digest: parseDigest(last) };
    case "tags":
      if (last === "list") return { kind: "tags", repository: repositoryOf(segments, 2) };
      break;
    case "ext":
      if (last !== "discover" || segments.at(-3) !== "_oci") break;
      return { kind: "extensions", repository: segments.length === 3 ? undefined : repositoryOf(segments, 3) };
    case "uploads":
      if (segments.at(-3) !== "blobs") break;
      if (last === "") return { kind: "uploads", repository: repositoryOf(segments, 3) };
      if (!uploadIdPattern.test(last)) throw new RegistryError("BLOB_UPLOAD_UNKNOWN", "no such upload");
      return { kind: "upload", repository: repositoryOf(segments, 3), id: last };
  }
  if (segments.length === 1 && last === "_catalog") return { kind: "catalog" };
  throw unknownPath(path, segments);
}

function decodedSegments(path: string): string[] {
  const segments = path.slice("/v2/".length).split("/");
  for (let i = 0; i < segments.length; i++) {
    let segment = segments[i] ?? "";
    // Once: `sha256%3A…` occurs, while `%252F` is not a slash by the second decoding but an invalid name.
    if (segment.includes("%")) segment = segments[i] = decodeURIComponent(segment);
    if (segment === "." || segment === ".." || /[/\\\0]/.test(segment)) throw malformed(path);
  }
  return segments;
}

function repositoryOf(segments: readonly string[], trailing: number): string {
  return parseRepositoryName(segments.slice(0, -trailing).join("/"));
}

function unknownPath(path: string, segments: readonly string[]): RegistryError {
  const code = isRepositoryName(segments.join("/")) ? "NAME_UNKNOWN" : "NAME_INVALID";
  return new RegistryError(code, `${quoted(path)} is no path of the registry API`, { status: 404 });
}

function malformed(path: string): RegistryError {
  return new RegistryError("NAME_INVALID", `${quoted(path)} holds an encoded slash, a dot segment or a malformed escape`);
}

function quoted(path: string): string {
  return JSON.stringify(path.slice(0, 300));
}
