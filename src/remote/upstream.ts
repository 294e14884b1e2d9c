import type { Clock } from "../core/clock.js";
import type { Authorizer } from "./authorizer.js";
import { type Failure, failureOfError, failureOfStatus, parseRetryAfter, unavailable } from "./failures.js";
import { discard, headerOf, isStreamed, type Method, type RequestBody, type Transport, type UpstreamResponse } from "./transport.js";

/** A question to the upstream, under its base URL. */
export interface Ask {
  readonly method: Method;
  /** Absolute path with query, or the URL of a next page or an upload on the same origin. */
  readonly path: string | URL;
  /** What a token must be good for; further scopes behind a space, see `readTokenRequest`. */
  readonly scope: string;
  /** For messages, as in "manifest latest of library/node". */
  readonly what: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: RequestBody;
  /** In milliseconds, at least, where the remote's own is shorter. */
  readonly headersTimeout?: number;
  readonly signal?: AbortSignal | undefined;
  /** Statuses beside 200 that the asker reads itself. Redirects are followed, except of a HEAD. */
  readonly accept?: readonly number[];
}

/** A response with its body unread, or what to tell the reader. */
export type Reply = { readonly kind: "response"; readonly response: UpstreamResponse } | Failure;

/** The far registry: requests with authorization, and failures as values. */
export class Upstream {
  /** What the registry is called in answers and messages. */
  readonly name: string;
  readonly base: URL;
  readonly clock: Clock;
  readonly #transport: Transport;
  readonly #authorizer: Authorizer;

  constructor(options: { name: string; base: URL; clock: Clock; transport: Transport; authorizer: Authorizer }) {
    this.name = options.name;
    this.base = options.base;
    this.clock = options.clock;
    this.#transport = options.transport;
    this.#authorizer = options.authorizer;
  }

  /**
   * A read: 200, or a status that the asker accepts, or a failure.
   * @throws the signal's reason.
   */
  async send(ask: Ask): Promise<Reply> {
    const reply = await this.exchange(ask);
    if (reply.kind !== "response") return reply;
    const { response } = reply;
    if (response.status === 200 || ask.accept?.includes(response.status)) return reply;
    discard(response);
    return failureOfStatus(response.status, this.#what(ask), parseRetryAfter(headerOf(response, "retry-after"), this.clock));
  }

  /**
   * Sends with the token at hand, answers one 401, and sends once more; what comes then is the answer, whatever its status. A 403 never authenticates
   * again. A streamed body is not sent again, but the next request has a fresh token.
   * @throws the signal's reason.
   */
  async exchange(ask: Ask): Promise<Reply> {
    try {
      const prepared = await this.#authorizer.prepare(ask.scope, ask.signal);
      if (prepared.kind !== "ready") return prepared;
      const response = await this.#request(ask, prepared.value);
      // A challenge from where a redirect led is not this registry's to make.
      if (response.status !== 401 || response.url.origin !== this.base.origin) return { kind: "response", response };
      discard(response);
      const challenge = response.headers["www-authenticate"];
      const answer = await this.#authorizer.answer(challenge, ask.scope, prepared.value, ask.signal);
      if (answer.kind !== "ready") return answer;
      if (isStreamed(ask.body)) return unavailable(`${this.#what(ask)}: the authorization ended on the way; send again`, 1);
      return { kind: "response", response: await this.#request(ask, answer.value) };
    } catch (error) {
      return failureOfError(error, this.#what(ask), ask.signal);
    }
  }

  #what(ask: Ask): string {
    return `${this.name}: ${ask.what}`;
  }

  #request(ask: Ask, authorization: string | undefined): Promise<UpstreamResponse> {
    const { method, headers, body, headersTimeout, signal } = ask;
    const url = new URL(ask.path, this.base);
    const follow = method !== "HEAD";
    return this.#transport.send({ method, url, authorization, body, headersTimeout, signal, follow, ...(headers && { headers }) });
  }
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
