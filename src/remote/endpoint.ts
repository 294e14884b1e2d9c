import type { Clock } from "../core/clock.js";
import { RegistryError } from "../core/errors.js";
import type { EventSink } from "../core/events.js";
import type { Authorizer } from "./authorizer.js";
import { Breaker, type Passage } from "./breaker.js";
import { type Failure, failureOfError, networkReason, unavailable } from "./failures.js";
import type { Gate } from "./gate.js";
import type { Manners } from "./manners.js";
import { Quota } from "./quota.js";
import { faultOf, isOutage, tellsLoop } from "./retry.js";
import { Health, type UpstreamStatus } from "./status.js";
import { discard, isStreamed, type Transport, type UpstreamResponse } from "./transport.js";
import { type Lane, Turns } from "./turns.js";
import type { Ask } from "./upstream.js";

export interface EndpointParts {
  /** What the registry is called in answers and messages. */
  readonly name: string;
  readonly base: URL;
  readonly clock: Clock;
  readonly events: EventSink;
  readonly transport: Transport;
  readonly authorizer: Authorizer;
  /** Shared with the requests for tokens, where those go to the same origin. */
  readonly gate: Gate;
  readonly manners: Manners;
  /** When the credentials in use end. */
  credentialExpiresAt?(): number | undefined;
}

/** How a request is sent. */
export interface Errand {
  readonly lane: Lane;
  /**
   * Belongs to a push or a delete. What the upstream refuses then may concern that alone: this library's own registries answer 429 to one upload too many, which
   * a DELETE would mend, and 503 while somebody else writes to a session. So only answers to reads tell of the upstream as a whole.
   */
  readonly write: boolean;
  /** The aggregates that the question has passed, as a header's value. */
  readonly via: string | undefined;
}

/** What became of one request: any response, or why there is none. */
export type Attempt =
  | { readonly kind: "response"; readonly response: UpstreamResponse; readonly asked: URL }
  | {
      readonly kind: "failed";
      readonly failure: Failure;
      /** Who may still answer a read: this URL when asked once more, another one, or nobody. */
      readonly next: "again" | "elsewhere" | "nobody";
    };

/** One URL of a registry: what may be sent there now, and what is known of it. */
export class Endpoint {
  readonly base: URL;
  readonly #parts: EndpointParts;
  readonly #turns: Turns;
  readonly #breaker: Breaker;
  readonly #quota: Quota;
  readonly #health: Health;
  #bytes = 0;
  #closed = false;

  constructor(parts: EndpointParts) {
    const { name, base, clock, events, manners } = parts;
    this.#parts = parts;
    this.base = base;
    this.#turns = new Turns(clock, { running: manners.maxRequests, perSecond: manners.maxRequestsPerSecond });
    this.#breaker = new Breaker(clock, manners.breaker);
    this.#quota = new Quota(clock, manners.quotaReserve);
    this.#health = new Health({ name, url: base.origin, clock, events, failures: manners.retries + 1 });
  }

  /** Milliseconds for which the upstream has asked to be left alone. */
  get pause(): number {
    return this.#parts.gate.wait;
  }

  get status(): UpstreamStatus {
    const { reachable, since, lastError } = this.#health;
    const retryAt = Math.max(this.#parts.gate.reopensAt ?? 0, this.#breaker.retryAt ?? 0);
    const quota = this.#quota.current;
    const credentialExpiresAt = this.#parts.credentialExpiresAt?.();
    return {
      url: this.base.origin,
      reachable,
      since,
      ...(lastError && { lastError }),
      breaker: this.#breaker.state,
      ...(retryAt > 0 && { retryAt }),
      ...(quota && { quota }),
      requests: { running: this.#turns.running, queued: this.#turns.queued },
      bytes: this.#bytes,
      ...(credentialExpiresAt !== undefined && { credentialExpiresAt }),
    };
  }

  /** Those who wait are told so; those under way are the transport's. */
  close(): void {
    this.#closed = true;
    this.#turns.end();
  }

  /**
   * Sends with the token at hand, answers one 401, and sends once more; what comes then is the answer, whatever its status. A 403 never authenticates
   * again. A streamed body is not sent again, but the next request has a fresh token.
   * @throws the signal's reason.
   */
  async attempt(ask: Ask, errand: Errand): Promise<Attempt> {
    const { name, authorizer } = this.#parts;
    const what = `${name}: ${ask.what}`;
    try {
      const refused = this.#refusal(ask);
      if (refused) return refused;
      const prepared = await authorizer.prepare(ask.scope, ask.signal);
      if (prepared.kind !== "ready") return unauthorized(prepared);
      const first = await this.#request(ask, errand, prepared.value);
      // A challenge from where a redirect led is not this registry's to make.
      if (first.kind !== "response" || first.response.status !== 401 || first.response.url.origin !== this.base.origin) return first;
      discard(first.response);
      const challenge = first.response.headers["www-authenticate"];
      const answer = await authorizer.answer(challenge, ask.scope, prepared.value, ask.signal);
      if (answer.kind !== "ready") return unauthorized(answer);
      if (isStreamed(ask.body)) {
        return { kind: "failed", failure: unavailable(`${what}: the authorization ended on the way; send again`, 1), next: "nobody" };
      }
      return await this.#request(ask, errand, answer.value);
    } catch (error) {
      return { kind: "failed", failure: failureOfError(error, what, ask.signal), next: "nobody" };
    }
  }

  async #request(ask: Ask, errand: Errand, authorization: string | undefined): Promise<Attempt> {
    for (let turn = false; !turn; ) {
      const refused = this.#refusal(ask) ?? this.#crowd(ask);
      if (refused) return refused;
      turn = await this.#turns.take(errand.lane, ask.signal);
    }
    // The wait may have been long.
    const refused = this.#refusal(ask);
    if (refused) this.#turns.release();
    return refused ?? this.#send(ask, errand, authorization, this.#breaker.enter());
  }

  async #send(ask: Ask, { lane, write, via }: Errand, authorization: string | undefined, passage: Passage): Promise<Attempt> {
    const { method, headers, body, headersTimeout, signal } = ask;
    const asked = new URL(ask.path, this.base);
    let answered = false;
    try {
      const response = await this.#parts.transport.send({
        method,
        url: asked,
        authorization,
        via,
        body,
        headersTimeout,
        signal,
        follow: method !== "HEAD",
        aside: lane === "aside",
        ...(headers && { headers }),
        answered: (hop) => {
          // Where a redirect leads is no part of the registry: its troubles are not the registry's.
          if (hop.url.origin !== this.base.origin) return;
          answered = true;
          this.#observe(hop, passage, write);
        },
      });
      this.#follow(response);
      return { kind: "response", response, asked };
    } catch (error) {
      this.#turns.release();
      const fault = signal?.aborted ? undefined : faultOf(error);
      // A request that streams its body also fails for its source's sake.
      if (fault && !answered && !isStreamed(body)) this.#failed(networkReason(error), passage);
      const failure = failureOfError(error, `${this.#parts.name}: ${ask.what}`, signal);
      // What took all its time once would take it again.
      return { kind: "failed", failure, next: fault === "network" ? "again" : fault === "timeout" ? "elsewhere" : "nobody" };
    } finally {
      passage.abandoned();
    }
  }

  /** A place is taken until the body has been read or given up. */
  #follow({ body }: UpstreamResponse): void {
    if (body.closed) this.#turns.release();
    else body.once("close", () => this.#turns.release());
    // A listener alone would start the flow, before anybody reads.
    body.pause();
    body.on("data", (chunk: Uint8Array) => {
      this.#bytes += chunk.byteLength;
    });
  }

  #observe(response: UpstreamResponse, passage: Passage, write: boolean): void {
    // What it says of a loop it says of the question, and it says it at once.
    const isLoop = tellsLoop(response);
    const isOut = isOutage(response.status) && !isLoop;
    this.#quota.read(response);
    const closes = !write && !isLoop && this.#parts.gate.read(response);
    if (isOut && !write) this.#failed(`answered ${response.status}`, passage);
    else if (!isOut) {
      passage.succeeded();
      this.#health.answered(this.#limit());
    }
    if (closes) this.#turns.dismiss();
  }

  #failed(message: string, passage: Passage): void {
    passage.failed();
    const isOut = this.#breaker.state !== "closed";
    this.#health.failed(message, this.#limit(), isOut);
    if (isOut) this.#turns.dismiss();
  }

  #limit(): string | undefined {
    const pause = this.pause;
    if (pause > 0) return `it has asked to be left alone for ${Math.ceil(pause / 1000)} s`;
    const quota = this.#quota.wait > 0 ? this.#quota.current : undefined;
    return quota && `${quota.remaining} of ${quota.limit} pulls are left`;
  }

  /** Why a request is not sent now, if it is not. */
  #refusal(ask: Ask): Attempt | undefined {
    const { name, gate } = this.#parts;
    const what = `${name}: ${ask.what}`;
    if (this.#closed) return { kind: "failed", failure: unavailable(`${what}: this registry was closed`), next: "nobody" };
    const failure = gate.refusal(what) ?? this.#outage(what) ?? (ask.countsAsPull ? this.#quota.refusal(what) : undefined);
    return failure && { kind: "failed", failure, next: "elsewhere" };
  }

  #outage(what: string): Failure | undefined {
    const { wait } = this.#breaker;
    if (wait === 0) return undefined;
    const { lastError } = this.#health;
    return unavailable(`${what}: not sent: the last requests failed${lastError ? `: ${lastError.message}` : ""}`, Math.ceil(wait / 1000));
  }

  #crowd(ask: Ask): Attempt | undefined {
    if (!this.#turns.isFull) return undefined;
    const message = `${this.#parts.name}: ${ask.what}: too many requests wait for this upstream`;
    const error = new RegistryError("TOOMANYREQUESTS", message, { retryAfter: 1 });
    return { kind: "failed", failure: { kind: "unavailable", error }, next: "elsewhere" };
  }
}

/** Refused for good, or not to be had from this URL. */
function unauthorized(failure: Failure): Attempt {
  return { kind: "failed", failure, next: failure.kind === "unavailable" ? "elsewhere" : "nobody" };
}
