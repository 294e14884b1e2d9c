import { RegistryError } from "../core/errors.js";

/** A user and password (or access token), or an identity (refresh) token that is exchanged for access tokens by the OAuth2 form of the token endpoint. */
export type Credentials = { readonly username: string; readonly password: string } | { readonly identityToken: string };

/**
 * Credentials, or where they come from: a function is called whenever a token is fetched or Basic is answered, so what it gives may
 * change (ECR passwords live twelve hours). `undefined` means anonymous.
 */
export type CredentialSource = Credentials | (() => Credentials | undefined | Promise<Credentials | undefined>);

/**
 * What the source gives now.
 * @throws RegistryError UNAVAILABLE when the source throws or gives something else. Its own error is not passed on: vault clients put
 *   tokens into their messages.
 */
export async function readCredentials(source: CredentialSource | undefined, registry: string): Promise<Credentials | undefined> {
  if (typeof source !== "function") return source;
  let credentials: Credentials | undefined;
  try {
    credentials = await source();
  } catch {
    throw new RegistryError("UNAVAILABLE", `the credentials for ${registry} could not be read: the given function failed`);
  }
  if (credentials === undefined || credentials === null || isCredentials(credentials)) return credentials ?? undefined;
  throw new RegistryError("UNAVAILABLE", `the credentials for ${registry} could not be read: the given function answered no credentials`);
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
