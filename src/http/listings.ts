import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { absent } from "../core/lookup.js";
import { manifestSizeLimit } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import type { Page, PageRequest } from "../core/page.js";
import type { Registry } from "../core/registry.js";
import { spendTurn, unitsOfBytes } from "../core/turn-budget.js";
import { lookupError } from "./errors.js";
import { type Exchange, jsonResponse, jsonTextResponse, parametersOf, type WireHeaders, type WireResponse } from "./exchange.js";
import { addWarnings } from "./headers.js";

/** Items in a page, asked for or not. Clients that do not follow Link (the conformance program) must get this many; crane asks for it. */
const pageLimit = 1000;

export async function listTags(x: Exchange, source: Registry | undefined, repository: string): Promise<WireResponse> {
  const parameters = parametersOf(x);
  const { page, none } = pageRequestOf(parameters);
  const lookup = source ? await source.listTags(repository, page, x.call) : absent;
  if (lookup.kind !== "found") throw lookupError(lookup, "NAME_UNKNOWN", x.call.caller);
  const { value, served } = lookup;
  const more = none ? {} : pageHeaders(`/v2/${repository}/tags/list`, parameters, value);
  return { ...jsonResponse(200, { name: repository, tags: none ? [] : value.items }, { head: x.head, more }), served };
}

export async function listRepositories(x: Exchange): Promise<WireResponse> {
  const parameters = parametersOf(x);
  const { page, none } = pageRequestOf(parameters);
  const lookup = await x.site.registry.listRepositories(page, x.call);
  if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookupError(lookup, "NAME_UNKNOWN", x.call.caller);
  const value: Page<string> = lookup.kind === "found" && !none ? lookup.value : { items: [] };
  const response = jsonResponse(200, { repositories: value.items }, { head: x.head, more: pageHeaders("/v2/_catalog", parameters, value) });
  return lookup.kind === "found" ? { ...response, served: lookup.served } : response;
}

/** Always 200 where the question can be answered, also for a repository or subject that does not exist: a 404 means "no referrers API here". */
export async function listReferrers(x: Exchange, source: Registry | undefined, repository: string, subject: Digest): Promise<WireResponse> {
  const parameters = parametersOf(x);
  const { page, none } = pageRequestOf(parameters);
  // No media type has a space: this was a "+" that the client did not encode, as in application/spdx+json.
  const artifactType = parameters.get("artifactType")?.replaceAll(" ", "+") || undefined;
  const lookup = source
    ? await source.listReferrers(repository, subject, artifactType === undefined ? page : { ...page, artifactType }, x.call)
    : absent;
  if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookupError(lookup, "NAME_UNKNOWN", x.call.caller);
  const { text, ...value } = lookup.kind === "found" && !none ? await indexOf(lookup.value) : { text: "", items: [] };
  const more = pageHeaders(`/v2/${repository}/referrers/${subject}`, parameters, value);
  if (artifactType !== undefined) more["OCI-Filters-Applied"] = "artifactType";
  const index = `{"schemaVersion":2,"mediaType":"${mediaTypes.ociIndex}","manifests":[${text}]}`;
  // Without a charset: the conformance program compares the whole header.
  const response = jsonTextResponse(200, index, { head: x.head, contentType: mediaTypes.ociIndex, more });
  return lookup.kind === "found" ? { ...response, served: lookup.served } : response;
}

/**
 * The descriptors of a page as JSON, as many as make no larger index than a manifest may be: clients read no more, and a page merged from several members may
 * have more. Each is written once, since its annotations may be as long as a manifest.
 */
async function indexOf(page: Page<Descriptor>): Promise<Page<Descriptor> & { readonly text: string }> {
  const pieces: string[] = [];
  let bytes = 0;
  for (const item of page.items) {
    const piece = JSON.stringify(item);
    const size = Buffer.byteLength(piece);
    bytes += size;
    const last = page.items[pieces.length - 1];
    if (last && bytes > manifestSizeLimit)
      return { ...page, items: page.items.slice(0, pieces.length), next: last.digest, text: pieces.join() };
    pieces.push(piece);
    const turn = spendTurn(unitsOfBytes(size));
    if (turn) await turn;
  }
  return { ...page, text: pieces.join() };
}

/** `none`: with `n=0` nothing is listed, but whether the repository exists is still asked. */
function pageRequestOf(parameters: URLSearchParams): { page: PageRequest; none: boolean } {
  const n = parameters.get("n");
  const last = parameters.get("last");
  if (n !== null && !/^\d+$/.test(n)) throw new RegistryError("UNSUPPORTED", "n must be a whole number, not negative", { status: 400 });
  if (last !== null && !/^[\x20-\x7e]{0,512}$/.test(last)) {
    throw new RegistryError("UNSUPPORTED", "last must be an item of an earlier page", { status: 400 });
  }
  const wanted = n === null ? pageLimit : Math.min(Number(n), pageLimit);
  return { page: { limit: Math.max(1, wanted), ...(last && { after: last }) }, none: wanted === 0 };
}

function pageHeaders(path: string, parameters: URLSearchParams, page: Page<unknown>): WireHeaders {
  const headers: WireHeaders = {};
  addWarnings(headers, page.warnings);
  if (page.next === undefined) return headers;
  const next = new URLSearchParams(parameters);
  if (next.has("n")) next.set("n", String(Math.min(Number(next.get("n")), pageLimit)));
  next.set("last", page.next);
  // Relative, so that it is right behind every proxy.
  headers.Link = `<${path}?${next}>; rel="next"`;
  return headers;
}
