import type { UpstreamCall } from "./endpoint.js";
import { failureOfError, type RemoteError, RemoteFailure } from "./failures.js";
import { nextPage } from "./link-header.js";
import type { UpstreamResponse } from "./transport.js";
import { readCapped } from "./transport.js";
import type { Upstream } from "./upstream.js";

/** With the smallest pages in use (50, Quay's default) half a million names; it ends upstreams that link for ever. */
export const pageLimit = 10_000;

export interface UpstreamPage<T> {
  readonly items: T;
  /** Whether the upstream links to another page, be it to one that cannot be followed. A short page is not the end, and a full one not a promise. */
  readonly more: boolean;
  readonly response: UpstreamResponse;
  /** The URL that this page was asked of. */
  readonly asked: URL;
}

/**
 * The pages of an upstream listing, by Link. Ends with a failure, thrown as {@link PagingFailure}, when one cannot be had; all before it were given.
 * @param read takes the parts out of one body; what it throws as RemoteFailure ends the listing.
 * @param o.follow false: only the first page.
 */
export async function* upstreamPages<T>(
  upstream: Upstream,
  first: UpstreamCall,
  bodyLimit: number,
  read: (body: Uint8Array, response: UpstreamResponse) => T | Promise<T>,
  { follow = true }: { readonly follow?: boolean } = {},
): AsyncGenerator<UpstreamPage<T>> {
  const seen = new Set<string>();
  let next: string | URL | undefined = first.path;
  while (next !== undefined) {
    if (typeof next !== "string" && seen.has(next.href)) throw failed(new RemoteFailure("the pages link in a circle"), upstream, first);
    if (seen.size === pageLimit) throw failed(new RemoteFailure(`more than ${pageLimit} pages`), upstream, first);
    const reply = await upstream.send({ ...first, path: next });
    if (reply.kind !== "response") throw new PagingFailure(reply);
    seen.add(reply.asked.href);
    let items: T;
    try {
      items = await read(await readCapped(reply.response, bodyLimit), reply.response);
    } catch (error) {
      throw failed(error, upstream, first);
    }
    // Relative to where the first hop was: a redirect's target must not become the place to send tokens to.
    const link = linkIn(reply.response, reply.asked);
    yield { items, more: link !== undefined, response: reply.response, asked: reply.asked };
    if (link instanceof RemoteFailure) throw failed(link, upstream, first);
    next = follow ? link : undefined;
  }
}

/** What is wrong with a link is no reason to lose the page that it came with. */
function linkIn(response: UpstreamResponse, asked: URL): URL | RemoteFailure | undefined {
  try {
    return nextPage(response.headers.link, asked);
  } catch (error) {
    if (error instanceof RemoteFailure) return error;
    throw error;
  }
}

/** Carries a failure through a generator, whose only other way out is a page. */
export class PagingFailure extends Error {
  readonly failure: RemoteError;

  constructor(failure: RemoteError) {
    super("a page could not be had");
    this.failure = failure;
  }

  /** For a warning. */
  reasonFor(upstream: Upstream): string {
    const { failure } = this;
    return "error" in failure && failure.error ? failure.error.message : `${upstream.name} answers 404`;
  }
}

function failed(error: unknown, upstream: Upstream, ask: UpstreamCall): PagingFailure {
  return new PagingFailure(failureOfError(error, `${upstream.name}: ${ask.what}`, ask.signal));
}

/** What the work answers, or the failure of a page. */
export async function orPagingFailure<T>(work: () => Promise<T>): Promise<T | RemoteError> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof PagingFailure) return error.failure;
    throw error;
  }
}
