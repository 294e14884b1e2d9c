import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { found, type Lookup } from "../core/lookup.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import type { Page, PageRequest } from "../core/page.js";
import { referrersTag } from "../core/references.js";
import { spendTurn, unitsOfBytes } from "../core/turn-budget.js";
import { type RemoteError, RemoteFailure, unavailable } from "./failures.js";
import { getRemoteManifest } from "./manifests.js";
import { orPagingFailure, PagingFailure, upstreamPages } from "./paging.js";
import { noteWarnings } from "./stated-text.js";
import { contentType, listedIn, type UpstreamResponse } from "./transport.js";
import { pullScope, type Upstream } from "./upstream.js";

/** Far above what any image has (a handful of signatures and reports a platform): so many are read to sort them. */
const referrerLimit = 100_000;

export interface ReferrersRequest extends PageRequest {
  readonly artifactType?: string;
}

/** From the referrers API, or from the referrers tag where the upstream has none; sorted here, and filtered unless the upstream says it has. */
export async function listRemoteReferrers(
  upstream: Upstream,
  repository: string,
  subject: Digest,
  request: ReferrersRequest,
  signal: AbortSignal | undefined,
): Promise<Lookup<Page<Descriptor>>> {
  const first = new FirstReferrers(request);
  const warnings = new Set<string>();
  const { artifactType } = request;
  const ofType = (referrers: readonly Descriptor[]) => referrers.filter((referrer) => isOfType(referrer, artifactType));
  const answer = await orPagingFailure(async () => {
    let pages = 0;
    let listed = 0;
    // There is no `last` to go on by, so what cannot be had by a link is lacking.
    const endsHere = (why: string) => {
      warnings.add(`this list may not be complete: what comes after page ${pages} could not be had: ${why}`);
      return "listed" as const;
    };
    try {
      for await (const { items, response } of apiPages(upstream, repository, subject, artifactType, signal)) {
        if (items === undefined) return pages === 0 ? "unsupported" : endsHere("the answer is no index");
        pages++;
        noteWarnings(warnings, upstream.name, response);
        const wanted = saysFiltered(response) ? items : ofType(items);
        listed += wanted.length;
        if (listed > referrerLimit) return endsHere(`${upstream.name} has more than ${referrerLimit} ${whatOf(repository, subject)}`);
        await first.add(wanted);
      }
    } catch (error) {
      if (!(error instanceof PagingFailure) || pages === 0) throw error;
      return endsHere(error.reasonFor(upstream));
    }
    return "listed";
  });
  if (isUnsupported(answer)) {
    const referrers = await fromReferrersTag(upstream, repository, subject, signal);
    if ("kind" in referrers) return referrers;
    await first.add(ofType(referrers));
  } else if (typeof answer === "object") return answer;
  return found({ ...first.page(), ...(warnings.size > 0 && { warnings: [...warnings] }) }, { member: [upstream.name] });
}

/** Whether the upstream has the referrers API; where it has not, clients maintain the referrers tag. */
export async function hasReferrersApi(
  upstream: Upstream,
  repository: string,
  subject: Digest,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const answer = await orPagingFailure(async () => {
    for await (const { items } of apiPages(upstream, repository, subject, undefined, signal)) return items && "listed";
    return "listed";
  });
  return !isUnsupported(answer ?? "unsupported");
}

function whatOf(repository: string, subject: Digest): string {
  return `referrers of ${subject} in ${repository}`;
}

/** Pages without `items` are none of the API: a registry without it may answer 200 to any path, with a page for people. */
function apiPages(
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
    what: whatOf(repository, subject),
    headers: { accept: mediaTypes.ociIndex },
    signal,
  } as const;
  return upstreamPages(upstream, ask, manifestSizeLimit, readReferrers);
}

function isUnsupported(answer: "unsupported" | "listed" | RemoteError): boolean {
  return answer === "unsupported" || (typeof answer === "object" && answer.kind === "absent");
}

/**
 * The first of a subject's referrers in order of their digests: as many as one page may have, by number and by bytes. All others are forgotten as they come, since
 * an upstream may list any number with annotations of any length.
 */
class FirstReferrers {
  readonly #request: ReferrersRequest;
  #kept: { readonly referrer: Descriptor; readonly bytes: number }[] = [];
  #more = false;

  constructor(request: ReferrersRequest) {
    this.#request = request;
  }

  async add(referrers: readonly Descriptor[]): Promise<void> {
    const { after } = this.#request;
    for (const referrer of referrers) {
      if (after !== undefined && referrer.digest <= after) continue;
      const bytes = Buffer.byteLength(JSON.stringify(referrer));
      this.#kept.push({ referrer, bytes });
      const turn = spendTurn(unitsOfBytes(bytes));
      if (turn) await turn;
    }
    this.#trim();
  }

  #trim(): void {
    const sorted = this.#kept.sort((a, b) => (a.referrer.digest < b.referrer.digest ? -1 : 1));
    const distinct = sorted.filter(({ referrer }, index) => referrer.digest !== sorted[index - 1]?.referrer.digest);
    let left = manifestSizeLimit;
    const end = distinct.findIndex(({ bytes }, index) => {
      left -= bytes;
      return index === this.#request.limit || (index > 0 && left < 0);
    });
    if (end >= 0) this.#more = true;
    this.#kept = end < 0 ? distinct : distinct.slice(0, end);
  }

  page(): Page<Descriptor> {
    const items = this.#kept.map(({ referrer }) => referrer);
    const next = this.#more ? items.at(-1)?.digest : undefined;
    return { items, ...(next !== undefined && { next }) };
  }
}

/** Reads one page, or `undefined` when it is not of the exact type by which the specification tells support. */
function readReferrers(body: Uint8Array, response: UpstreamResponse): readonly Descriptor[] | undefined {
  return contentType(response) === mediaTypes.ociIndex ? readIndex(body) : undefined;
}

async function fromReferrersTag(upstream: Upstream, repository: string, subject: Digest, signal: AbortSignal | undefined) {
  const tagged = await getRemoteManifest(upstream, repository, { kind: "tag", tag: referrersTag(subject) }, signal);
  if (tagged.kind === "absent") return [];
  if (tagged.kind !== "found") return tagged;
  const { descriptor, bytes } = tagged.value;
  // The tag is an ordinary one: anybody may have put an image there.
  if (descriptor.mediaType !== mediaTypes.ociIndex) return [];
  try {
    return readIndex(bytes);
  } catch {
    return unavailable(`${upstream.name}: referrers of ${subject} in ${repository}: the referrers tag holds no valid index`);
  }
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
  return listedIn(response, "oci-filters-applied").some((filter) => filter.toLowerCase() === "artifacttype");
}
