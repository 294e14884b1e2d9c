import type { Clock } from "../core/clock.js";
import type { Authorizer } from "./authorizer.js";
import { type Failure, failureOfError, failureOfStatus, parseRetryAfter } from "./failures.js";
import { discard, headerOf, type Transport, type UpstreamResponse } from "./transport.js";

/** A question to the upstream, under its base URL. */
export interface Ask {
  readonly method: "GET" | "HEAD";
  /** Absolute path with query, or the URL of a next page on the same origin. */
  readonly path: string | URL;
  /** What a token must be good for. */
  readonly scope: string;
  /** For messages, as in "manifest latest of library/node". */
  readonly what: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** Statuses beside 200 that the asker reads itself. Redirects of a GET are followed, of a HEAD never. */
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
   * Sends with the token at hand, answers one 401, and sends once more; a second 401 is denied. A 403 never authenticates again.
   * @throws the signal's reason.
   */
  async send(ask: Ask): Promise<Reply> {
    const what = `${this.name}: ${ask.what}`;
    try {
      const prepared = await this.#authorizer.prepare(ask.scope, ask.signal);
      if (prepared.kind !== "ready") return prepared;
      let response = await this.#request(ask, prepared.value);
      // A challenge from where a redirect led is not this registry's to make.
      if (response.status === 401 && response.url.origin === this.base.origin) {
        discard(response);
        const challenge = response.headers["www-authenticate"];
        const answer = await this.#authorizer.answer(challenge, ask.scope, prepared.value, ask.signal);
        if (answer.kind !== "ready") return answer;
        response = await this.#request(ask, answer.value);
      }
      if (response.status === 200 || ask.accept?.includes(response.status)) return { kind: "response", response };
      discard(response);
      return failureOfStatus(response.status, what, parseRetryAfter(headerOf(response, "retry-after"), this.clock));
    } catch (error) {
      return failureOfError(error, what, ask.signal);
    }
  }

  #request(ask: Ask, authorization: string | undefined): Promise<UpstreamResponse> {
    const { method, headers, signal } = ask;
    const url = new URL(ask.path, this.base);
    return this.#transport.send({ method, url, authorization, signal, follow: method === "GET", ...(headers && { headers }) });
  }
}

/** Pulling is all a read needs; a wider scope would be refused for many robot accounts. */
export function pullScope(repository: string): string {
  return `repository:${repository}:pull`;
}
