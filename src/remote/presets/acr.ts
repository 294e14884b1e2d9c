import type { Clock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import type { CredentialFunction, Credentials } from "../credentials.js";
import { RemoteFailure } from "../failures.js";
import { urlOf, type VendorOptions } from "../options.js";
import { type VendorParts, vendorRegistry } from "../remote-registry.js";
import { discard, parseJsonObject, readCapped, type Transport } from "../transport.js";
import type { RemoteRegistry } from "../upstream-status.js";

export interface AcrOptions extends VendorOptions {
  /** Gives an access token of Entra ID (Azure AD), as `getToken()` of @azure/identity does. Instead of `credentials`. */
  readonly aadAccessToken?: () => string | { readonly token: string } | Promise<string | { readonly token: string }>;
  /** The directory the token is from. Default: the registry finds out. */
  readonly tenant?: string;
}

/** In milliseconds. Refresh tokens are good for three hours. */
const refreshTokenLifetime = 3_600_000;
/** In milliseconds. */
const exchangeDeadline = 60_000;
const bodyLimit = 1024 * 1024;

/**
 * An Azure container registry: {@link remoteRegistry} that exchanges an access token of Entra ID for a refresh token of the registry (`/oauth2/exchange`), and that for the access
 * tokens it asks for (`/oauth2/token`). A service principal, a token or the admin user log in by `credentials`.
 *
 * Options as for `remoteRegistry`, and `aadAccessToken`, `tenant`.
 * @param registry its host, `<name>.azurecr.io`, or URL.
 * @throws RegistryError UNKNOWN for options that cannot work.
 *
 * @example
 * ```ts
 * import { acr } from "oci-manifold";
 * // With @azure/identity: () => new DefaultAzureCredential().getToken("https://containerregistry.azure.net/.default")
 * const registry = acr("team.azurecr.io", { aadAccessToken: async () => process.env.AAD_TOKEN ?? "" });
 * await registry.close();
 * ```
 */
export function acr(registry: string, options: AcrOptions = {}): RemoteRegistry {
  const { aadAccessToken, tenant, ...rest } = options;
  if (!aadAccessToken) return vendorRegistry(urlOf(registry), rest, {});
  if (rest.credentials) throw new RegistryError("UNKNOWN", "acr takes credentials or aadAccessToken, not both");
  const credentials = (parts: VendorParts) => exchanged(aadAccessToken, tenant, parts);
  return vendorRegistry(urlOf(registry), rest, { credentials });
}

/** Refresh tokens of the registry, one for all who ask until it ends. */
function exchanged(
  aadAccessToken: NonNullable<AcrOptions["aadAccessToken"]>,
  tenant: string | undefined,
  { origin, transport, clock }: VendorParts,
): CredentialFunction {
  let kept: { readonly given: Promise<Credentials>; readonly until: number } | undefined;
  const ask = async () => {
    const given = await aadAccessToken();
    const token = typeof given === "string" ? given : given.token;
    return exchange(transport, origin, { access_token: token, ...(tenant !== undefined && { tenant }) }, clock);
  };
  return () => {
    if (kept && kept.until > clock.elapsed()) return kept.given;
    const given = ask();
    const current = { given, until: clock.elapsed() + refreshTokenLifetime };
    kept = current;
    given.catch(() => {
      if (kept === current) kept = undefined;
    });
    return given;
  };
}

/** @throws RemoteFailure that says what the registry answered; whatever the network throws. */
async function exchange(transport: Transport, origin: URL, fields: Record<string, string>, clock: Clock): Promise<Credentials> {
  const response = await transport.send({
    method: "POST",
    url: new URL("/oauth2/exchange", origin),
    headers: { "content-type": "application/x-www-form-urlencoded" },
    body: new URLSearchParams({ grant_type: "access_token", service: origin.host, ...fields }).toString(),
    follow: false,
    aside: true,
    signal: AbortSignal.timeout(exchangeDeadline),
  });
  if (response.status !== 200) {
    discard(response);
    throw new RemoteFailure(`the registry did not take the access token: answered ${response.status}`);
  }
  const { refresh_token: identityToken } = parseJsonObject(await readCapped(response, bodyLimit));
  if (typeof identityToken !== "string" || identityToken === "") throw new RemoteFailure("the registry gave no refresh token");
  return { identityToken, expiresAt: clock.now() + refreshTokenLifetime };
}
