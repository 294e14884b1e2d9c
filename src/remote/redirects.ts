/** Registries need one or two (registry.k8s.io: registry to regional mirror to bucket); ten is what fetch and curl users expect. */
export const redirectLimit = 10;

const redirectStatuses: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

export function isRedirect(status: number): boolean {
  return redirectStatuses.has(status);
}

/**
 * Where a redirect leads, or why it is not followed. The reason never holds the target: it may be a signed URL.
 */
export function redirectTarget(from: URL, location: string | undefined): { readonly url: URL } | { readonly refused: string } {
  if (location === undefined) return { refused: "a redirect without a Location" };
  if (!URL.canParse(location, from.href)) return { refused: "a redirect to something that is no URL" };
  const url = new URL(location, from);
  if (url.protocol !== "https:" && url.protocol !== "http:") return { refused: "a redirect to a scheme other than http and https" };
  if (from.protocol === "https:" && url.protocol === "http:") return { refused: "a redirect from https to http" };
  if (url.username || url.password) return { refused: "a redirect to a URL with credentials in it" };
  return { url };
}

/**
 * Why a redirect of a write is not followed, if it is not: another status than 307 and 308 would turn it into a GET, another origin is not the registry that
 * the caller meant to write to, and a streamed body is gone.
 */
export function refusalOfWriteRedirect(status: number, from: URL, to: URL, streamed: boolean): string | undefined {
  if (status !== 307 && status !== 308) return `a write was redirected with ${status}, which would drop its content`;
  if (to.origin !== from.origin) return "a write was redirected to another origin";
  return streamed ? "a streamed body was redirected, and cannot be sent a second time" : undefined;
}
