/**
 * Whether a request may be sent to one URL of an upstream now. `Admission.admit` is the one question: it answers a permit, or why the request is refused. It asks, in this order:
 *
 * 1. `backoff`: the upstream has asked for a pause. Shared with the token client where tokens come from the same origin.
 * 2. `circuit-breaker`: the upstream does not work; `background-probe` finds out whether it does again, or one request at a time.
 * 3. `pull-quota`: fetching a manifest would use up the last of a pull quota.
 * 4. `request-queue`: how many requests run at once and start in a second, and which one is next.
 *
 * Whoever holds a permit tells it what became of the request. From that all four learn, and so does the status that `remoteRegistry().status()` and `upstream` events give.
 */
import type { Clock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import type { EventSink, UpstreamEvent } from "../../core/events.js";
import { type RemoteError, unavailable } from "../failures.js";
import { isOutage, tellsLoop } from "../retry.js";
import { discard, type UpstreamResponse } from "../transport.js";
import type { UpstreamStatus } from "../upstream-status.js";
import { BackgroundProbe } from "./background-probe.js";
import type { Backoff } from "./backoff.js";
import { CircuitBreaker, type Passage } from "./circuit-breaker.js";
import { QuotaWatch } from "./pull-quota.js";
import { type RequestPriority, RequestQueue } from "./request-queue.js";
import type { ReadUpstreamLimits } from "./upstream-limits.js";

export interface AdmissionParts {
  /** What the registry is called in messages. */
  readonly name: string;
  readonly origin: string;
  readonly clock: Clock;
  readonly events: EventSink;
  readonly backoff: Backoff;
  readonly limits: ReadUpstreamLimits;
  /** Asks the upstream for `/v2/`, whatever that answers. */
  probe(signal: AbortSignal): Promise<UpstreamResponse>;
}

/** What is known of a request before it is sent. */
export interface AdmissionRequest {
  /** For messages, as in "manifest latest of library/node". */
  readonly what: string;
  readonly priority: RequestPriority;
  /**
   * Belongs to a push or a delete. What the upstream refuses then may concern that alone: this library's own registries answer 429 to one upload too many, which
   * a DELETE would mend, and 503 while somebody else writes to a session. So only answers to reads tell of the upstream as a whole.
   */
  readonly write: boolean;
  /** Fetching manifests is what pull quotas count. */
  readonly countsAsPull?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /**
   * Gets what the request cannot be sent without: a token. It is called where the request would be admitted, and before it takes a place, so that a token endpoint that
   * hangs keeps no other requests waiting. Answers why there is none.
   */
  readonly prepare?: () => Promise<RemoteError | undefined>;
}

/** A request that may be sent now. It has a place among the running ones until it is released. */
export interface Permit {
  readonly kind: "permit";
  /** The origin has answered; what it says of pauses, quotas and outages holds for the requests that follow. */
  answered(response: UpstreamResponse): void;
  /** The origin could not be reached, or did not answer in time. */
  failed(reason: string): void;
  /** The response has been read or given up, or there was none. Idempotent. */
  release(): void;
}

interface Refusal {
  readonly kind: "refused";
  readonly failure: RemoteError;
  /** Whether another URL of the registry may still answer. */
  readonly anotherUrl: boolean;
}

/** Decides whether a request may be sent to one URL of an upstream now. */
export class Admission {
  readonly #parts: AdmissionParts;
  readonly #queue: RequestQueue;
  readonly #breaker: CircuitBreaker;
  readonly #quota: QuotaWatch;
  readonly #health: UpstreamHealth;
  readonly #probe: BackgroundProbe;
  #closed = false;

  constructor(parts: AdmissionParts) {
    const { name, origin, clock, events, limits } = parts;
    this.#parts = parts;
    this.#queue = new RequestQueue(clock, { running: limits.maxRequests, perSecond: limits.maxRequestsPerSecond });
    this.#breaker = new CircuitBreaker(clock, limits.breaker);
    this.#quota = new QuotaWatch(clock, limits.quotaReserve);
    this.#health = new UpstreamHealth({ name, url: origin, clock, events, failures: limits.retries + 1 });
    this.#probe = new BackgroundProbe({
      clock,
      isWanted: () => this.#breaker.state !== "closed",
      mayAsk: () => this.pause === 0,
      ask: (signal) => this.#answers(signal),
      answered: () => {
        this.#breaker.recovered();
        this.#health.answered(this.#limit());
      },
    });
  }

  /** Milliseconds for which the upstream has asked to be left alone. */
  get pause(): number {
    return this.#parts.backoff.wait;
  }

  get status(): Omit<UpstreamStatus, "bytes" | "credentialExpiresAt"> {
    const { reachable, since, lastError } = this.#health;
    const retryAt = Math.max(this.#parts.backoff.endsAt ?? 0, this.#breaker.retryAt ?? 0);
    const quota = this.#quota.current;
    return {
      url: this.#parts.origin,
      reachable,
      since,
      ...(lastError && { lastError }),
      breaker: this.#breaker.state,
      ...(retryAt > 0 && { retryAt }),
      ...(quota && { quota }),
      requests: { running: this.#queue.running, queued: this.#queue.queued },
    };
  }

  /** Refuses whatever comes, and what waits. */
  close(): void {
    this.#closed = true;
    this.#probe.close();
    this.#queue.close();
  }

  /**
   * Waits for a place in the queue, unless the request is refused before or meanwhile.
   * @throws the signal's reason; what `prepare` throws.
   */
  async admit(request: AdmissionRequest): Promise<Permit | Refusal> {
    this.#probe.wanted();
    const refusedAtOnce = this.#refusal(request);
    if (refusedAtOnce) return refusedAtOnce;
    const unprepared = await request.prepare?.();
    if (unprepared) return { kind: "refused", failure: unprepared, anotherUrl: unprepared.kind === "unavailable" };
    for (let hasPlace = false; !hasPlace; ) {
      const refused = this.#refusal(request) ?? this.#queueFull(request);
      if (refused) return refused;
      hasPlace = await this.#queue.take(request.priority, request.signal);
    }
    // The wait may have been long.
    const refused = this.#refusal(request);
    if (!refused) return this.#permit(request, this.#breaker.enter());
    this.#queue.release();
    return refused;
  }

  /** Why the request would be refused now, whether or not there is a place for it. */
  #refusal({ what, countsAsPull }: AdmissionRequest): Refusal | undefined {
    if (this.#closed) return { kind: "refused", failure: unavailable(`${what}: this registry was closed`), anotherUrl: false };
    const failure = this.#parts.backoff.refusal(what) ?? this.#outage(what) ?? (countsAsPull ? this.#quota.refusal(what) : undefined);
    return failure && { kind: "refused", failure, anotherUrl: true };
  }

  #outage(what: string): RemoteError | undefined {
    const { wait } = this.#breaker;
    if (wait === 0) return undefined;
    const { lastError } = this.#health;
    const message = `${what}: not sent: the last requests failed${lastError ? `: ${lastError.message}` : ""}`;
    return unavailable(message, Math.max(1, Math.ceil(Math.min(wait, this.#probe.wait ?? wait) / 1000)));
  }

  async #answers(signal: AbortSignal): Promise<boolean> {
    try {
      const response = await this.#parts.probe(signal);
      discard(response);
      this.#parts.backoff.read(response);
      return !isOutage(response.status);
    } catch {
      return false;
    }
  }

  #queueFull({ what }: AdmissionRequest): Refusal | undefined {
    if (!this.#queue.isFull) return undefined;
    const error = new RegistryError("TOOMANYREQUESTS", `${what}: too many requests wait for this upstream`, { retryAfter: 1 });
    return { kind: "refused", failure: { kind: "unavailable", error }, anotherUrl: true };
  }

  #permit({ write }: AdmissionRequest, passage: Passage): Permit {
    let released = false;
    return {
      kind: "permit",
      answered: (response) => {
        this.#observe(response, passage, write);
        passage.abandoned();
      },
      failed: (reason) => this.#failed(reason, passage),
      release: () => {
        if (released) return;
        released = true;
        passage.abandoned();
        this.#queue.release();
      },
    };
  }

  #observe(response: UpstreamResponse, passage: Passage, write: boolean): void {
    // A loop is a property of the question, not of the upstream, which has answered at once.
    const isFailure = response.status >= 500;
    const isLoop = isFailure && tellsLoop(response);
    const isOut = isFailure && !isLoop && isOutage(response.status);
    this.#quota.read(response);
    const pauses = !write && !isLoop && this.#parts.backoff.read(response);
    if (isOut && !write) this.#failed(`answered ${response.status}`, passage);
    else if (!isOut) {
      passage.succeeded();
      this.#health.answered(this.#limit());
    }
    if (pauses) this.#queue.dismiss();
  }

  #failed(message: string, passage: Passage): void {
    passage.failed();
    const isOut = this.#breaker.state !== "closed";
    this.#health.failed(message, this.#limit(), isOut);
    if (!isOut) return;
    this.#queue.dismiss();
    this.#probe.wanted();
  }

  /** Why the upstream is limited, if it is. */
  #limit(): string | undefined {
    const pause = this.pause;
    if (pause > 0) return `it has asked to be left alone for ${Math.ceil(pause / 1000)} s`;
    const quota = this.#quota.wait > 0 ? this.#quota.current : undefined;
    return quota && `${quota.remaining} of ${quota.limit} pulls are left`;
  }
}

interface UpstreamHealthParts {
  /** The registry's name. */
  readonly name: string;
  readonly url: string;
  readonly clock: Clock;
  readonly events: EventSink;
  /** Failures in a row before it counts as unreachable. */
  readonly failures: number;
}

/** What is known of one origin from its answers, and the events about it. */
class UpstreamHealth {
  reachable: boolean | undefined;
  since: number;
  lastError: { readonly time: number; readonly message: string } | undefined;
  readonly #parts: UpstreamHealthParts;
  #row = 0;
  #state: UpstreamEvent["state"] | undefined;

  constructor(parts: UpstreamHealthParts) {
    this.#parts = parts;
    this.since = parts.clock.now();
  }

  /** @param limit why it is limited, if it is. */
  answered(limit: string | undefined): void {
    this.#row = 0;
    this.#reaches(true);
    this.#is(limit === undefined ? "up" : "limited", limit);
  }

  /** @param isOut whether the breaker has opened. */
  failed(message: string, limit: string | undefined, isOut: boolean): void {
    this.#row++;
    this.lastError = { time: this.#parts.clock.now(), message };
    if (this.#row >= this.#parts.failures || isOut) {
      this.#reaches(false);
      if (limit === undefined) this.#is("down", message);
    }
    if (limit !== undefined) this.#is("limited", limit);
  }

  #reaches(reachable: boolean): void {
    if (reachable === this.reachable) return;
    this.reachable = reachable;
    this.since = this.#parts.clock.now();
  }

  #is(state: UpstreamEvent["state"], message: string | undefined): void {
    const before = this.#state;
    this.#state = state;
    // That it works from the beginning is no event.
    if (state === before || (before === undefined && state === "up")) return;
    const { name, url, clock, events } = this.#parts;
    events.emit("upstream", { time: clock.now(), registry: name, url, state, ...(message !== undefined && { message }) });
  }
}
