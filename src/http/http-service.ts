import type { IncomingMessage, ServerResponse } from "node:http";
import { accessPolicy, type PolicyOptions } from "../access/policy.js";
import type { Awaitable } from "../core/awaitable.js";
import { type Clock, systemClock } from "../core/clock.js";
import { RegistryError } from "../core/errors.js";
import { contained, type HttpEvent, noEvents, type Surroundings } from "../core/events.js";
import { once, release, retain } from "../core/ownership.js";
import type { Caller, Registry } from "../core/registry.js";
import { type Duration, toMilliseconds } from "../core/units.js";
import { observed } from "../views/observed.js";
import { dispatch } from "./dispatch.js";
import { errorResponse } from "./errors.js";
import type { Site, WireResponse } from "./exchange.js";
import { NodeExchange } from "./node-exchange.js";
import { isApiPath, splitTarget } from "./route.js";

export interface HandlerOptions<Subject> extends PolicyOptions, Surroundings {
  /**
   * Who calls, from whatever the host put there. A `RegistryError` thrown here becomes the response; any other error is a 500.
   * Default: everybody is anonymous.
   */
  readonly caller?: (subject: Subject) => Awaitable<Caller | undefined>;
}

/** What a handler offers beside handling. */
export interface HandlerLifecycle {
  /** Fails when the registry cannot work (an unwritable folder); an upstream that is down is no failure. Idempotent. */
  ready(): Promise<void>;
  /**
   * Refuses new requests with 503, waits for running ones until the deadline, breaks off the rest, then closes the registry unless another
   * composition still holds it. Idempotent. The server itself is the host's to close.
   *
   * @param o.deadline how long running requests may take; default `"30s"`.
   */
  close(o?: { deadline?: Duration }): Promise<void>;
}

const defaultDeadline: Duration = "30s";

/** Serves one registry through node:http; the shells differ only in what they know of a request. */
export class HttpService<Subject> implements HandlerLifecycle {
  readonly close: HandlerLifecycle["close"];
  readonly #registry: Registry;
  readonly #site: Site;
  readonly #clock: Clock;
  readonly #caller: HandlerOptions<Subject>["caller"];
  readonly #running = new Set<NodeExchange>();
  #closing = false;
  #whenIdle: (() => void) | undefined;

  constructor(registry: Registry, options: HandlerOptions<Subject>) {
    this.#clock = options.clock ?? systemClock;
    this.#caller = options.caller;
    this.#registry = registry;
    this.#site = {
      registry: options.events ? observed(registry, options.events, this.#clock) : registry,
      policy: accessPolicy(options),
      events: options.events ? contained(options.events) : noEvents,
      now: () => this.#clock.now(),
    };
    retain([registry]);
    this.close = once((o) => this.#close(o));
  }

  ready(): Promise<void> {
    return this.#site.registry.ready();
  }

  /** Whether the request target is the registry API's. */
  handles(target: string): boolean {
    return isApiPath(splitTarget(target).path);
  }

  handle(request: IncomingMessage, response: ServerResponse, o: { subject: Subject; target: string; address: string | undefined }): void {
    const exchange = new NodeExchange(request, response, { target: o.target, address: o.address, startedAt: this.#clock.now() });
    this.#running.add(exchange);
    response.once("close", () => this.#ended(exchange));
    this.#answer(exchange, o.subject)
      .then((answer) => exchange.send(answer, (error) => this.#errorResponse(exchange, error)))
      .catch((error) => this.#unsendable(exchange, error));
  }

  /** Only a header that Node refuses leads here. Unhandled it would end the host's process. */
  #unsendable(exchange: NodeExchange, error: unknown): void {
    exchange.destroy();
    const { events, now } = this.#site;
    events.emit("fault", { time: now(), registry: "http", message: `${exchange.method} ${exchange.target}: ${String(error)}` });
  }

  async #answer(exchange: NodeExchange, subject: Subject): Promise<WireResponse> {
    if (this.#closing) return this.#closed(exchange);
    if (this.#caller) {
      try {
        exchange.caller = await this.#caller(subject);
      } catch (error) {
        return this.#errorResponse(exchange, error);
      }
    }
    return dispatch(this.#site, exchange);
  }

  #closed(exchange: NodeExchange): WireResponse {
    const error = new RegistryError("UNAVAILABLE", "this registry is shutting down", { retryAfter: 1 });
    // Off to another instance: a kept connection would lead back here.
    return errorResponse(error, this.#context(exchange), { Connection: "close" });
  }

  #errorResponse(exchange: NodeExchange, error: unknown): WireResponse {
    return errorResponse(error, this.#context(exchange));
  }

  #context(exchange: NodeExchange) {
    return { head: exchange.method === "HEAD", challenge: this.#site.policy.challenge };
  }

  #ended(exchange: NodeExchange): void {
    exchange.end();
    this.#running.delete(exchange);
    const { events } = this.#site;
    if (events !== noEvents) events.emit("request", this.#eventOf(exchange));
    if (this.#running.size === 0) this.#whenIdle?.();
  }

  #eventOf({ method, target, status, caller, address, served, sent, complete, startedAt }: NodeExchange): HttpEvent {
    const time = this.#clock.now();
    return {
      time,
      method,
      url: target,
      status,
      bytes: sent,
      duration: time - startedAt,
      aborted: !complete,
      ...(caller && { caller }),
      ...(address !== undefined && { address }),
      ...(served && { member: served.member }),
      ...(served?.cache && { cache: served.cache }),
    };
  }

  async #close(o: { deadline?: Duration } | undefined): Promise<void> {
    this.#closing = true;
    const until = this.#clock.now() + toMilliseconds(o?.deadline ?? defaultDeadline);
    if (this.#running.size > 0) {
      const waiting = new AbortController();
      const idle = new Promise<void>((resolve) => {
        this.#whenIdle = resolve;
      });
      const late = this.#clock.sleep(until - this.#clock.now(), waiting.signal).catch(() => undefined);
      await Promise.race([idle, late]);
      waiting.abort();
      for (const exchange of this.#running) exchange.destroy();
    }
    const left = Math.max(0, until - this.#clock.now());
    await release([this.#registry], { deadline: `${left}ms` });
  }
}
