import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { found, type Lookup } from "../core/lookup.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import type { Page, PageRequest } from "../core/page.js";
import { RemoteFailure, unavailable } from "./failures.js";
import { getManifest } from "./manifests.js";
import { orPagingFailure, PagingFailure, upstreamPages } from "./paging.js";
import { headerOf, type UpstreamResponse } from "./transport.js";
import { pullScope, type Upstream } from "./upstream.js";

/** Far above what any image has (a handful of signatures and reports a platform); all of them are sorted in memory. */
const referrerLimit = 100_000;

export interface ReferrersRequest extends PageRequest {
  readonly artifactType?: string;
}

/** From the referrers API, or from the fallback tag where the upstream has none; sorted here, and filtered unless the upstream says it has. */
export async function listReferrers(
  upstream: Upstream,
  repository: string,
  subject: Digest,
  request: ReferrersRequest,
  signal: AbortSignal | undefined,
): Promise<Lookup<Page<Descriptor>>> {
  const listed = await fromApi(upstream, repository, subject, request.artifactType, signal);
  const referrers = listed === "unsupported" ? await fromFallbackTag(upstream, repository, subject, request.artifactType, signal) : listed;
  if (!Array.isArray(referrers)) return referrers;
  return found(toPage(referrers, request), { member: [upstream.name] });
}

/** Whether the upstream has the referrers API; where it has not, clients maintain the fallback tag. */
export async function hasReferrersApi(
  upstream: Upstream,
  repository: string,
  subject: Digest,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const answer = await fromApi(upstream, repository, subject, undefined, signal);
  return answer !== "unsupported";
}

async function fromApi(
  upstream: Upstream,
  repository: string,
  subject: Digest,
  artifactType: string | undefined,
  signal: AbortSignal | undefined,
) {
  const query = artifactType === undefined ? "" : `?${new URLSearchParams({ artifactType })}`;
  const ask = {
    method: "GET",
    path: `/v2/${repository}/referrers/${subject}${query}`,
    scope: pullScope(repository),
    what: `referrers of ${subject} in ${repository}`,
    headers: { accept: mediaTypes.ociIndex },
    signal,
  } as const;
  const answer = await orPagingFailure(async () => {
    const referrers: Descriptor[] = [];
    for await (const page of upstreamPages(upstream, ask, manifestSizeLimit, readReferrers)) {
      // A registry without the API may answer 200 to any path, with a page for people.
      if (page.items === undefined) return "unsupported";
      const filtered = saysFiltered(page.response);
      for (const referrer of page.items) if (filtered || isOfType(referrer, artifactType)) referrers.push(referrer);
      if (referrers.length > referrerLimit) {
        throw new PagingFailure(unavailable(`${upstream.name}: ${ask.what}: more than ${referrerLimit} of them`));
      }
    }
    return referrers;
  });
  return typeof answer === "object" && "kind" in answer && answer.kind === "absent" ? "unsupported" : answer;
}

/** Reads one page, or `undefined` when it is not of the exact type by which the specification tells support. */
function readReferrers(body: Uint8Array, response: UpstreamResponse): readonly Descriptor[] | undefined {
  const type = headerOf(response, "content-type")?.split(";", 1)[0]?.trim().toLowerCase();
  return type === mediaTypes.ociIndex ? readIndex(body) : undefined;
}

async function fromFallbackTag(
  upstream: Upstream,
  repository: string,
  subject: Digest,
  artifactType: string | undefined,
  signal: AbortSignal | undefined,
) {
  const tagged = await getManifest(upstream, repository, { kind: "tag", tag: fallbackTag(subject) }, signal);
  if (tagged.kind === "absent") return [];
  if (tagged.kind !== "found") return tagged;
  const { descriptor, bytes } = tagged.value;
  // The tag is an ordinary one: anybody may have put an image there.
  if (descriptor.mediaType !== mediaTypes.ociIndex) return [];
  try {
    return readIndex(bytes).filter((referrer) => isOfType(referrer, artifactType));
  } catch {
    return unavailable(`${upstream.name}: referrers of ${subject} in ${repository}: the fallback tag holds no valid index`);
  }
}

/** distribution-spec, "Referrers Tag Schema". */
export function fallbackTag(subject: Digest): string {
  const [algorithm = "", encoded = ""] = subject.split(":");
  return `${algorithm.slice(0, 32)}-${encoded.slice(0, 64)}`;
}

/** @throws RemoteFailure when a descriptor in it is not valid. */
function readIndex(bytes: Uint8Array): readonly Descriptor[] {
  try {
    return parseManifest(bytes, mediaTypes.ociIndex).children;
  } catch {
    throw new RemoteFailure("the answer is no valid index");
  }
}

function isOfType(referrer: Descriptor, artifactType: string | undefined): boolean {
  return artifactType === undefined || referrer.artifactType === artifactType;
}

/** Most registries do not filter; those that do say so. */
function saysFiltered(response: UpstreamResponse): boolean {
  const applied = headerOf(response, "oci-filters-applied") ?? "";
  return applied.split(",").some((filter) => filter.trim().toLowerCase() === "artifacttype");
}

function toPage(referrers: readonly Descriptor[], { after, limit }: PageRequest): Page<Descriptor> {
  const byDigest = new Map<string, Descriptor>();
  for (const referrer of referrers) {
    if (after === undefined || referrer.digest > after) byDigest.set(referrer.digest, referrer);
  }
  const wanted = [...byDigest.values()].sort((a, b) => (a.digest < b.digest ? -1 : 1));
  const items = wanted.slice(0, limit);
  const next = wanted.length > limit ? items.at(-1)?.digest : undefined;
  return { items, ...(next !== undefined && { next }) };
}
