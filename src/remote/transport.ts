/**
 * HTTP with an upstream. `Transport.send` sends one request over the connections of one remote registry and follows redirects, by the rules below it; what the response means is for the
 * caller. The functions at the end read responses: headers, and bodies up to a limit.
 */
import { EventEmitter, once } from "node:events";
import { Readable } from "node:stream";
import { Agent, type buildConnector, type Dispatcher, errors } from "undici/index.js";
import type { Clock } from "../core/clock.js";
import { wholeBody } from "../core/content.js";
import { type Duration, toMilliseconds } from "../core/units.js";
import { untilAborted } from "../core/until-aborted.js";
import { viaHeader } from "../core/via.js";
import { type Coding, codingOf, decodedBytes } from "./content-coding.js";
import { PermanentFailure, RemoteFailure } from "./failures.js";

/** How long a remote waits. */
export interface RemoteTimeouts {
  /** For a connection, with TLS. Default `"10s"`. */
  readonly connect?: Duration;
  /** For response headers; interim responses do not count as such. Default `"30s"`: some registries build manifests on demand. The end of an upload has five minutes at least. */
  readonly headers?: Duration;
  /** Between two pieces of a body; the time a slow reader takes does not count. Default `"60s"`. */
  readonly body?: Duration;
  /** For `open()` of a blob's content, before its held response is given up. Default `"30s"`. */
  readonly open?: Duration;
}

export type HttpMethod = "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";

/** A stream can be sent once; text and bytes any number of times. */
export type RequestBody = string | Uint8Array | AsyncIterable<Uint8Array>;

export interface UpstreamRequest {
  readonly method: HttpMethod;
  readonly url: URL;
  readonly headers?: Readonly<Record<string, string>>;
  readonly authorization?: string | undefined;
  /** The aggregates that the question has passed. Sent to this origin alone, as `authorization` is. */
  readonly via?: string | undefined;
  readonly body?: RequestBody | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Redirects are followed, those of a write within its origin; else they are the answer. */
  readonly follow: boolean;
  /** In milliseconds: how long headers may take at least, where the remote's own timeout is shorter. */
  readonly headersTimeout?: number | undefined;
  /** Does not wait for a connection. */
  readonly aside?: boolean;
  /** Called for the response of each hop, before anything is done with it. */
  readonly answered?: (response: UpstreamResponse) => void;
}

export interface UpstreamResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: Dispatcher.ResponseData["body"];
  /** Of the last hop. */
  readonly url: URL;
}

export interface TransportParts {
  readonly clock: Clock;
  readonly userAgent: string;
  readonly timeouts?: RemoteTimeouts | undefined;
  readonly maxConnections: number;
  /** Makes the connections, and refuses those that may not be made. */
  readonly connect: buildConnector.connector;
}

/** Bodies that nobody reads are read to this size, so that their connection can be used again. */
const discardLimit = 64 * 1024;
/** Some registries send 21 KiB at the start of an upload, and signed Locations reach 17 KiB. Of all headers of a response. */
export const headerBytes = 64 * 1024;
/** When the host names no deadline; longer than the gaps a healthy transfer has. */
const closeDeadline: Duration = "30s";

/** The connections of one remote registry: owned by it, shared with nobody, closed with it. */
export class Transport {
  readonly #agent: Agent;
  /** For those who may not wait for a connection: they hold one already, or carry a body whose source may. */
  readonly #aside: Agent;
  readonly #userAgent: string;
  readonly #clock: Clock;
  readonly #headersTimeout: number;
  #closing: Promise<void> | undefined;
  #running = 0;
  readonly #idle = new EventEmitter();

  constructor(options: TransportParts) {
    const { headers = "30s", body = "60s" } = options.timeouts ?? {};
    this.#clock = options.clock;
    this.#userAgent = options.userAgent;
    this.#headersTimeout = toMilliseconds(headers);
    const common = { connect: options.connect, bodyTimeout: toMilliseconds(body), maxHeaderSize: headerBytes };
    this.#agent = new Agent({ ...common, connections: options.maxConnections });
    this.#aside = new Agent(common);
  }

  /**
   * Sends a request and answers the response of the last hop, its body unread. Redirects are followed by hand: presigned S3 URLs answer 400 to
   * an Authorization header, and no credential may reach another origin. Once dropped it stays dropped, also on the way back.
   * There is no cookie to drop, since none is ever kept.
   * @throws RemoteFailure for a redirect that is refused; whatever the network throws; the signal's reason.
   */
  async send(request: UpstreamRequest): Promise<UpstreamResponse> {
    let { url, authorization, via } = request;
    for (let hops = 0; ; hops++) {
      const response = await this.#sendOne({ ...request, url, authorization, via });
      request.answered?.(response);
      if (!request.follow || !isRedirect(response.status)) return response;
      discard(response);
      if (hops === redirectLimit) throw new RemoteFailure(`more than ${redirectLimit} redirects`);
      const target = redirectTarget(url, headerOf(response, "location"));
      if ("refused" in target) throw new RemoteFailure(target.refused);
      if (request.method !== "GET" && request.method !== "HEAD") {
        const refused = refusalOfWriteRedirect(response.status, url, target.url, isStreamed(request.body));
        if (refused !== undefined) throw new RemoteFailure(refused);
      }
      if (target.url.origin !== url.origin) {
        authorization = undefined;
        via = undefined;
      }
      url = target.url;
    }
  }

  async #sendOne(request: UpstreamRequest): Promise<UpstreamResponse> {
    if (this.#closing) throw new RemoteFailure("this registry was closed");
    this.#running++;
    let response: UpstreamResponse | undefined;
    try {
      response = await this.#dispatch(request);
      response.body.once("close", () => this.#ended());
      return response;
    } finally {
      if (!response || response.body.closed) this.#ended();
    }
  }

  async #dispatch(request: UpstreamRequest): Promise<UpstreamResponse> {
    const { method, url, headers, authorization, via, body, signal, headersTimeout, aside } = request;
    const within = Math.max(this.#headersTimeout, headersTimeout ?? 0);
    const interim = new InterimDeadline(within);
    const answered = (aside ? this.#aside : this.#agent).request({
      origin: url.origin,
      path: url.pathname + url.search,
      method,
      headers: {
        "user-agent": this.#userAgent,
        // Digests are over the plain bytes; a proxy that compresses would break every one of them.
        "accept-encoding": "identity",
        ...headers,
        ...(authorization !== undefined && { authorization }),
        ...(via !== undefined && { [viaHeader]: via }),
      },
      body: isStreamed(body) ? await begun(body, signal) : (body ?? null),
      signal: signal ? AbortSignal.any([signal, interim.signal]) : interim.signal,
      headersTimeout: within,
      onInfo: () => interim.begin(),
    });
    const response = await answered.finally(() => interim.end());
    // An abandoned body emits an error that nobody waits for; readers attach their own listeners.
    response.body.on("error", () => {});
    return { status: response.statusCode, headers: response.headers, body: response.body, url };
  }

  #ended(): void {
    this.#running--;
    if (this.#running === 0) this.#idle.emit("idle");
  }

  close(deadline: Duration = closeDeadline): Promise<void> {
    this.#closing ??= this.#close(toMilliseconds(deadline));
    return this.#closing;
  }

  async #close(deadline: number): Promise<void> {
    const done = new AbortController();
    const expired = this.#clock.sleep(deadline, done.signal).catch(() => {});
    const agents = [this.#agent, this.#aside];
    // Not by close() of the agents: it forgets its connections, so that what is under way could not be ended at the deadline. (undici 7)
    if (this.#running > 0) await Promise.race([once(this.#idle, "idle", { signal: done.signal }).catch(() => {}), expired]);
    done.abort();
    await Promise.all(agents.map((agent) => agent.destroy()));
  }
}

/** From the first interim response (103 and the like) on, how long headers may take: undici's own timeout begins anew with each, so that an upstream could go on with them for ever. */
class InterimDeadline {
  readonly #controller = new AbortController();
  readonly #milliseconds: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(milliseconds: number) {
    this.#milliseconds = milliseconds;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  begin(): void {
    this.#timer ??= setTimeout(() => this.#controller.abort(new errors.HeadersTimeoutError()), this.#milliseconds);
  }

  end(): void {
    clearTimeout(this.#timer);
  }
}

/** Whether a body is used up by one attempt to send it. */
export function isStreamed(body: RequestBody | undefined): body is AsyncIterable<Uint8Array> {
  return body !== undefined && typeof body !== "string" && !(body instanceof Uint8Array);
}

/**
 * A stream that has begun: undici takes a connection at once but sends nothing before the first chunk, and the upstream would close what looks idle to it. A
 * stream ends its source when the request fails, which an iterable given to undici would not.
 */
async function begun(source: AsyncIterable<Uint8Array>, signal: AbortSignal | undefined): Promise<Readable> {
  const iterator = source[Symbol.asyncIterator]();
  const pending = iterator.next();
  const first = await untilAborted(pending, signal).catch((error: unknown) => {
    pending.catch(() => {});
    iterator.return?.().catch(() => {});
    throw error;
  });
  const stream = Readable.from(continued(first, iterator), { objectMode: false });
  // The request fails with the same error; nobody else waits for this one.
  stream.on("error", () => {});
  return stream;
}

async function* continued(first: IteratorResult<Uint8Array>, iterator: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    for (let next = first; !next.done; next = await iterator.next()) yield next.value;
  } finally {
    await iterator.return?.();
  }
}

/** Registries need one or two (registry.k8s.io: registry to regional mirror to bucket); ten is what fetch and curl users expect. */
const redirectLimit = 10;

const redirectStatuses: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

export function isRedirect(status: number): boolean {
  return redirectStatuses.has(status);
}

/**
 * Answers to a HEAD after which GET asks instead: 405, and redirects, which are not followed. They lead to URLs that are signed for GET (S3 answers 403 to a HEAD), and their
 * headers tell neither size nor type of what was asked for.
 */
export const headFallbacks: readonly number[] = [...redirectStatuses, 405];

/**
 * Where a redirect leads, or why it is not followed. The reason never holds the target: it may be a signed URL.
 */
export function redirectTarget(from: URL, location: string | undefined): { readonly url: URL } | { readonly refused: string } {
  if (location === undefined) return { refused: "a redirect without a Location" };
  if (!URL.canParse(location, from.href)) return { refused: "a redirect to something that is no URL" };
  const url = new URL(location, from);
  if (url.protocol !== "https:" && url.protocol !== "http:") return { refused: "a redirect to a scheme other than http and https" };
  if (from.protocol === "https:" && url.protocol === "http:") return { refused: "a redirect from https to http" };
  if (url.username || url.password) return { refused: "a redirect to a URL with credentials in it" };
  return { url };
}

/**
 * Why a redirect of a write is not followed, if it is not: another status than 307 and 308 would turn it into a GET, another origin is not the registry that
 * the caller meant to write to, and a streamed body is gone.
 */
function refusalOfWriteRedirect(status: number, from: URL, to: URL, streamed: boolean): string | undefined {
  if (status !== 307 && status !== 308) return `a write was redirected with ${status}, which would drop its content`;
  if (to.origin !== from.origin) return "a write was redirected to another origin";
  return streamed ? "a streamed body was redirected, and cannot be sent a second time" : undefined;
}

/** Gives up a response whose body is not wanted. */
export function discard(response: UpstreamResponse): void {
  response.body.dump({ limit: discardLimit }).catch(() => {});
}

export function headerOf(response: UpstreamResponse, name: string): string | undefined {
  const value = response.headers[name];
  return typeof value === "string" ? value : value?.[0];
}

/** The declared length of the body, or `undefined` when there is none, it is no number, or it is the length of the body in a coding. */
export function contentLength(response: UpstreamResponse): number | undefined {
  return contentCoding(response) === undefined ? bodyLength(response) : undefined;
}

/** The length of the body as it comes, encoded or not. */
export function bodyLength(response: UpstreamResponse): number | undefined {
  return wholeNumber(headerOf(response, "content-length"));
}

export function contentCoding(response: UpstreamResponse): Coding | undefined {
  return codingOf(listedIn(response, "content-encoding"));
}

/** The type and subtype of the body, in lower case and without parameters. */
export function contentType(response: UpstreamResponse): string | undefined {
  return headerOf(response, "content-type")?.split(";", 1)[0]?.trim().toLowerCase();
}

/** The entries of a header that is a list, from all its lines. */
export function listedIn(response: UpstreamResponse, name: string): string[] {
  const lines = [response.headers[name] ?? []].flat();
  return lines.flatMap((line) => line.split(",")).map((entry) => entry.trim());
}

export function wholeNumber(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,16}$/.test(text)) return undefined;
  const value = Number(text);
  return Number.isSafeInteger(value) ? value : undefined;
}

/**
 * A whole body in memory, refused by its declared length before a byte is read, and by its real one. It is decoded where a proxy compressed it all the same.
 * @throws PermanentFailure when it is larger than `limit`, also once it is decoded; whatever the network throws.
 */
export async function readCapped(response: UpstreamResponse, limit: number): Promise<Uint8Array> {
  const tooLarge = () => new PermanentFailure(`the answer is larger than ${limit} bytes, the most that is read`);
  try {
    if ((bodyLength(response) ?? 0) > limit) throw tooLarge();
    const bytes = await wholeBody(response.body, limit, tooLarge);
    const coding = contentCoding(response);
    return coding === undefined ? bytes : await decodedBytes(bytes, coding, limit, tooLarge);
  } catch (error) {
    response.body.destroy();
    throw error;
  }
}

/** @throws RemoteFailure when the bytes are no JSON object. */
export function parseJsonObject(bytes: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new RemoteFailure("the answer is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new RemoteFailure("the answer is no JSON object");
  return value as Record<string, unknown>;
}
