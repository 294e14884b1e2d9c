/**
 * From a request to a response. `dispatch` reads the path as a route, asks whether the caller may do what the method does there, and calls the handler: `manifests.ts`, `blobs.ts`,
 * `uploads.ts`, `listings.ts`, `extensions.ts`. Whatever they throw becomes an error response. `parseRoute` is the whole grammar of paths below `/v2`.
 */
import type { Action } from "../access/policy.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { isRepositoryName, parseRepositoryName } from "../core/name.js";
import { deleteBlob, getBlob, headBlob, UnsatisfiableRange } from "./blobs.js";
import { asManifestError, errorResponse, reportRequestFault, withoutReason } from "./errors.js";
import {
  admittedTo,
  type Exchange,
  exchangeFor,
  jsonResponse,
  parametersOf,
  type Site,
  type WireRequest,
  type WireResponse,
} from "./exchange.js";
import { listExtensions } from "./extensions.js";
import { cacheStatusOf } from "./headers.js";
import { listReferrers, listRepositories, listTags } from "./listings.js";
import { deleteManifest, putManifest, readManifest, tagParameterLimit } from "./manifests.js";
import { appendUpload, cancelUpload, finishUpload, OutOfOrder, startUpload, uploadStatus } from "./uploads.js";

/** Answers one request below `/v2`. Never rejects: whatever goes wrong becomes a response. */
export async function dispatch(site: Site, request: WireRequest): Promise<WireResponse> {
  const { path, query } = splitTarget(request.target);
  const parsed = parseRoute(path);
  const context = {
    head: request.method === "HEAD",
    challenge: site.policy.challenge,
    get topology() {
      return site.topology(request.caller);
    },
  };
  if (parsed.kind === "invalid") {
    return errorResponse(path.includes("/manifests/") ? asManifestError(parsed.error) : parsed.error, context);
  }
  const { route } = parsed;
  const action = actions[route.kind].get(request.method);
  if (!action) {
    const allowed = [...actions[route.kind].keys()].join(", ");
    return errorResponse(new RegistryError("UNSUPPORTED", `use one of: ${allowed}`), context, { Allow: allowed });
  }
  let x: Exchange;
  try {
    x = exchangeFor(site, request, query);
  } catch (error) {
    return errorResponse(error, context);
  }
  let used: string | undefined;
  try {
    if (route.kind === "ping") return ping(x);
    const namespace = action === "pull" && query !== "" ? namespaceOf(x) : undefined;
    await admitted(x, action, route, namespace);
    if (namespace === undefined) return withCacheHeaders(x, await answer(x, route, site.registry));
    const source = site.registry.forNamespace(namespace);
    if (source) used = namespace;
    return withNamespace(withCacheHeaders(x, await answer(x, route, source)), used);
  } catch (thrown) {
    const error = route.kind === "manifest" ? asManifestError(thrown) : thrown;
    reportRequestFault(site, request, error);
    const more = error instanceof UnsatisfiableRange || error instanceof OutOfOrder ? error.headers : undefined;
    return withNamespace(errorResponse(error, context, more), used);
  }
}

const reads: readonly [string, Action][] = [
  ["GET", "pull"],
  ["HEAD", "pull"],
];

/** What each method of each route does, as far as access is concerned. A method that is not here is 405. */
const actions: Record<Route["kind"], ReadonlyMap<string, Action>> = {
  ping: new Map(reads),
  catalog: new Map<string, Action>([
    ["GET", "list"],
    ["HEAD", "list"],
  ]),
  manifest: new Map<string, Action>([...reads, ["PUT", "push"], ["DELETE", "delete"]]),
  blob: new Map<string, Action>([...reads, ["DELETE", "delete"]]),
  uploads: new Map<string, Action>([["POST", "push"]]),
  // Whoever may push may also look at and give up what was begun: podman ends the session it no longer needs.
  upload: new Map<string, Action>([
    ["GET", "push"],
    ["HEAD", "push"],
    ["PATCH", "push"],
    ["PUT", "push"],
    ["DELETE", "push"],
  ]),
  tags: new Map(reads),
  referrers: new Map(reads),
  extensions: new Map(reads),
};

/** Says which cache answered, and leaves out of warnings what this caller may not know. */
function withCacheHeaders({ site, request }: Exchange, response: WireResponse): WireResponse {
  const status = site.cacheStatus && response.served ? cacheStatusOf(response.served) : undefined;
  if (status !== undefined) response.headers["Cache-Status"] = status;
  const { Warning } = response.headers;
  if (Array.isArray(Warning) && !site.topology(request.caller)) response.headers.Warning = Warning.map(withoutReason);
  return response;
}

/** Errors too: they are that registry's, and no reason to ask another mirror for what this one does not know. */
function withNamespace(response: WireResponse, namespace: string | undefined): WireResponse {
  if (namespace !== undefined) response.headers["OCI-Namespace"] = namespace;
  return response;
}

function answer(
  x: Exchange,
  route: Exclude<Route, { kind: "ping" }>,
  source: Exchange["site"]["registry"] | undefined,
): Promise<WireResponse> {
  const { method } = x.request;
  switch (route.kind) {
    case "manifest":
      if (method === "PUT") return putManifest(x, route.repository, route.reference);
      if (method === "DELETE") return deleteManifest(x, route.repository, route.reference);
      return readManifest(x, source, route.repository, route.reference);
    case "blob":
      if (method === "DELETE") return deleteBlob(x, route.repository, route.digest);
      return method === "HEAD" ? headBlob(x, source, route.repository, route.digest) : getBlob(x, source, route.repository, route.digest);
    case "uploads":
      return startUpload(x, route.repository);
    case "upload":
      if (method === "PATCH") return appendUpload(x, route.repository, route.id);
      if (method === "PUT") return finishUpload(x, route.repository, route.id);
      return method === "DELETE" ? cancelUpload(x, route.repository, route.id) : uploadStatus(x, route.repository, route.id);
    case "tags":
      return listTags(x, source, route.repository);
    case "referrers":
      return listReferrers(x, source, route.repository, route.digest);
    case "catalog":
      return listRepositories(x);
    case "extensions":
      return listExtensions(x, route.repository);
  }
}

function ping(x: Exchange): WireResponse {
  const { policy } = x.site;
  if (policy.asksToSignIn(x.call.caller)) {
    return errorResponse(new RegistryError("UNAUTHORIZED", "sign in"), { head: x.head, challenge: policy.challenge });
  }
  return jsonResponse(200, {}, { head: x.head });
}

/** The host that containerd asks a mirror for: a look-up key and nothing else. It is repeated in a header, so its characters are checked. */
function namespaceOf(x: Exchange): string | undefined {
  const host = parametersOf(x).get("ns");
  if (host === null || host === "") return undefined;
  if (host.length <= 255 && /^[A-Za-z0-9._:[\]-]+$/.test(host)) return host;
  throw new RegistryError("NAME_INVALID", "ns must be a host name, with a port where it has one");
}

async function admitted(
  x: Exchange,
  action: Action,
  route: Exclude<Route, { kind: "ping" }>,
  namespace: string | undefined,
): Promise<void> {
  // What the registry offers as a whole is no repository's secret; who may not even sign in learns it from the documentation.
  if (route.kind === "extensions" && route.repository === undefined) return;
  const repository = route.kind === "catalog" ? undefined : route.repository;
  const own = route.kind === "manifest" ? route.reference : "digest" in route ? route.digest : undefined;
  await admittedTo(x, action, repository, own, namespace);
  if (route.kind !== "manifest" || action !== "push" || x.query === "") return;
  // Tags as parameters are written like the reference, so they are asked for like it.
  for (const tag of parametersOf(x).getAll("tag").slice(0, tagParameterLimit)) await admittedTo(x, action, repository, tag, namespace);
}

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
/**
 * Letters, digits, `-`, `.`, `_` and `~`, which no client has to encode (RFC 3986 section 2.3), and the slash. What a host compares a prefix with in front of the registry is the path as
 * it came: decoded here, `/v2/%70rivate/…` would pass a rule for `/v2/private/`.
 */
const neverEncoded = /%(?:2[DEF]|3[0-9]|4[1-9A-F]|5[0-9AF]|6[1-9A-F]|7[0-9AE])/i;
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
    if (segment.includes("%")) {
      if (neverEncoded.test(segment)) throw malformed(path);
      segment = segments[i] = decodeURIComponent(segment);
    }
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
  return new RegistryError(
    "NAME_INVALID",
    `${quoted(path)} holds a dot segment, a malformed escape or an encoded character that needs no encoding: send names and tags as they are`,
  );
}

function quoted(path: string): string {
  return JSON.stringify(path.slice(0, 300));
}
