/**
 * What passes between the shells, the dispatch and its handlers. A shell gives a `WireRequest` and gets a `WireResponse`; handlers get an `Exchange`: the request, what is served (`Site`)
 * and the options for calls to the registry. The functions below read a request's parameters and body, ask the policy, and make responses.
 */
import type { Readable } from "node:stream";
import type { Action, Policy } from "../access/policy.js";
import type { ByteLease } from "../core/byte-budget.js";
import { isRegistryError, type RegistryError } from "../core/errors.js";
import type { EventSink } from "../core/events.js";
import type { Trust } from "../core/ip-addresses.js";
import type { Served } from "../core/lookup.js";
import type { Caller, CallOptions, Registry } from "../core/registry.js";
import { decodeVia, isOwnHop, viaHeader } from "../core/via.js";

/** A request as the dispatch sees it: whichever framework it came through. */
export interface WireRequest {
  readonly method: string;
  /** Path and query as received, undecoded. */
  readonly target: string;
  /** A header's value, several lines joined by commas. `name` is in lower case. */
  header(name: string): string | undefined;
  readonly body: AsyncIterable<Uint8Array>;
  /** The body's length: 0 when there is none, `undefined` when it is chunked. */
  readonly bodyLength: number | undefined;
  /** Why the body cannot be read; thrown where it is needed, after access was decided. */
  readonly bodyFault?: RegistryError | undefined;
  readonly caller?: Caller | undefined;
  readonly address?: string | undefined;
  /** Aborts when the client goes away. Read it only where it is needed: it may be made on first use. */
  readonly signal: AbortSignal;
  /** What the transfer holds in memory, in the name of who sent the request. It is released when the transfer ends. */
  lease?: ByteLease | undefined;
}

/** A list is sent as one line a value: oras and crane read each `Warning` line as one warning. */
export type WireHeaders = Record<string, string | string[]>;

/** `size` is exact: a source that has fewer bytes or more must not end as a whole response. */
export type WireBody =
  | { readonly kind: "bytes"; readonly bytes: Uint8Array }
  | { readonly kind: "stream"; open(): Readable; readonly size: number };

export interface WireResponse {
  readonly status: number;
  readonly headers: WireHeaders;
  /** Absent also for HEAD: the headers then tell of a body that is not sent. */
  readonly body?: WireBody;
  readonly served?: Served;
}

/** What is served, and how. */
export interface Site {
  readonly registry: Registry;
  readonly policy: Policy;
  readonly events: EventSink;
  readonly now: () => number;
  /** Whether clients may be sent to where a store's bytes are. */
  readonly redirects: boolean;
  /** Whether responses say which cache answered. */
  readonly cacheStatus: boolean;
  /** Whether another registry at this address is believed whom its questions have passed. */
  readonly trustsPeer: Trust;
  /** Whether a caller may know which members of an aggregate an answer came from. */
  readonly topology: (caller: Caller | undefined) => boolean;
}

/** One request on its way through the handlers. */
export interface Exchange {
  readonly site: Site;
  readonly request: WireRequest;
  /** GET without a body. */
  readonly head: boolean;
  /** Without the question mark. */
  readonly query: string;
  readonly call: CallOptions;
}

/** The longest identifier taken from a client for traces. */
const traceLimit = 128;

/** @throws RegistryError UNSUPPORTED for a `Manifold-Via` header that no aggregate writes. */
export function exchangeFor(site: Site, request: WireRequest, query: string): Exchange {
  // What proxies and meshes set; a client may write anything here, so only plain text of modest length is passed on.
  const trace = request.header("x-request-id") ?? request.header("traceparent");
  const traced = trace !== undefined && trace.length <= traceLimit && /^[\x21-\x7e]+$/.test(trace);
  const via = decodeVia(request.header(viaHeader));
  const call: CallOptions = {
    // An own property, so that wrappers may spread the options; a getter, since most requests never need a signal.
    get signal() {
      return request.signal;
    },
    ...(request.caller && { caller: request.caller }),
    ...(request.address !== undefined && { address: request.address }),
    ...(traced && { trace }),
    ...(via && { via, knownVia: site.trustsPeer(request.address ?? "") ? via : [...new Set(via.filter(isOwnHop))] }),
  };
  return { site, request, head: request.method === "HEAD", query, call };
}

const noParameters = new URLSearchParams();

export function parametersOf(x: Exchange): URLSearchParams {
  return x.query === "" ? noParameters : new URLSearchParams(x.query);
}

/** What the memory for a chunk costs beside its bytes: a client may send one for each byte. */
const chunkCost = 200;

/**
 * The body for somebody who keeps all of it in memory: each chunk is counted before the next one is asked for.
 *
 * @throws RegistryError as `bodyOf`; TOOMANYREQUESTS where the byte budget has no bytes left for it.
 */
export async function* countedBody(x: Exchange): AsyncGenerator<Uint8Array> {
  const { lease } = x.request;
  for await (const chunk of bodyOf(x)) {
    const cost = chunk.byteLength + chunkCost;
    if (lease && !lease.tryTake(cost)) await lease.take(cost, x.request);
    yield chunk;
  }
}

/** The body, once it is needed. @throws RegistryError when it cannot be read. */
export function bodyOf({ request }: Exchange): AsyncIterable<Uint8Array> {
  if (request.bodyFault && request.bodyLength !== 0) throw request.bodyFault;
  return request.body;
}

/** Asks the host's policy one question about this request; a refusal is also an event. @throws RegistryError as `Policy.admit` does. */
export async function admittedTo(
  x: Exchange,
  action: Action,
  repository: string | undefined,
  reference: string | undefined,
  namespace: string | undefined,
): Promise<void> {
  const { caller, address, trace } = x.call;
  try {
    const waiting = x.site.policy.admit({
      action,
      ...(caller && { caller }),
      ...(repository !== undefined && { repository }),
      ...(reference !== undefined && { reference }),
      ...(namespace !== undefined && { namespace }),
    });
    if (waiting) await waiting;
  } catch (error) {
    x.site.events.emit("denied", {
      time: x.site.now(),
      repository: repository ?? "",
      action,
      code: isRegistryError(error) ? error.code : "UNKNOWN",
      ...(caller && { caller }),
      ...(address !== undefined && { address }),
      ...(trace !== undefined && { trace }),
      ...(reference !== undefined && { reference }),
    });
    throw error;
  }
}

/** Docker's clients look for it on `/v2/` to tell a registry from any other server. */
export const apiVersion = "registry/2.0";

/** Express's `compression` would otherwise compress manifests and drop their Content-Length. */
export const untransformed = "no-transform";

/** The headers that every response has. */
export function baseHeaders(): WireHeaders {
  return { "Docker-Distribution-API-Version": apiVersion, "Cache-Control": untransformed };
}

/** A response without a body. 204 and 304 must not name a length, everything else must. */
export function emptyResponse(status: number, more: WireHeaders): WireResponse {
  const headers = Object.assign(baseHeaders(), more);
  if (status !== 204 && status !== 304) headers["Content-Length"] = "0";
  return { status, headers };
}

export function jsonResponse(status: number, value: unknown, o: { head: boolean; contentType?: string; more?: WireHeaders }): WireResponse {
  return jsonTextResponse(status, JSON.stringify(value), o);
}

/** @param text is JSON already. */
export function jsonTextResponse(
  status: number,
  text: string,
  o: { head: boolean; contentType?: string; more?: WireHeaders },
): WireResponse {
  const bytes = Buffer.from(text);
  const headers = Object.assign(baseHeaders(), o.more);
  headers["Content-Type"] = o.contentType ?? "application/json";
  headers["Content-Length"] = String(bytes.byteLength);
  return o.head ? { status, headers } : { status, headers, body: { kind: "bytes", bytes } };
}
