import { LRUCache } from "lru-cache";
import type { Clock } from "../core/clock.js";
import { untilAborted } from "../core/until-aborted.js";
import { type Challenge, parseChallenges, preferredChallenge } from "./challenge.js";
import { basicAuthorization, type CredentialSource, readCredentials } from "./credentials.js";
import { denied, type Failure, failureOfError } from "./failures.js";
import { readTokenRequest, type TokenRequest } from "./token-realm.js";
import type { TokenClient } from "./tokens.js";

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

/** How a scope's requests were challenged last: the next one is sent with its answer at once. */
type Remembered = { readonly scheme: "bearer"; readonly request: TokenRequest } | { readonly scheme: "basic" };

/** The value for an Authorization header; none means anonymous. */
export type Authorization = { readonly kind: "ready"; readonly value: string | undefined } | Failure;

/** As many scopes as there are tokens kept. */
const rememberedLimit = 1000;
/** In milliseconds. Basic goes with every request, and vaults limit how often they are asked. A password that changes earlier is shown by a 401. */
const basicLifetime = 300_000;

/** Answers the challenges of one registry. It must be shown only responses that came from the registry's own origin. */
export class Authorizer {
  readonly #remembered = new LRUCache<string, Remembered>({ max: rememberedLimit });
  readonly #options: AuthorizerOptions;
  #basicKept: { readonly value: string; readonly renewAt: number } | undefined;
  #basicFlight: Promise<Authorization> | undefined;

  constructor(options: AuthorizerOptions) {
    this.#options = options;
  }

  /** What to send first: nothing, until a request of this scope has been challenged. */
  async prepare(scope: string, signal: AbortSignal | undefined): Promise<Authorization> {
    const remembered = this.#remembered.get(scope);
    return remembered ? this.#authorize(remembered, undefined, signal) : { kind: "ready", value: undefined };
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
      return failureOfError(error, name, signal);
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
    const answer = await this.#options.tokens.get(remembered.request, { signal, refused: refused?.replace(/^Bearer /, "") });
    return answer.kind === "token" ? { kind: "ready", value: `Bearer ${answer.token}` } : answer;
  }

  /** @param refused is not given again, unless the source has nothing else. */
  async #basic(refused: string | undefined, signal: AbortSignal | undefined): Promise<Authorization> {
    const kept = this.#basicKept;
    if (kept && kept.value !== refused && kept.renewAt > this.#options.clock.now()) return { kind: "ready", value: kept.value };
    this.#basicFlight ??= this.#readBasic().finally(() => {
      this.#basicFlight = undefined;
    });
    return untilAborted(this.#basicFlight, signal);
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
      this.#basicKept = { value, renewAt: clock.now() + renewIn };
      return { kind: "ready", value };
    } catch (error) {
      return failureOfError(error, name, undefined);
    }
  }
}
