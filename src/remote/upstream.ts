/**
 * Requests to an upstream as the rest of `remote` makes them. A call goes to an endpoint (admission, authorization: `endpoint.ts`) and from there to the transport
 * (connections, redirects: `transport.ts`). Here it is decided which URL is asked, what a status means, and whether a read is tried again.
 */
import { type Clock, pause } from "../core/clock.js";
import { encodeVia } from "../core/via.js";
import type { Attempt, Endpoint, UpstreamCall } from "./endpoint.js";
import { failureOfStatus, loop, parseRetryAfter, type RemoteError, unavailable } from "./failures.js";
import type { RequestPriority } from "./limits/request-queue.js";
import { isTransient, retryDelay, tellsLoop } from "./retry.js";
import { failureOfStorage, isFromStorage } from "./storage-refusal.js";
import { discard, headerOf, type UpstreamResponse } from "./transport.js";

/** A response with its body unread, or the failure that the reader gets. */
export type Reply =
  | {
      readonly kind: "response";
      readonly response: UpstreamResponse;
      /** The URL of the first hop. Links in the response are relative to it. */
      readonly asked: URL;
    }
  | RemoteError;

export interface UpstreamParts {
  /** What the registry is called in answers and messages. */
  readonly name: string;
  readonly clock: Clock;
  /** In the order of preference; the first is the registry itself. */
  readonly endpoints: readonly [Endpoint, ...Endpoint[]];
  /** Further tries of a read. */
  readonly retries: number;
}

/** An upstream of one or several URLs. Reads try them in turn and again, writes ask the first one once; failures are values. */
export class Upstream {
  readonly name: string;
  /** The first URL. */
  readonly base: URL;
  readonly clock: Clock;
  readonly #parts: UpstreamParts;
  readonly #priority: RequestPriority;
  readonly #via: string | undefined;

  constructor(parts: UpstreamParts, priority: RequestPriority = "foreground", via?: string) {
    this.#parts = parts;
    this.#priority = priority;
    this.#via = via;
    this.name = parts.name;
    this.base = parts.endpoints[0].base;
    this.clock = parts.clock;
  }

  /** The same, at background priority. */
  inBackground(): Upstream {
    return new Upstream(this.#parts, "background", this.#via);
  }

  /** The same, for questions that have passed these aggregates. */
  after(via: readonly string[] | undefined): Upstream {
    const header = encodeVia(via);
    return header === undefined ? this : new Upstream(this.#parts, this.#priority, header);
  }

  /** Only the registry itself, as reads must ask it that a write depends on: a mirror may be behind. */
  withoutMirrors(): Upstream {
    return new Upstream({ ...this.#parts, endpoints: [this.#parts.endpoints[0]] }, this.#priority, this.#via);
  }

  /**
   * A read: 200, or a status that the asker accepts, or a failure. Each try asks the URLs in turn, until one gives an answer that counts for all.
   * @throws the signal's reason.
   */
  async send(call: UpstreamCall): Promise<Reply> {
    const endpoints = this.#endpointsFor(call.path);
    const how = { priority: call.besideAnother ? "exempt" : this.#priority, write: false, via: this.#via } as const;
    let failure: RemoteError | undefined;
    for (let tries = 1; ; tries++) {
      const failures: RemoteError[] = [];
      let wait: number | undefined;
      for (const endpoint of endpoints) {
        let attempt = await this.#outcome(await endpoint.attempt(call, how), call, endpoint);
        // Each further try brings a fresh redirect too, but asks the other URLs first.
        if (attempt.kind === "failed" && attempt.freshRedirect && tries === 1)
          attempt = await this.#outcome(await endpoint.attempt(call, how), call, endpoint);
        if (attempt.kind === "response") return attempt;
        if (attempt.next === "nothing") return attempt.failure;
        failures.push(attempt.failure);
        if (attempt.next === "again") wait = Math.min(wait ?? Number.POSITIVE_INFINITY, asMilliseconds(attempt.failure, endpoint));
      }
      // Why an earlier try failed says more than why this one was not sent.
      if (wait !== undefined || !failure) failure = mostTelling(failures);
      const delay = wait === undefined ? undefined : retryDelay(tries, this.#parts.retries, wait);
      if (delay === undefined) return failure ?? unavailable(`${this.name}: ${call.what}: no answer`);
      await pause(this.clock, delay, call.signal);
    }
  }

  /**
   * A write: the first URL is asked, once, except that a 401 is answered. Any status is an answer. Nobody may repeat a write.
   * @throws the signal's reason.
   */
  async exchange(call: UpstreamCall): Promise<Reply> {
    const attempt = await this.#parts.endpoints[0].attempt(call, { priority: "exempt", write: true, via: this.#via });
    return attempt.kind === "response" ? attempt : attempt.failure;
  }

  /** The URL of a next page is good only at the origin that gave it. */
  #endpointsFor(path: string | URL): readonly Endpoint[] {
    const { endpoints } = this.#parts;
    return typeof path === "string" ? endpoints : endpoints.filter((endpoint) => endpoint.base.origin === path.origin);
  }

  /** The attempt, a failure where its status is no answer to the call. */
  async #outcome(attempt: Attempt, call: UpstreamCall, endpoint: Endpoint): Promise<Attempt> {
    if (attempt.kind === "failed") return attempt;
    const { response } = attempt;
    const { status } = response;
    if (status === 200 || call.accept?.includes(status)) return attempt;
    const what = `${this.name}: ${call.what}`;
    const stated = parseRetryAfter(headerOf(response, "retry-after"), this.clock);
    if (call.fromStorage && isFromStorage(response, attempt.asked)) {
      const failure = await failureOfStorage(response, what, stated);
      discard(response);
      if (failure.kind === "absent") return { kind: "failed", failure, next: "nothing" };
      return { kind: "failed", failure, next: isTransient(status) ? "again" : "another URL", freshRedirect: true };
    }
    discard(response);
    if (tellsLoop(response)) return { kind: "failed", failure: loop(what, stated), next: "another URL" };
    const pause = status === 429 ? Math.ceil(endpoint.pause / 1000) || undefined : undefined;
    const failure = failureOfStatus(status, what, stated ?? pause);
    return { kind: "failed", failure, next: isTransient(status) ? "again" : "nothing" };
  }
}

/** How long the answer, or the back-off of its URL, asks to wait. */
function asMilliseconds(failure: RemoteError, endpoint: Endpoint): number {
  const stated = failure.kind === "absent" ? 0 : (failure.error.retryAfter ?? 0) * 1000;
  return Math.max(stated, endpoint.pause);
}

/** The one of several failures that the reader gets: too many requests only where all say so. */
function mostTelling(failures: readonly RemoteError[]): RemoteError | undefined {
  return failures.find((failure) => failure.kind !== "unavailable" || failure.error.code !== "TOOMANYREQUESTS") ?? failures[0];
}

/** Pulling is all a read needs; a wider scope would be refused for many robot accounts. */
export function pullScope(repository: string): string {
  return `repository:${repository}:pull`;
}

export function pushScope(repository: string): string {
  return `repository:${repository}:pull,push`;
}

export function deleteScope(repository: string): string {
  return `repository:${repository}:pull,delete`;
}
