import { found, type Lookup } from "../core/lookup.js";
import { isRepositoryName, isTag } from "../core/name.js";
import type { Page, PageRequest } from "../core/page.js";
import { unavailable } from "./failures.js";
import { nameLimit, namesIn } from "./listed-names.js";
import { orPagingFailure, PagingFailure, upstreamPages } from "./paging.js";
import { type Ask, pullScope, type Upstream } from "./upstream.js";

/** A thousand of the longest names, many times over; upstreams that ignore `n` send all names at once. */
const bodyLimit = 16 * 1024 * 1024;
/** ECR refuses larger ones. */
const largestPage = 1000;
/** With a very small page an upstream's order shows too little to be judged by. */
const smallestPage = 100;

/** A listing of names as upstreams give it. */
export interface NameListing {
  /** Absolute, without query. */
  readonly path: string;
  readonly scope: string;
  readonly what: string;
  readonly signal: AbortSignal | undefined;
  /** The body's field that holds the names. */
  readonly field: "tags" | "repositories";
  isName(text: string): boolean;
}

export function tagListing(repository: string, signal: AbortSignal | undefined): NameListing {
  const path = `/v2/${repository}/tags/list`;
  return { path, scope: pullScope(repository), what: `tags of ${repository}`, signal, field: "tags", isName: isTag };
}

export function repositoryListing(signal: AbortSignal | undefined): NameListing {
  return {
    path: "/v2/_catalog",
    scope: "registry:catalog:*",
    what: "repositories",
    signal,
    field: "repositories",
    isName: isRepositoryName,
  };
}

/**
 * One page in ASCII order. An upstream that pages in that order is asked for just this page. Any other (Google ignores `n` and `last`,
 * Docker Hub has been seen to sort by its own rules) is read in full, and sorted here.
 */
export async function listNames(upstream: Upstream, listing: NameListing, request: PageRequest): Promise<Lookup<Page<string>>> {
  const answer = await orPagingFailure(
    async () => (await inUpstreamOrder(upstream, listing, request)) ?? sorted(upstream, listing, request),
  );
  return "items" in answer ? found(answer, { member: [upstream.name] }) : answer;
}

/** Follows pages until there are enough names; `undefined` when a name shows that the upstream does not keep the order. */
async function inUpstreamOrder(upstream: Upstream, listing: NameListing, request: PageRequest): Promise<Page<string> | undefined> {
  const { after, limit } = request;
  const query = new URLSearchParams({ n: String(Math.min(Math.max(limit, smallestPage), largestPage)) });
  if (after !== undefined) query.set("last", after);
  const names: string[] = [];
  const dropped = { count: 0 };
  let last = after;
  let more = false;
  for await (const page of upstreamPages(upstream, ask(listing, query), bodyLimit, reader(listing, dropped))) {
    for (const name of page.items) {
      if (last !== undefined && name <= last) return undefined;
      last = name;
      names.push(name);
    }
    more = page.more;
    if (names.length > limit || (names.length === limit && more)) break;
  }
  return toPage(names, request, more, dropped.count);
}

async function sorted(upstream: Upstream, listing: NameListing, request: PageRequest): Promise<Page<string>> {
  const names = new Set<string>();
  const dropped = { count: 0 };
  const query = new URLSearchParams({ n: String(largestPage) });
  for await (const page of upstreamPages(upstream, ask(listing, query), bodyLimit, reader(listing, dropped))) {
    const before = names.size;
    for (const name of page.items) names.add(name);
    if (names.size > nameLimit) throw new PagingFailure(unavailable(`${upstream.name}: ${listing.what}: more than ${nameLimit} names`));
    // Upstreams that ignore `last` but link to it would otherwise repeat one page until the page limit.
    if (page.items.length > 0 && names.size === before) break;
  }
  const { after } = request;
  const wanted = [...names].filter((name) => after === undefined || name > after).sort(inAsciiOrder);
  return toPage(wanted, request, false, dropped.count);
}

function toPage(names: readonly string[], { limit }: PageRequest, more: boolean, dropped: number): Page<string> {
  const items = names.slice(0, limit);
  const next = more || names.length > limit ? items.at(-1) : undefined;
  const warnings = dropped > 0 ? [`${dropped} names that are not valid were left out`] : undefined;
  return { items, ...(next !== undefined && { next }), ...(warnings && { warnings }) };
}

function ask({ path, scope, what, signal }: NameListing, query: URLSearchParams): Ask {
  return { method: "GET", path: `${path}?${query}`, scope, what, signal, headers: { accept: "application/json" } };
}

function reader({ field, isName }: NameListing, dropped: { count: number }) {
  return (body: Uint8Array): readonly string[] => {
    const listed = namesIn(body, field, isName);
    dropped.count += listed.dropped;
    return listed.names;
  };
}

/** Names hold only ASCII, where code units are bytes; the default order of `sort` and `<` agree on them. */
function inAsciiOrder(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
