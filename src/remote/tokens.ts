import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import { untilAborted } from "../core/until-aborted.js";
import { parseJsonObject, readCapped } from "./capped-body.js";
import { basicAuthorization, type CredentialSource, type Credentials, readCredentials } from "./credentials.js";
import { type Failure, failureOfError, failureOfStatus, parseRetryAfter, RemoteFailure, unavailable } from "./failures.js";
import type { TokenRequest } from "./token-realm.js";
import { discard, headerOf, type Transport, type UpstreamResponse } from "./transport.js";

export type TokenAnswer = { readonly kind: "token"; readonly token: string } | Failure;

export interface TokenClientOptions {
  /** The registry's name, for messages. */
  readonly name: string;
  readonly credentials: CredentialSource | undefined;
  readonly transport: Transport;
  readonly clock: Clock;
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
/** Docker's stand-in for a user name where the password is an identity token. */
const identityTokenUser = "<token>";
/** Endpoints without the POST form: GCR answered 404, others 405, Artifactory 401 (found by containerd). */
const noPostForm: ReadonlySet<number> = new Set([401, 404, 405]);

/**
 * Fetches and keeps the access tokens of one registry. Its origin and credential source are fixed, so realm, service and scope make the cache
 * key. Concurrent requests for one token share one flight.
 */
export class TokenClient {
  readonly #cache = new LRUCache<string, { readonly token: string; readonly renewAt: number }>({ max: cacheLimit });
  readonly #flights = new Map<string, Promise<TokenAnswer>>();
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
    const key = JSON.stringify([request.realm.href, request.service ?? null, request.scope]);
    const kept = this.#cache.get(key);
    if (kept && kept.renewAt > this.#options.clock.now() && kept.token !== o.refused) return { kind: "token", token: kept.token };
    let flight = this.#flights.get(key);
    if (!flight) {
      flight = this.#fetch(key, request).finally(() => this.#flights.delete(key));
      this.#flights.set(key, flight);
    }
    return untilAborted(flight, o.signal);
  }

  async #fetch(key: string, request: TokenRequest): Promise<TokenAnswer> {
    const { name, clock } = this.#options;
    const what = `${name}: token request`;
    try {
      const response = await this.#ask(request, await readCredentials(this.#options.credentials, name));
      if (response.status !== 200) {
        discard(response);
        // No token endpoint where the challenge said there was one: that says nothing about the repository.
        if (response.status === 404) return unavailable(`${what}: answered 404`);
        return failureOfStatus(response.status, what, parseRetryAfter(headerOf(response, "retry-after"), clock));
      }
      const { token, lifetime } = readToken(parseJsonObject(await readCapped(response, bodyLimit)));
      this.#cache.set(key, { token, renewAt: clock.now() + lifetime - Math.min(lifetime / 10, renewEarlyLimit) });
      return { kind: "token", token };
    } catch (error) {
      return failureOfError(error, what, undefined);
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
    return this.#options.transport.send({ method: "GET", url, authorization, follow: false, signal: AbortSignal.timeout(requestDeadline) });
  }

  #post({ realm, service, scope }: TokenRequest, identityToken: string): Promise<UpstreamResponse> {
    const form = new URLSearchParams({ grant_type: "refresh_token", client_id: clientId, scope, refresh_token: identityToken });
    if (service !== undefined) form.set("service", service);
    return this.#options.transport.send({
      method: "POST",
      url: realm,
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body: form.toString(),
      follow: false,
      signal: AbortSignal.timeout(requestDeadline),
    });
  }
}

/** The token and its lifetime in milliseconds, counted from local receipt: `issued_at` is by the upstream's clock. */
function readToken(body: Record<string, unknown>): { token: string; lifetime: number } {
  // Docker's specification says `token`, OAuth2 says `access_token`; ACR sends only the latter.
  const token = [body.token, body.access_token].find((value) => typeof value === "string" && value !== "");
  // What is no visible ASCII would be refused as a header, in an error that may quote it.
  if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) throw new RemoteFailure("the answer holds no token");
  const seconds = Number(body.expires_in) || 0;
  return { token, lifetime: 1000 * Math.min(Math.max(seconds, shortestLifetime), longestLifetime) };
}
