import type { Platform } from "./descriptor.js";

/** Whether a child of an index says which platform it is for. BuildKit lists attestations under the platform `unknown/unknown`; nested indexes often have none. */
export function namesPlatform(platform: Platform | undefined): platform is Platform {
  return platform !== undefined && Boolean(platform.os) && platform.os !== "unknown";
}

/** Whether a platform is one of those wanted, each written as `os/architecture`, for all its variants, or as `os/architecture/variant`. */
export function isOneOf({ os, architecture, variant }: Platform, wanted: readonly string[]): boolean {
  return wanted.includes(`${os}/${architecture}`) || (variant !== undefined && wanted.includes(`${os}/${architecture}/${variant}`));
}

/** `os/architecture` or `os/architecture/variant`, for people; `undefined` where there is no platform to tell. */
export function platformName(platform: Platform | undefined): string | undefined {
  if (!namesPlatform(platform) || !platform.architecture) return undefined;
  const { os, architecture, variant } = platform;
  return [os, architecture, ...(variant ? [variant] : [])].join("/");
}
