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
