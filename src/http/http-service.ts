/**
 * Serves one registry to all shells (node, koa, fetch). A shell makes a `ResponseTransfer` of each request and calls `HttpService.begin` with it, which answers the response;
 * when the shell has sent that, or the client has left, it calls `ended`. In between the service knows who calls, takes the bytes of bodies from the byte budget, and counts what runs, so that
 * `close` can wait for it. What a request means is for `dispatch.ts`.
 */
import { accessPolicy, type PolicyOptions } from "../access/policy.js";
import type { Awaitable } from "../core/awaitable.js";
import { ByteBudget, type ByteLease, defaultBudget, sharedBudget } from "../core/byte-budget.js";
import { type Clock, systemClock } from "../core/clock.js";
import { RegistryError } from "../core/errors.js";
import { type HttpEvent, noEvents, type RuntimeOptions, reportFault, safeSink } from "../core/events.js";
import { trustOf } from "../core/ip-addresses.js";
import type { Served } from "../core/lookup.js";
import { once, release, retain } from "../core/ownership.js";
import { smallRead } from "../core/read-size.js";
import type { Caller, ReadyOptions, Registry } from "../core/registry.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../core/units.js";
import { observed } from "../views/observed.js";
import { dispatch, isApiPath, splitTarget } from "./dispatch.js";
import { errorResponse, reportRequestFault } from "./errors.js";
import type { Site, WireBody, WireRequest, WireResponse } from "./exchange.js";
import { FlowGuard, type FlowGuardOptions } from "./flow.js";
import { type ProxyOptions, type PublicUrl, publicUrlOf, seenFrom } from "./public-url.js";

export interface HandlerOptions<Subject> extends PolicyOptions, ProxyOptions, FlowGuardOptions, RuntimeOptions {
  /**
   * Who calls, from whatever the host put there. A `RegistryError` thrown here becomes the response; any other error is a 500.
   * Default: everybody is anonymous.
   */
  readonly caller?: (subject: Subject) => Awaitable<Caller | undefined>;
  /** Sends clients by 307 to the URL of a blob where its store can presign one, in place of passing the bytes on. Default: false. */
  readonly redirects?: boolean;
  /** Tells clients by a `Cache-Status` header (RFC 9211) which cache answered, and how fresh its answer is. It names parts of the composition. Default: false. */
  readonly cacheStatus?: boolean;
  /**
   * Other registries of this library that ask this one: addresses, CIDR blocks or a test, as for `trustedProxies`. Whom a question has passed, in `Manifold-Via`, then
   * decides with whom a cache shares its answer; from anybody else it only finds loops. To be set where registries show each other. Default: nobody.
   */
  readonly trustedPeers?: readonly string[] | ((address: string) => boolean);
  /**
   * Tells clients which members of an aggregate failed, in the `detail` and message of errors. Default: false, nobody; the others learn what went wrong and not
   * where. It names parts of the composition.
   */
  readonly showTopology?: boolean | ((caller: Caller | undefined) => boolean);
  /**
   * How many bytes of bodies are held in memory: manifests that clients send, and what they do not read of responses. Beyond it bodies wait, for ten
   * seconds at most, then the answer is 429. One caller, or one address where callers are anonymous, gets half of it. At least `"8MiB"`. Default: `"256MiB"`,
   * which all handlers of the process share that do not set it.
   */
  readonly maxBuffered?: Size;
}

/** What a handler offers beside handling. */
export interface HandlerLifecycle {
  /** Fails when the registry cannot work (an unwritable folder); an upstream that is down is no failure. Idempotent. */
  ready(o?: ReadyOptions): Promise<void>;
  /**
   * Refuses new requests with 503, waits for running ones until the deadline, breaks off the rest (an upload keeps what arrived), then closes the
   * registry unless another composition still holds it. Idempotent. The server itself is the host's to close.
   *
   * @param o.deadline how long running requests may take; default `"30s"`.
   */
  close(o?: { deadline?: Duration }): Promise<void>;
}

/** One request and its response, as long as it lasts: what each shell makes of its framework's. */
export interface ResponseTransfer extends Omit<WireRequest, "caller"> {
  caller: Caller | undefined;
  readonly startedAt: number;
  readonly served: Served | undefined;
  readonly status: number;
  /** Body bytes handed to the connection. */
  readonly sent: number;
  /** Whether the client got the whole response. */
  readonly complete: boolean;
  /** Aborts what still runs for it, where the client has not got everything. Idempotent. */
  end(): void;
  /** Breaks it off. */
  destroy(): void;
}

const defaultDeadline: Duration = "30s";

/** How long what was broken off may take to write down how far it came, in milliseconds: the offset of an upload, before its storage is closed. */
const windingUp = 5000;

/** Serves one registry. The shells differ only in what they know of a request. */
export class HttpService<Subject> implements HandlerLifecycle {
  readonly close: HandlerLifecycle["close"];
  readonly front: PublicUrl;
  /** Shells pass bodies and responses through it. */
  readonly guard: FlowGuard;
  readonly #registry: Registry;
  readonly #site: Site;
  readonly #clock: Clock;
  readonly #budget: ByteBudget;
  readonly #caller: HandlerOptions<Subject>["caller"];
  readonly #running = new Set<ResponseTransfer>();
  /** Requests that are being answered, also those whose client has left. */
  #answering = 0;
  #closing = false;
  /** Called when a transfer or an answer has ended. */
  #onEnd: (() => void) | undefined;

  constructor(registry: Registry, options: HandlerOptions<Subject>) {
    this.#clock = options.clock ?? systemClock;
    this.#caller = options.caller;
    this.front = publicUrlOf(options);
    this.guard = new FlowGuard(options, this.#clock);
    this.#budget = budgetOf(options);
    this.#registry = registry;
    this.#site = {
      registry: options.events ? observed(registry, options.events, this.#clock) : registry,
      policy: accessPolicy(options),
      events: options.events ? safeSink(options.events) : noEvents,
      now: () => this.#clock.now(),
      redirects: options.redirects ?? false,
      cacheStatus: options.cacheStatus ?? false,
      trustsPeer: trustOf(options.trustedPeers ?? [], "trustedPeers"),
      topology: topologyOf(options.showTopology),
    };
    retain([registry]);
    this.close = once((o) => this.#close(o));
  }

  ready(o?: ReadyOptions): Promise<void> {
    return this.#site.registry.ready(o);
  }

  /** Whether the request target is the registry API's. */
  handles(target: string): boolean {
    return isApiPath(splitTarget(target).path);
  }

  get now(): () => number {
    return this.#site.now;
  }

  /**
   * The response to a request. Never rejects. Every transfer that is begun must be ended.
   * @param base what comes before `/v2/` in the URL that the client uses.
   */
  begin(transfer: ResponseTransfer, subject: Subject, base: string): Promise<WireResponse> {
    this.#running.add(transfer);
    const answer = this.#answer(transfer, subject);
    return base === "" ? answer : answer.then((response) => seenFrom(base, response));
  }

  ended(transfer: ResponseTransfer): void {
    transfer.end();
    transfer.lease?.release();
    this.#running.delete(transfer);
    const { events } = this.#site;
    if (events !== noEvents) events.emit("request", this.#eventOf(transfer));
    this.#onEnd?.();
  }

  /** The host learns of a body that failed, whether or not the client can be sent an error. */
  bodyFailed(transfer: ResponseTransfer, error: unknown): WireResponse {
    reportRequestFault(this.#site, transfer, error);
    return this.failed(transfer, error);
  }

  /** What becomes of a response whose body failed before its first byte. */
  failed(transfer: ResponseTransfer, error: unknown): WireResponse {
    return errorResponse(error, this.#context(transfer));
  }

  /** Only a header that the platform refuses leads here. Unhandled it would end the host's process. */
  unsendable(transfer: ResponseTransfer, error: unknown): void {
    transfer.destroy();
    reportFault({ events: this.#site.events, clock: this.#clock, name: "http" }, `${transfer.method} ${transfer.target}`, error);
  }

  async #answer(transfer: ResponseTransfer, subject: Subject): Promise<WireResponse> {
    this.#answering++;
    try {
      if (this.#closing) return this.#closed(transfer);
      if (this.#caller) transfer.caller = await this.#caller(subject);
      if (transfer.bodyLength !== 0) this.#leaseOf(transfer);
      const response = await this.#dispatched(transfer);
      if (this.#closing) response.headers.Connection = "close";
      return response;
    } catch (error) {
      return this.failed(transfer, error);
    } finally {
      this.#answering--;
      this.#onEnd?.();
    }
  }

  /** The response, once the byte budget covers what its client may leave unread of its body. */
  async #dispatched(transfer: ResponseTransfer): Promise<WireResponse> {
    const response = await dispatch(this.#site, transfer);
    // What came in is used up, also where the client goes on to send.
    transfer.lease?.empty();
    const held = heldOf(response.body);
    if (held === 0 || this.#leaseOf(transfer).tryTake(held)) return response;
    return this.#withinBudget(transfer, response, held);
  }

  async #withinBudget(transfer: ResponseTransfer, { body, ...rest }: WireResponse, held: number): Promise<WireResponse> {
    const lease = this.#leaseOf(transfer);
    if (body?.kind === "bytes" && transfer.method === "GET") {
      // What is in memory already must not wait there: it is read again when the budget covers it.
      body = undefined;
      await lease.take(held, transfer);
      return dispatch(this.#site, transfer);
    }
    try {
      await lease.take(held, transfer);
    } catch (error) {
      // It may be an upstream's response, which is held until somebody opens it.
      if (body?.kind === "stream")
        body
          .open()
          .on("error", () => {})
          .destroy();
      throw error;
    }
    return body ? { ...rest, body } : rest;
  }

  #leaseOf(transfer: ResponseTransfer): ByteLease {
    if (transfer.lease) return transfer.lease;
    const { caller, address } = transfer;
    const lease = this.#budget.lease(caller ? `caller ${caller.name}` : `address ${address ?? ""}`);
    transfer.lease = lease;
    // The client has left already: nobody would release it.
    if (!this.#running.has(transfer)) lease.release();
    return lease;
  }

  #closed(transfer: ResponseTransfer): WireResponse {
    const error = new RegistryError("UNAVAILABLE", "this registry is shutting down", { retryAfter: 1 });
    // Off to another instance: a kept connection would lead back here.
    return errorResponse(error, this.#context(transfer), { Connection: "close" });
  }

  #context(transfer: ResponseTransfer) {
    const { policy, topology } = this.#site;
    return { head: transfer.method === "HEAD", challenge: policy.challenge, topology: topology(transfer.caller) };
  }

  #eventOf({ method, target, status, caller, address, served, sent, complete, startedAt }: ResponseTransfer): HttpEvent {
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
    const until = this.#clock.elapsed() + toMilliseconds(o?.deadline ?? defaultDeadline);
    await this.#ends(() => this.#running.size === 0, until - this.#clock.elapsed());
    for (const transfer of this.#running) transfer.destroy();
    await this.#ends(() => this.#answering === 0 && this.#running.size === 0, windingUp);
    const left = Math.max(0, until - this.#clock.elapsed());
    await release([this.#registry], { deadline: `${left}ms` });
  }

  /** Waits until something is so, looking whenever a transfer or an answer ends. */
  async #ends(over: () => boolean, atMost: number): Promise<void> {
    if (over()) return;
    const waiting = new AbortController();
    const end = new Promise<void>((resolve) => {
      this.#onEnd = () => {
        if (over()) resolve();
      };
    });
    const late = this.#clock.sleep(atMost, waiting.signal).catch(() => undefined);
    await Promise.race([end, late]);
    waiting.abort();
  }
}

/** A manifest may have half of this, and one caller gets half of the budget. */
const leastBuffered = 8 * 2 ** 20;

/** @throws RegistryError UNKNOWN for what is no size, or too small a one. */
function budgetOf({ maxBuffered, clock }: { maxBuffered?: Size; clock?: Clock }): ByteBudget {
  if (maxBuffered === undefined) return clock ? new ByteBudget(defaultBudget, clock) : sharedBudget;
  const bytes = toBytes(maxBuffered);
  if (bytes >= leastBuffered) return new ByteBudget(bytes, clock ?? systemClock);
  throw new RegistryError("UNKNOWN", `maxBuffered is ${maxBuffered}, which is less than one manifest may need: set it to "8MiB" or more`);
}

/** Bodies up to this size are not counted: they take less than the connection they go to. */
const uncounted = 16 * 1024;

/** How much of a body is in memory while its client does not read. */
function heldOf(body: WireBody | undefined): number {
  if (body?.kind === "stream") return Math.min(body.size, smallRead);
  return body && body.bytes.byteLength > uncounted ? body.bytes.byteLength : 0;
}

/** A decision that fails is a no: it is made while an error is being answered. */
function topologyOf(option: boolean | ((caller: Caller | undefined) => boolean) = false): Site["topology"] {
  if (typeof option === "boolean") return () => option;
  return (caller) => {
    try {
      return option(caller) === true;
    } catch {
      return false;
    }
  };
}
