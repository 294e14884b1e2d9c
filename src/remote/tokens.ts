import { LRUCache } from "lru-cache";
import { type Clock, pause } from "../core/clock.js";
import { SingleFlights } from "../core/single-flight.js";
import { untilAborted } from "../core/until-aborted.js";
import type { TokenRequest } from "./challenge.js";
import { basicAuthorization, type CredentialSource, type Credentials, identityTokenUser, readCredentials } from "./credentials.js";
import { denied, failureOfError, failureOfStatus, parseRetryAfter, type RemoteError, RemoteFailure, unavailable } from "./failures.js";
import type { Backoff } from "./limits/backoff.js";
import { faultOf, isTransient, retryDelay } from "./retry.js";
import { discard, headerOf, parseJsonObject, readCapped, type Transport, type UpstreamResponse } from "./transport.js";

export interface Token {
  readonly kind: "token";
  readonly token: string;
  /** The host that gave it, where the registry's credentials were not sent there: what it lacks may be for that. */
  readonly withheldFrom?: string;
}

export type TokenAnswer = Token | RemoteError;

export interface TokenClientOptions {
  /** The registry's name, for messages. */
  readonly name: string;
  readonly credentials: CredentialSource | undefined;
  readonly transport: Transport;
  readonly clock: Clock;
  /** For an origin: token endpoints too ask to be left alone. */
  backoffOf(origin: string): Backoff;
  /** Further tries of a GET. */
  readonly retries: number;
}

/** `again`: a further try makes sense, after this many milliseconds at least. */
interface Tried {
  readonly answer: TokenAnswer;
  readonly again?: number;
}

/** Tokens are a few KiB (ECR's are the longest); a larger body comes from no token endpoint. */
const bodyLimit = 1024 * 1024;
/** In seconds. By the token specification a lifetime that is missing or shorter counts as this. */
const shortestLifetime = 60;
/** In seconds: a year. Keeps sums safe whatever the endpoint says. */
const longestLifetime = 31_536_000;
/** In milliseconds. A token is renewed a tenth of its life before it ends, at most this much, so that it does not end on its way. */
const renewEarlyLimit = 30_000;
/** Scopes, in practice repositories; the least used are forgotten and cost one more request. */
const cacheLimit = 1000;
/** In milliseconds. No caller's signal ends a token request, since it is shared. */
const requestDeadline = 60_000;
const clientId = "oci-manifold";
/** Endpoints without the POST form: GCR answered 404, others 405, Artifactory 401 (found by containerd). */
const noPostForm: ReadonlySet<number> = new Set([401, 404, 405]);

/**
 * Fetches and keeps the access tokens of one registry. Its origin and credential source are fixed, so realm, service and scope make the cache
 * key. Concurrent requests for one token share one answer.
 */
export class TokenClient {
  readonly #cache = new LRUCache<string, { readonly token: Token; readonly renewAt: number }>({ max: cacheLimit });
  readonly #requests = new SingleFlights<TokenAnswer>();
  readonly #options: TokenClientOptions;

  constructor(options: TokenClientOptions) {
    this.#options = options;
  }

  /**
   * A token, from the cache when there is one.
   * @param o.refused a token the registry has just answered 401 to: not given again.
   * @throws the signal's reason.
   */
  async get(request: TokenRequest, o: { signal?: AbortSignal | undefined; refused?: string | undefined } = {}): Promise<TokenAnswer> {
    const key = keyOf(request);
    const kept = this.#cache.get(key);
    if (kept && kept.renewAt > this.#options.clock.elapsed() && kept.token.token !== o.refused) return kept.token;
    return untilAborted(
      this.#requests.join(key, () => this.#fetch(key, request)),
      o.signal,
    );
  }

  /** Gives this token no more. */
  drop(request: TokenRequest, token: string): void {
    const key = keyOf(request);
    if (this.#cache.get(key)?.token.token === token) this.#cache.delete(key);
  }

  async #fetch(key: string, request: TokenRequest): Promise<TokenAnswer> {
    const { name, clock, retries } = this.#options;
    const backoff = this.#options.backoffOf(request.realm.origin);
    const what = `${name}: token request`;
    const closed = backoff.refusal(what);
    if (closed) return closed;
    let credentials: Credentials | undefined;
    let withheld = false;
    try {
      // Once for all tries: a vault is not asked more often because a token endpoint fails.
      credentials = await readCredentials(this.#options.credentials, name);
      withheld = !request.trusted && credentials !== undefined;
    } catch (error) {
      if (request.trusted) return failureOfError(error, what, undefined);
      withheld = true;
    }
    if (withheld) credentials = undefined;
    for (let tries = 1; ; tries++) {
      const refused = backoff.refusal(what);
      if (refused) return refused;
      const { answer, again } = await this.#try(key, request, credentials, backoff, what, withheld);
      const delay = again === undefined ? undefined : retryDelay(tries, retries, Math.max(again, backoff.wait));
      if (delay === undefined) return answer;
      await pause(clock, delay);
    }
  }

  async #try(
    key: string,
    request: TokenRequest,
    credentials: Credentials | undefined,
    backoff: Backoff,
    what: string,
    withheld: boolean,
  ): Promise<Tried> {
    const { clock } = this.#options;
    const { host } = request.realm;
    try {
      const response = await this.#ask(request, credentials);
      backoff.read(response);
      const { status } = response;
      if (status !== 200) {
        discard(response);
        // No token endpoint where the challenge said there was one: that says nothing about the repository.
        if (status === 404) return { answer: unavailable(`${what}: answered 404`) };
        if (withheld && (status === 401 || status === 403)) return { answer: refusedWithout(host, what, status) };
        const retryAfter = parseRetryAfter(headerOf(response, "retry-after"), clock);
        const answer = failureOfStatus(status, what, retryAfter);
        return isTransient(status) && isRepeatable(credentials) ? { answer, again: (retryAfter ?? 0) * 1000 } : { answer };
      }
      const { token: text, lifetime } = readToken(parseJsonObject(await readCapped(response, bodyLimit)), clock);
      const token: Token = { kind: "token", token: text, ...(withheld && { withheldFrom: host }) };
      this.#cache.set(key, { token, renewAt: clock.elapsed() + lifetime - Math.min(lifetime / 10, renewEarlyLimit) });
      return { answer: token };
    } catch (error) {
      const answer = failureOfError(error, what, undefined);
      return faultOf(error) === "network" && isRepeatable(credentials) ? { answer, again: 0 } : { answer };
    }
  }

  async #ask(request: TokenRequest, credentials: Credentials | undefined): Promise<UpstreamResponse> {
    if (!credentials) return this.#get(request, undefined);
    if (!("identityToken" in credentials)) return this.#get(request, basicAuthorization(credentials.username, credentials.password));
    const response = await this.#post(request, credentials.identityToken);
    if (!noPostForm.has(response.status)) return response;
    discard(response);
    return this.#get(request, basicAuthorization(identityTokenUser, credentials.identityToken));
  }

  // Redirects are not followed: the realm is pinned, and its credentials with it.
  #get({ realm, service, scope }: TokenRequest, authorization: string | undefined): Promise<UpstreamResponse> {
    const query = new URLSearchParams(service === undefined ? {} : { service });
    for (const one of scope.split(" ").filter(Boolean)) query.append("scope", one);
    const url = new URL(realm);
    // The realm's own query stays as it is, byte for byte.
    url.search = [url.search.slice(1), query.toString()].filter(Boolean).join("&");
    const signal = AbortSignal.timeout(requestDeadline);
    return this.#options.transport.send({ method: "GET", url, authorization, follow: false, aside: true, signal });
  }

  #post({ realm, service, scope }: TokenRequest, identityToken: string): Promise<UpstreamResponse> {
    const form = new URLSearchParams({ grant_type: "refresh_token", client_id: clientId, refresh_token: identityToken });
    if (scope) form.set("scope", scope);
    if (service !== undefined) form.set("service", service);
    return this.#options.transport.send({
      method: "POST",
      url: realm,
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: form.toString(),
      follow: false,
      aside: true,
      signal: AbortSignal.timeout(requestDeadline),
    });
  }
}

function keyOf({ realm, service, scope }: TokenRequest): string {
  return JSON.stringify([realm.href, service ?? null, scope]);
}

/** @param realm the host of a token endpoint that got no credentials. */
export function refusedWithout(realm: string, what: string, status: number): RemoteError {
  return denied(
    `${what}: refused with ${status}; its tokens come from ${realm}, which gets no credentials of this registry: list that host in realmHosts if you trust it`,
  );
}

/** A GET; an identity token may be good for one POST. */
function isRepeatable(credentials: Credentials | undefined): boolean {
  return !credentials || !("identityToken" in credentials);
}

/**
 * The token and its lifetime in milliseconds, counted from local receipt. A token endpoint that caches gives tokens that were issued a while ago: what is past of their life is gone. Clocks may
 * disagree, so an `issued_at` in the future says nothing, and the shortest lifetime holds whatever it says.
 */
function readToken(body: Record<string, unknown>, clock: Clock): { token: string; lifetime: number } {
  // Docker's specification says `token`, OAuth2 says `access_token`; ACR sends only the latter.
  const token = [body.token, body.access_token].find((value) => typeof value === "string" && value !== "");
  // What is no visible ASCII would be refused as a header, in an error that may quote it.
  if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) throw new RemoteFailure("the answer holds no token");
  const issuedAt = typeof body.issued_at === "string" ? Date.parse(body.issued_at) : Number.NaN;
  const age = Number.isNaN(issuedAt) ? 0 : Math.max(0, clock.now() - issuedAt) / 1000;
  const seconds = Math.min(Number(body.expires_in) || 0, longestLifetime) - age;
  return { token, lifetime: 1000 * Math.max(seconds, shortestLifetime) };
}
