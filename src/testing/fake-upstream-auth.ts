import { randomBytes } from "node:crypto";
import type { FakeReply, FakeRequest } from "./fake-upstream-faults.js";

/** How a fake upstream asks who is there. */
export type FakeAuth =
  | { readonly kind: "none" }
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  | {
      readonly kind: "bearer";
      /** Asked of the token endpoint by Basic; absent: anonymous tokens. */
      readonly username?: string;
      readonly password?: string;
      /** Taken by the token endpoint's POST form. Absent: POST answers 405. */
      readonly identityToken?: string;
      /** Seconds, sent as `expires_in`; absent: not sent, and tokens last a minute. */
      readonly lifetime?: number;
      /** Default: the server's own `/token`. */
      readonly realm?: string;
    };

/** Issues and checks the tokens of a fake upstream. */
export class FakeTokens {
  auth: FakeAuth;
  /** How many tokens were given out. */
  issued = 0;
  readonly #scopes = new Map<string, readonly string[]>();

  constructor(auth: FakeAuth) {
    this.auth = auth;
  }

  /** Every token given out so far is refused from now on. */
  revoke(): void {
    this.#scopes.clear();
  }

  /** The 401 for a request without the right credentials, or `undefined` when it may go on. */
  challenge(request: FakeRequest, scope: string, origin: string): FakeReply | undefined {
    const { auth } = this;
    const sent = request.headers.authorization;
    if (auth.kind === "none") return undefined;
    if (auth.kind === "basic") {
      return sent === basic(auth.username, auth.password) ? undefined : refusal('Basic realm="fake upstream"');
    }
    const token = sent?.startsWith("Bearer ") ? sent.slice(7) : "";
    if (this.#scopes.get(token)?.includes(scope)) return undefined;
    return refusal(`Bearer realm="${auth.realm ?? `${origin}/token`}",service="fake-upstream",scope="${scope}"`);
  }

  /** Answers `/token`, GET and POST. */
  issue(request: FakeRequest, form: string): FakeReply {
    const { auth } = this;
    if (auth.kind !== "bearer") return reply(404, {});
    const fields = request.method === "POST" ? new URLSearchParams(form) : new URL(request.url, "http://fake").searchParams;
    if (request.method === "POST") {
      if (auth.identityToken === undefined) return reply(405, {});
      if (fields.get("refresh_token") !== auth.identityToken) return reply(401, {});
    } else if (auth.username !== undefined && request.headers.authorization !== basic(auth.username, auth.password ?? "")) {
      return reply(401, {});
    }
    const token = `fake-${randomBytes(16).toString("hex")}`;
    this.#scopes.set(
      token,
      fields.getAll("scope").flatMap((scope) => scope.split(" ")),
    );
    this.issued++;
    return reply(200, { [request.method === "POST" ? "access_token" : "token"]: token, expires_in: auth.lifetime });
  }
}

function basic(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
}

function refusal(challenge: string): FakeReply {
  const { status, headers, body } = reply(401, { errors: [{ code: "UNAUTHORIZED", message: "authentication required" }] });
  return { status, headers: { ...headers, "www-authenticate": challenge }, body };
}

function reply(status: number, value: object): FakeReply {
  const body = Buffer.from(JSON.stringify(value));
  return { status, headers: { "content-type": "application/json", "content-length": String(body.byteLength) }, body };
}
