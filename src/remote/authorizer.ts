import { LRUCache } from "lru-cache";
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
  readonly credentials: CredentialSource | undefined;
  readonly tokens: TokenClient;
}

/** How a scope's requests were challenged last: the next one is sent with its answer at once. */
type Remembered = { readonly scheme: "bearer"; readonly request: TokenRequest } | { readonly scheme: "basic" };

/** The value for an Authorization header; none means anonymous. */
export type Authorization = { readonly kind: "ready"; readonly value: string | undefined } | Failure;

/** As many scopes as there are tokens kept. */
const rememberedLimit = 1000;

/** Answers the challenges of one registry. It must be shown only responses that came from the registry's own origin. */
export class Authorizer {
  readonly #remembered = new LRUCache<string, Remembered>({ max: rememberedLimit });
  readonly #options: AuthorizerOptions;

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
    return { scheme: "bearer", request: readTokenRequest(challenge, this.#options.origin, this.#options.realmHosts, scope) };
  }

  async #authorize(remembered: Remembered, refused: string | undefined, signal: AbortSignal | undefined): Promise<Authorization> {
    if (remembered.scheme === "basic") return this.#basic(signal);
    const answer = await this.#options.tokens.get(remembered.request, { signal, refused: refused?.replace(/^Bearer /, "") });
    return answer.kind === "token" ? { kind: "ready", value: `Bearer ${answer.token}` } : answer;
  }

  async #basic(signal: AbortSignal | undefined): Promise<Authorization> {
    const { name } = this.#options;
    try {
      const credentials = await untilAborted(readCredentials(this.#options.credentials, name), signal);
      if (!credentials) return denied(`${name}: refused with 401; it asks for a user name and password, and there are no credentials`);
      if ("identityToken" in credentials)
        return denied(`${name}: it asks for a user name and password, and the credentials are an identity token`);
      return { kind: "ready", value: basicAuthorization(credentials.username, credentials.password) };
    } catch (error) {
      return failureOfError(error, name, signal);
    }
  }
}
