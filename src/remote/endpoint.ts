/**
 * One URL of an upstream. `Endpoint.attempt` sends a request once: it waits until its admission permits that, adds the authorization, and answers one 401. The `Authorizer`
 * below answers challenges: it remembers for each scope what was asked for, so that the next request has its token at once. Which URL is asked, and how often, is for
 * `upstream.ts` to decide.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import { SingleFlights } from "../core/single-flight.js";
import { untilAborted } from "../core/until-aborted.js";
import { type Challenge, parseChallenges, preferredChallenge, readTokenRequest, type TokenRequest } from "./challenge.js";
import { basicAuthorization, type CredentialSource, readCredentials } from "./credentials.js";
import { denied, failureOfError, networkReason, type RemoteError, RemoteFailure, unavailable } from "./failures.js";
import type { Admission, Permit } from "./limits/admission.js";
import type { RequestPriority } from "./limits/request-queue.js";
import { faultOf } from "./retry.js";
import { storageOf } from "./storage-refusal.js";
import { refusedWithout, type TokenClient } from "./tokens.js";
import { discard, type HttpMethod, isStreamed, type RequestBody, type Transport, type UpstreamResponse } from "./transport.js";
import type { UpstreamStatus } from "./upstream-status.js";

/** A request to an upstream, under its base URL. */
export interface UpstreamCall {
  readonly method: HttpMethod;
  /** Absolute path with query, or the URL of a next page or an upload: asked of the same origin. */
  readonly path: string | URL;
  /** What a token must be good for; further scopes behind a space, see `readTokenRequest`. */
  readonly scope: string;
  /** For messages, as in "manifest latest of library/node". */
  readonly what: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: RequestBody;
  /** Its token was taken a moment ago, so a streamed body may follow at once. */
  readonly isConfirmed?: boolean;
  /** In milliseconds, at least, where the remote's own is shorter. */
  readonly headersTimeout?: number;
  readonly signal?: AbortSignal | undefined;
  /** Statuses beside 200 that the asker reads itself. Redirects are followed, except of a HEAD. */
  readonly accept?: readonly number[];
  /** Fetching manifests is what pull quotas count. */
  readonly countsAsPull?: boolean;
  /** Redirects lead to storage, as those of blobs do: what that refuses is no word of the registry. */
  readonly fromStorage?: boolean;
  /** The asker holds a response of this upstream: waiting for a place might be waiting for itself. */
  readonly besideAnother?: boolean;
}

export interface EndpointParts {
  /** What the registry is called in answers and messages. */
  readonly name: string;
  readonly base: URL;
  readonly transport: Transport;
  readonly authorizer: Authorizer;
  readonly admission: Admission;
  /** When the credentials in use end. */
  credentialExpiresAt?(): number | undefined;
}

/** How a request is sent. */
export interface HowToSend {
  readonly priority: RequestPriority;
  /** Belongs to a push or a delete. */
  readonly write: boolean;
  /** The aggregates that the question has passed, as a header's value. */
  readonly via: string | undefined;
}

/** What became of one request: any response, or why there is none. */
export type Attempt =
  | { readonly kind: "response"; readonly response: UpstreamResponse; readonly asked: URL }
  | {
      readonly kind: "failed";
      readonly failure: RemoteError;
      /** Storage failed, not the registry: the next redirect may lead elsewhere, or be signed anew. */
      readonly freshRedirect?: boolean;
      /** What may still answer a read: this URL when asked once more, another URL of the registry, or nothing. */
      readonly next: "again" | "another URL" | "nothing";
    };

type Failed = Extract<Attempt, { kind: "failed" }>;

/** An attempt, and what it was sent with. */
interface Sent {
  readonly attempt: Attempt;
  readonly authorization: ReadyAuthorization;
}

/** One URL of a registry: sends what its admission permits, and authenticates it. */
export class Endpoint {
  readonly base: URL;
  readonly #parts: EndpointParts;
  #bytes = 0;

  constructor(parts: EndpointParts) {
    this.#parts = parts;
    this.base = parts.base;
  }

  /** Milliseconds for which the upstream has asked to be left alone. */
  get pause(): number {
    return this.#parts.admission.pause;
  }

  get status(): UpstreamStatus {
    const credentialExpiresAt = this.#parts.credentialExpiresAt?.();
    return { ...this.#parts.admission.status, bytes: this.#bytes, ...(credentialExpiresAt !== undefined && { credentialExpiresAt }) };
  }

  /** Requests that wait are refused; those in progress are the transport's. */
  close(): void {
    this.#parts.admission.close();
  }

  /**
   * Sends with the token at hand, answers one 401, and sends once more; what comes then is the answer, whatever its status. A 403 never authenticates
   * again. A token that is refused without a way to another one is dropped, and the request sent without: Harbor and some proxies answer an ended token by a challenge for Basic, or
   * by none, and what they would tell anybody is not to be had with it. A streamed body is not sent again: the token is confirmed before it, and where that did not help, the next request
   * has a fresh one.
   * @throws the signal's reason.
   */
  async attempt(call: UpstreamCall, o: HowToSend): Promise<Attempt> {
    const what = `${this.#parts.name}: ${call.what}`;
    try {
      const { attempt, authorization } = await this.#authorized(call, o);
      return call.fromStorage ? attempt : this.#withReason(attempt, authorization, what);
    } catch (error) {
      return { kind: "failed", failure: failureOfError(error, what, call.signal), next: "nothing" };
    }
  }

  async #authorized(call: UpstreamCall, o: HowToSend): Promise<Sent> {
    const { name, authorizer } = this.#parts;
    const { scope, signal } = call;
    if (isStreamed(call.body) && !call.isConfirmed) await this.#confirmToken(call, o);
    const first = await this.#request(call, o, () => authorizer.prepare(scope, signal));
    let refusal = this.#refusal(first);
    if (!refusal) return first;
    const { value: refused } = first.authorization;
    const isDropped = authorizer.dropToken(refusal.challenge, scope, refused);
    if (isStreamed(call.body)) {
      const answered = isDropped ? anonymous : await authorizer.answer(refusal.challenge, scope, refused, signal);
      if (answered.kind !== "ready") return { attempt: unauthorized(answered), authorization: first.authorization };
      if (answered.withheldFrom !== undefined) return { attempt: first.attempt, authorization: answered };
      const failure = unavailable(`${name}: ${call.what}: the authorization ended on the way; send again`, 1);
      return { attempt: { kind: "failed", failure, next: "nothing" }, authorization: first.authorization };
    }
    if (isDropped) {
      const bare = await this.#request(call, o, async () => anonymous);
      refusal = this.#refusal(bare);
      if (!refusal) return bare;
    }
    const { challenge } = refusal;
    const last = await this.#request(call, o, () => authorizer.answer(challenge, scope, refused, signal));
    if (this.#isRefusal(last.attempt)) {
      authorizer.dropToken(last.attempt.response.headers["www-authenticate"], scope, last.authorization.value);
    }
    return last;
  }

  /** A token may be ended early, by the registry's clock or its word. Asked without a body for the same URL, the registry says so while the body can still be sent. */
  async #confirmToken(call: UpstreamCall, o: HowToSend): Promise<void> {
    const { path, scope, what, signal } = call;
    if (!this.#parts.authorizer.hasToken(scope)) return;
    const { attempt } = await this.#authorized({ method: "GET", path, scope, what, signal }, o);
    if (attempt.kind === "response") discard(attempt.response);
  }

  /** The challenge of a 401, which is discarded. */
  #refusal({ attempt }: Sent): { readonly challenge: string | readonly string[] | undefined } | undefined {
    if (!this.#isRefusal(attempt)) return undefined;
    discard(attempt.response);
    return { challenge: attempt.response.headers["www-authenticate"] };
  }

  /** A challenge from where a redirect led is not this registry's to make. */
  #isRefusal(attempt: Attempt): attempt is Extract<Attempt, { kind: "response" }> {
    return attempt.kind === "response" && attempt.response.status === 401 && !this.#isElsewhere(attempt.response);
  }

  #isElsewhere({ url }: UpstreamResponse): boolean {
    return url.origin !== this.base.origin;
  }

  /** A refusal that is for what was not sent says so: other credentials would change nothing. */
  #withReason(attempt: Attempt, { withheldFrom }: ReadyAuthorization, what: string): Attempt {
    if (attempt.kind === "failed") return attempt;
    const { response } = attempt;
    const { status } = response;
    if (status !== 401 && status !== 403) return attempt;
    let failure: RemoteError | undefined;
    if (this.#isElsewhere(response)) {
      const { host } = this.base;
      // The target is not named: it may be a signed URL.
      failure = denied(
        `${what}: ${host} redirects this to another host, which refuses with ${status}; credentials go to ${host} alone: if you trust the other host, make it this remote's URL`,
      );
    } else if (withheldFrom !== undefined) failure = refusedWithout(withheldFrom, what, status);
    if (!failure) return attempt;
    discard(response);
    return { kind: "failed", failure, next: "nothing" };
  }

  /** Sends, once it is admitted, with what `authorize` answers. */
  async #request(call: UpstreamCall, o: HowToSend, authorize: () => Promise<Authorization>): Promise<Sent> {
    let authorization = anonymous;
    const admitted = await this.#parts.admission.admit({
      what: `${this.#parts.name}: ${call.what}`,
      priority: o.priority,
      write: o.write,
      countsAsPull: call.countsAsPull,
      signal: call.signal,
      prepare: async () => {
        const answer = await authorize();
        if (answer.kind !== "ready") return answer;
        authorization = answer;
        return undefined;
      },
    });
    if (admitted.kind === "refused") {
      const { failure, anotherUrl } = admitted;
      return { attempt: { kind: "failed", failure, next: anotherUrl ? "another URL" : "nothing" }, authorization };
    }
    return { attempt: await this.#send(call, o, authorization.value, admitted), authorization };
  }

  async #send(call: UpstreamCall, { priority, via }: HowToSend, authorization: string | undefined, permit: Permit): Promise<Attempt> {
    const { method, headers, body, headersTimeout, signal } = call;
    const asked = new URL(call.path, this.base);
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
        aside: priority === "exempt",
        ...(headers && { headers }),
        answered: (hop) => {
          // Where a redirect leads is no part of the registry: its troubles are not the registry's.
          if (hop.url.origin !== this.base.origin) return;
          answered = true;
          permit.answered(hop);
        },
      });
      this.#follow(response, permit);
      return { kind: "response", response, asked };
    } catch (error) {
      const fault = signal?.aborted ? undefined : faultOf(error);
      // A request that streams its body also fails for its source's sake.
      if (fault && !answered && !isStreamed(body)) permit.failed(networkReason(error));
      permit.release();
      const what = `${this.#parts.name}: ${call.what}`;
      // The registry has answered, so it is where it led that failed: refused connections, loops, targets that may not be followed.
      if (call.fromStorage && answered && fault !== "timeout" && !signal?.aborted) {
        const failure = failureOfError(error, storageOf(what), signal);
        return { kind: "failed", failure, next: fault ? "again" : "another URL", freshRedirect: true };
      }
      const failure = failureOfError(error, what, signal);
      // What timed out once would do so again.
      return { kind: "failed", failure, next: fault === "network" ? "again" : fault === "timeout" ? "another URL" : "nothing" };
    }
  }

  /** The permit lasts until the body has been read or given up. */
  #follow({ body }: UpstreamResponse, permit: Permit): void {
    if (body.closed) permit.release();
    else body.once("close", () => permit.release());
    // A listener alone would start the flow, before anybody reads.
    body.pause();
    body.on("data", (chunk: Uint8Array) => {
      this.#bytes += chunk.byteLength;
    });
  }
}

function unauthorized(failure: RemoteError): Failed {
  return { kind: "failed", failure, next: failure.kind === "unavailable" ? "another URL" : "nothing" };
}

export interface AuthorizerOptions {
  /** The registry's name, for messages. */
  readonly name: string;
  readonly origin: URL;
  readonly realmHosts: readonly string[];
  readonly toScope?: ((scope: string) => string) | undefined;
  readonly credentials: CredentialSource | undefined;
  readonly tokens: TokenClient;
  readonly clock: Clock;
}

/** How a scope's requests were challenged last: the next one is sent with the answer to that at once. */
type Remembered = { readonly scheme: "bearer"; readonly request: TokenRequest } | { readonly scheme: "basic" };

/** What a request is sent with. */
export interface ReadyAuthorization {
  readonly kind: "ready";
  /** For an Authorization header; none means anonymous. */
  readonly value: string | undefined;
  /** The host of the token endpoint, where that was not given the credentials that there are. */
  readonly withheldFrom?: string;
}

export type Authorization = ReadyAuthorization | RemoteError;

const anonymous: ReadyAuthorization = { kind: "ready", value: undefined };

const bearer = "Bearer ";
/** As many scopes as there are tokens kept. */
const rememberedLimit = 1000;
/** In milliseconds. Basic goes with every request, and vaults limit how often they are asked. A password that changes earlier is shown by a 401. */
const basicLifetime = 300_000;

/** Answers the challenges of one registry. It must be shown only responses that came from the registry's own origin. */
export class Authorizer {
  readonly #remembered = new LRUCache<string, Remembered>({ max: rememberedLimit });
  readonly #options: AuthorizerOptions;
  #basicKept: { readonly value: string; readonly renewAt: number } | undefined;
  readonly #basicReads = new SingleFlights<Authorization>();

  constructor(options: AuthorizerOptions) {
    this.#options = options;
  }

  /** What to send first: nothing, until a request of this scope has been challenged. */
  async prepare(scope: string, signal: AbortSignal | undefined): Promise<Authorization> {
    const remembered = this.#remembered.get(scope);
    return remembered ? this.#authorize(remembered, undefined, signal) : anonymous;
  }

  /** Whether requests of this scope are sent with a token. */
  hasToken(scope: string): boolean {
    return this.#remembered.get(scope)?.scheme === "bearer";
  }

  /**
   * Forgets a token that was refused where the challenge leads to no other one, so that what comes next is asked without.
   * @returns whether it did.
   */
  dropToken(header: string | readonly string[] | undefined, scope: string, refused: string | undefined): boolean {
    if (!refused?.startsWith(bearer)) return false;
    const challenge = preferredChallenge(parseChallenges(header));
    if (challenge?.scheme === "bearer" && URL.canParse(challenge.parameters.get("realm") ?? "")) return false;
    const remembered = this.#remembered.get(scope);
    this.#remembered.delete(scope);
    if (remembered?.scheme === "bearer") this.#options.tokens.drop(remembered.request, refused.slice(bearer.length));
    return true;
  }

  /**
   * What to send after a 401: a token for exactly the scope that was challenged, or Basic.
   * @param refused the Authorization that was answered with 401; the same one is never the answer.
   */
  async answer(
    header: string | readonly string[] | undefined,
    scope: string,
    refused: string | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Authorization> {
    const { name } = this.#options;
    const challenge = preferredChallenge(parseChallenges(header));
    if (!challenge) return denied(`${name}: refused with 401, without a Bearer or Basic challenge`);
    let remembered: Remembered;
    try {
      remembered = this.#read(challenge, scope);
    } catch (error) {
      if (error instanceof RemoteFailure) return denied(`${name}: refused with 401; ${error.message}`);
      throw error;
    }
    const authorization = await this.#authorize(remembered, refused, signal);
    if (authorization.kind !== "ready") return authorization;
    if (authorization.value === refused) return denied(`${name}: refused these credentials with 401`);
    this.#remembered.set(scope, remembered);
    return authorization;
  }

  #read(challenge: Challenge, scope: string): Remembered {
    if (challenge.scheme === "basic") return { scheme: "basic" };
    const { origin, realmHosts, toScope } = this.#options;
    const request = readTokenRequest(challenge, origin, realmHosts, scope);
    return { scheme: "bearer", request: toScope ? { ...request, scope: toScope(request.scope) } : request };
  }

  async #authorize(remembered: Remembered, refused: string | undefined, signal: AbortSignal | undefined): Promise<Authorization> {
    if (remembered.scheme === "basic") return this.#basic(refused, signal);
    const answer = await this.#options.tokens.get(remembered.request, {
      signal,
      refused: refused?.startsWith(bearer) ? refused.slice(bearer.length) : undefined,
    });
    if (answer.kind !== "token") return answer;
    const { token, withheldFrom } = answer;
    return { kind: "ready", value: `${bearer}${token}`, ...(withheldFrom !== undefined && { withheldFrom }) };
  }

  /** @param refused is not given again, unless the source has nothing else. */
  async #basic(refused: string | undefined, signal: AbortSignal | undefined): Promise<Authorization> {
    const kept = this.#basicKept;
    if (kept && kept.value !== refused && kept.renewAt > this.#options.clock.elapsed()) return { kind: "ready", value: kept.value };
    // The one source of the one registry: there is only one key.
    return untilAborted(
      this.#basicReads.join("", () => this.#readBasic()),
      signal,
    );
  }

  async #readBasic(): Promise<Authorization> {
    const { name, clock } = this.#options;
    this.#basicKept = undefined;
    try {
      const credentials = await readCredentials(this.#options.credentials, name);
      if (!credentials) return denied(`${name}: refused with 401; it asks for a user name and password, and there are no credentials`);
      if ("identityToken" in credentials)
        return denied(`${name}: it asks for a user name and password, and the credentials are an identity token`);
      const value = basicAuthorization(credentials.username, credentials.password);
      const lifetime = (credentials.expiresAt ?? Number.POSITIVE_INFINITY) - clock.now();
      const renewIn = lifetime === Number.POSITIVE_INFINITY ? basicLifetime : lifetime - Math.min(lifetime / 10, basicLifetime);
      this.#basicKept = { value, renewAt: clock.elapsed() + renewIn };
      return { kind: "ready", value };
    } catch (error) {
      return failureOfError(error, name, undefined);
    }
  }
}
