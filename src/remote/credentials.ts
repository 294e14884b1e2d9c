import { RegistryError } from "../core/errors.js";
import { untilAborted } from "../core/until-aborted.js";
import { RemoteFailure } from "./failures.js";

/** A user and password (or access token), or an identity (refresh) token that is exchanged for access tokens by the OAuth2 form of the token endpoint. */
export type Credentials = ({ readonly username: string; readonly password: string } | { readonly identityToken: string }) & {
  /** Milliseconds since the epoch; `status()` tells it, and a function is asked again before. */
  readonly expiresAt?: number;
};

/** The user name that says that the password is an identity token, for Docker's credential helpers and for token endpoints alike. */
export const identityTokenUser = "<token>";

/** In milliseconds. Reads wait for the function, so one that has not answered by then has failed. */
const answerTimeout = 60_000;

/** What credentials are wanted for. */
export interface CredentialRequest {
  /** The host as in the registry's URL, with its port; `docker.io` for Docker Hub. */
  readonly registry: string;
}

/** Called whenever a token is fetched. For Basic what it gives is kept for five minutes or until its `expiresAt`, but not beyond a 401. */
export type CredentialFunction = (request: CredentialRequest) => Credentials | undefined | Promise<Credentials | undefined>;

/** Credentials, or a function, so that they may change (ECR passwords live twelve hours). `undefined` means anonymous. */
export type CredentialSource = Credentials | CredentialFunction;

/** A source for one registry, and when what it gave last ends. */
export function credentialsFor(
  source: CredentialSource | undefined,
  registry: string,
): { readonly credentials: CredentialSource | undefined; expiresAt(): number | undefined } {
  if (typeof source !== "function") return { credentials: source, expiresAt: () => source?.expiresAt };
  let expiresAt: number | undefined;
  const credentials = async () => {
    const given = await source({ registry });
    expiresAt = typeof given?.expiresAt === "number" ? given.expiresAt : undefined;
    return given;
  };
  return { credentials, expiresAt: () => expiresAt };
}

/**
 * What the source gives now.
 * @param name the registry's, for messages.
 * @throws RegistryError UNAVAILABLE when the source throws or gives something else. Its own error is not passed on: vault clients put
 *   tokens into their messages. RemoteFailure when a source of this library says what is wrong.
 */
export async function readCredentials(source: CredentialSource | undefined, name: string): Promise<Credentials | undefined> {
  if (typeof source !== "function") return source;
  let credentials: Credentials | undefined;
  try {
    credentials = await untilAborted(Promise.resolve(source({ registry: name })), AbortSignal.timeout(answerTimeout));
  } catch (error) {
    if (error instanceof RemoteFailure) throw error;
    throw new RegistryError("UNAVAILABLE", `the credentials for ${name} could not be read: the given function failed`);
  }
  if (credentials === undefined || credentials === null || isCredentials(credentials)) return credentials ?? undefined;
  throw new RegistryError("UNAVAILABLE", `the credentials for ${name} could not be read: the given function answered no credentials`);
}

export function isCredentials(value: unknown): value is Credentials {
  if (typeof value !== "object" || value === null) return false;
  const { username, password, identityToken } = value as Record<string, unknown>;
  return typeof identityToken === "string" || (typeof username === "string" && typeof password === "string");
}

/** The value of an Authorization header. (RFC 7617) */
export function basicAuthorization(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`, "utf8").toString("base64")}`;
}
