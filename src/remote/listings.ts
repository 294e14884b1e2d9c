import { LRUCache } from "lru-cache";
import { found, type Lookup } from "../core/lookup.js";
import { isRepositoryName, isTag } from "../core/name.js";
import type { Page, PageRequest } from "../core/page.js";
import { spendTurn } from "../core/turn-budget.js";
import type { UpstreamCall } from "./endpoint.js";
import { type ListedNames, nameLimit, namesIn } from "./listed-names.js";
import { orPagingFailure, PagingFailure, pageLimit, upstreamPages } from "./paging.js";
import { noteWarnings } from "./stated-text.js";
import type { UpstreamResponse } from "./transport.js";
import { pullScope, type Upstream } from "./upstream.js";

/** A thousand of the longest names, many times over; upstreams that ignore `n` send all names at once. */
const bodyLimit = 16 * 1024 * 1024;
/** ECR refuses larger ones. */
const largestPage = 1000;
/** With a very small page an upstream's order shows too little of itself. */
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
  /** The upstream is known to give all names at once, so that nothing comes after the last one. */
  readonly inOnePiece: boolean;
}

export function tagListing(repository: string, inOnePiece: boolean, signal: AbortSignal | undefined): NameListing {
  const path = `/v2/${repository}/tags/list`;
  return { path, scope: pullScope(repository), what: `tags of ${repository}`, signal, field: "tags", isName: isTag, inOnePiece };
}

export function repositoryListing(inOnePiece: boolean, signal: AbortSignal | undefined): NameListing {
  return {
    path: "/v2/_catalog",
    scope: "registry:catalog:*",
    what: "repositories",
    signal,
    field: "repositories",
    isName: isRepositoryName,
    inOnePiece,
  };
}

/** What is known of an upstream's order, by the path of a listing. An order that holds where a listing begins may break later. */
export type ListingOrders = LRUCache<string, "holds" | "broken">;

export function listingOrders(): ListingOrders {
  return new LRUCache({ max: 10_000 });
}

/**
 * One page in ASCII order. An upstream that pages in that order is asked for just this page. Any other (Google ignores `n` and `last`,
 * Docker Hub has been seen to sort by its own rules) is read in full, and sorted here.
 *
 * What is known not to be whole is given with a warning: an upstream that answers the same names again or fails when it is asked for what comes after the last one, and
 * names that an earlier page should have shown. Only where the first page of all cannot be had there is no listing.
 */
export async function listNames(
  upstream: Upstream,
  listing: NameListing,
  request: PageRequest,
  orders: ListingOrders,
): Promise<Lookup<Page<string>>> {
  const { path } = listing;
  const { after } = request;
  const answer = await orPagingFailure(async () => {
    // Another process may have given the pages before this one, from an upstream that sorts by other rules: what comes after `after` there says nothing here.
    if (after !== undefined && !orders.has(path)) {
      const beginning = await inUpstreamOrder(upstream, listing, { limit: 1 });
      orders.set(path, beginning ? "holds" : "broken");
    }
    if (orders.get(path) === "broken") return sorted(upstream, listing, request, false);
    let page: Page<string> | undefined;
    try {
      page = await inUpstreamOrder(upstream, listing, request);
    } catch (error) {
      if (!(error instanceof PagingFailure) || after === undefined) throw error;
      // It does not take `last`, perhaps. Its own links may lead on from the beginning, and what it gives there is not lost.
      return sorted(upstream, listing, request, false);
    }
    orders.set(path, page ? "holds" : "broken");
    return page ?? sorted(upstream, listing, request, true);
  });
  return "items" in answer ? found(answer, { member: [upstream.name] }) : answer;
}

/** Follows pages until there are enough names; `undefined` when a name shows that the upstream does not keep the order. */
async function inUpstreamOrder(upstream: Upstream, listing: NameListing, request: PageRequest): Promise<Page<string> | undefined> {
  const { after, limit } = request;
  const names: string[] = [];
  const notes = new Notes();
  let last = after;
  let more = false;
  for await (const page of namePages(upstream, listing, { n: Math.min(Math.max(limit, smallestPage), largestPage), after }, notes)) {
    const [first] = page.names;
    if (first !== undefined && last !== undefined && first <= last && (await isRepetition(page.names, new Set(names)))) {
      notes.warn(sameAgain(upstream, listing));
      break;
    }
    notes.dropped += page.dropped;
    for (const [index, name] of page.names.entries()) {
      const turn = turnAt(index);
      if (turn) await turn;
      if (last !== undefined && name <= last) return undefined;
      last = name;
      names.push(name);
    }
    // A link says that there is more only as long as nobody has followed it.
    more = names.length === limit && page.more;
    if (names.length > limit || more) break;
  }
  return toPage(names, request, more, notes);
}

/** @param unnoticed the pages before this one were given in the upstream's order, as if it were ours. */
async function sorted(upstream: Upstream, listing: NameListing, request: PageRequest, unnoticed: boolean): Promise<Page<string>> {
  const { after } = request;
  const names = new Set<string>();
  const wanted = new FirstNames(request);
  const notes = new Notes();
  let passed = false;
  for await (const page of namePages(upstream, listing, { n: largestPage }, notes)) {
    if (await isRepetition(page.names, names)) {
      notes.warn(sameAgain(upstream, listing));
      break;
    }
    notes.dropped += page.dropped;
    for (const [index, name] of page.names.entries()) {
      const turn = turnAt(index);
      if (turn) await turn;
      if (!names.has(name)) wanted.add(name);
      names.add(name);
      if (after === undefined || !unnoticed) continue;
      if (name > after) passed = true;
      else if (passed)
        notes.warn(
          `earlier pages of this list may lack names, so list again from the beginning: ${upstream.name} gives ${listing.what} in an order of its own`,
        );
    }
    if (names.size > nameLimit) {
      notes.warn(`this list is not complete: ${upstream.name} has more than ${nameLimit} ${listing.field}`);
      break;
    }
  }
  return toPage(wanted.sorted(), request, false, notes);
}

/** The first names of one page and one more, in ASCII order. All others are forgotten as they come: to sort a million of them would block the event loop for seconds. */
class FirstNames {
  readonly #request: PageRequest;
  #kept: string[] = [];

  constructor(request: PageRequest) {
    this.#request = request;
  }

  /** @param name was not added before. */
  add(name: string): void {
    const { after, limit } = this.#request;
    if (after !== undefined && name <= after) return;
    this.#kept.push(name);
    if (this.#kept.length > 2 * limit + largestPage) this.#kept = this.sorted();
  }

  sorted(): string[] {
    return this.#kept.sort(inAsciiOrder).slice(0, this.#request.limit + 1);
  }
}

/** How many names are looked at before the turn may be over. */
const group = 1000;

function turnAt(index: number): Promise<void> | undefined {
  return index % group === 0 ? spendTurn(group / 20) : undefined;
}

/** What a page says beside its names. */
class Notes {
  dropped = 0;
  readonly #warnings = new Set<string>();

  warn(warning: string): void {
    this.#warnings.add(warning);
  }

  addThoseOf(who: string, response: UpstreamResponse): void {
    noteWarnings(this.#warnings, who, response);
  }

  get warnings(): readonly string[] {
    const dropped = this.dropped > 0 ? [`${this.dropped} names that are not valid were left out`] : [];
    return [...dropped, ...this.#warnings];
  }
}

/** Whether a page shows known names alone. An upstream that ignores `last` would otherwise repeat its names until the page limit, by a Link or without. */
async function isRepetition(page: readonly string[], known: ReadonlySet<string>): Promise<boolean> {
  for (const [index, name] of page.entries()) {
    const turn = turnAt(index);
    if (turn) await turn;
    if (!known.has(name)) return false;
  }
  return page.length > 0;
}

function sameAgain(upstream: Upstream, { what }: NameListing): string {
  return `this list may not be complete: asked for what comes next, ${upstream.name} gives the same ${what} again`;
}

/**
 * The pages of a listing. A page that links to no next one is not the last: many registries page without a Link. So what comes after its last item is asked for, until a page is empty.
 * So it is where a link cannot be followed: behind a proxy links may lack its path prefix, or name an internal host or another scheme.
 * When that question fails too, the listing ends with a warning, since what was given before stays right.
 */
async function* namePages(
  upstream: Upstream,
  listing: NameListing,
  { n, after }: { readonly n: number; readonly after?: string | undefined },
  notes: Notes,
): AsyncGenerator<ListedNames & { readonly more: boolean }> {
  const read = (body: Uint8Array) => namesIn(body, listing.field, listing.isName);
  const query = new URLSearchParams({ n: String(n), ...(after !== undefined && { last: after }) });
  const asked = new Set<string>();
  let origin: string | undefined;
  // Links that led nowhere once are not tried again, page after page.
  let follow = true;
  for (;;) {
    let pages = 0;
    let last: string | undefined;
    let failure: PagingFailure | undefined;
    try {
      for await (const page of upstreamPages(upstream, ask(listing, query, origin), bodyLimit, read, { follow })) {
        const { items, more } = page;
        pages++;
        notes.addThoseOf(upstream.name, page.response);
        // What a link leads to may be something else, without a list.
        last = items.last ?? last;
        // Of several URLs the one that has begun: another may have other names, in another order.
        origin = page.asked.origin;
        // Only what is no name, and again: the reader, who sees names, would not notice.
        if (items.names.length > 0 || last === undefined || !asked.has(last)) yield { ...items, more };
      }
    } catch (error) {
      if (!(error instanceof PagingFailure) || (pages === 0 && asked.size === 0)) throw error;
      failure = error;
      follow = false;
    }
    if (pages === 0 || last === undefined || listing.inOnePiece) {
      if (failure) notes.warn(endsAfter(last ?? query.get("last"), failure.reasonFor(upstream)));
      return;
    }
    if (asked.has(last)) return notes.warn(sameAgain(upstream, listing));
    if (asked.size === pageLimit) return notes.warn(endsAfter(last, `${upstream.name} has more than ${pageLimit} pages`));
    asked.add(last);
    query.set("last", last);
  }
}

function endsAfter(last: string | null, why: string): string {
  const place = last === null ? "the first page" : JSON.stringify(last);
  return `this list may not be complete: what comes after ${place} could not be had: ${why}`;
}

function toPage(names: readonly string[], { limit }: PageRequest, more: boolean, { warnings }: Notes): Page<string> {
  const items = names.slice(0, limit);
  const next = more || names.length > limit ? items.at(-1) : undefined;
  return { items, ...(next !== undefined && { next }), ...(warnings.length > 0 && { warnings }) };
}

function ask({ path, scope, what, signal }: NameListing, query: URLSearchParams, origin: string | undefined): UpstreamCall {
  const asked = `${path}?${query}`;
  return {
    method: "GET",
    path: origin === undefined ? asked : new URL(asked, origin),
    scope,
    what,
    signal,
    headers: { accept: "application/json" },
  };
}

/** Names hold only ASCII, where code units are bytes; the default order of `sort` and `<` agree on them. */
function inAsciiOrder(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
