import { type Clock, systemClock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import type { CredentialFunction } from "../credentials.js";
import { urlOf, type VendorOptions } from "../options.js";
import { vendorRegistry } from "../remote-registry.js";
import type { RemoteRegistry } from "../upstream-status.js";

/** An entry of `authorizationData` in the answer to `GetAuthorizationToken`, or the password that `aws ecr get-login-password` prints. */
export type EcrAuthorization = string | { readonly authorizationToken?: string | undefined; readonly expiresAt?: Date | undefined };

export interface EcrOptions extends VendorOptions {
  /** Gives an authorization token. It is asked again before the token ends. Instead of `credentials`. */
  readonly authorizationToken?: () => EcrAuthorization | Promise<EcrAuthorization>;
}

/** In milliseconds: what AWS says of its tokens. */
const tokenLifetime = 12 * 3_600_000;

/**
 * A private registry of Amazon ECR: {@link remoteRegistry} with Basic credentials of twelve hours. Layers come from S3, where ECR redirects; when its private link is used, list
 * the addresses of S3's in `allowAddresses` if they are of another kind than ECR's.
 *
 * Options as for `remoteRegistry`, and `authorizationToken`.
 * @param registry its host, `<account>.dkr.ecr.<region>.amazonaws.com`, or URL.
 * @throws RegistryError UNKNOWN for options that cannot work.
 *
 * @example
 * ```ts
 * import { ecr } from "oci-manifold";
 * // With @aws-sdk/client-ecr: (await client.send(new GetAuthorizationTokenCommand({}))).authorizationData?.[0] ?? {}
 * const authorizationToken = async () => ({ authorizationToken: "QVdTOnBhc3N3b3Jk", expiresAt: new Date(Date.now() + 43_200_000) });
 * const registry = ecr("123456789012.dkr.ecr.eu-central-1.amazonaws.com", { authorizationToken });
 * await registry.close();
 * ```
 */
export function ecr(registry: string, options: EcrOptions = {}): RemoteRegistry {
  const { authorizationToken, ...rest } = options;
  if (!authorizationToken) return vendorRegistry(urlOf(registry), rest, {});
  if (rest.credentials) throw new RegistryError("UNKNOWN", "ecr takes credentials or authorizationToken, not both");
  const credentials = ecrCredentials(authorizationToken, rest.clock ?? systemClock);
  return vendorRegistry(urlOf(registry), { ...rest, credentials }, {});
}

function ecrCredentials(authorizationToken: NonNullable<EcrOptions["authorizationToken"]>, clock: Clock): CredentialFunction {
  return async () => {
    const given = await authorizationToken();
    const { authorizationToken: token, expiresAt } = typeof given === "string" ? { authorizationToken: given } : given;
    if (!token) throw new RegistryError("UNAVAILABLE", "there is no authorization token");
    // The API's token is base64 of "AWS:<password>"; the command prints the password alone.
    const decoded = Buffer.from(token, "base64").toString("utf8");
    const password = decoded.startsWith("AWS:") ? decoded.slice("AWS:".length) : token.trim();
    return { username: "AWS", password, expiresAt: expiresAt?.getTime() ?? clock.now() + tokenLifetime };
  };
}
