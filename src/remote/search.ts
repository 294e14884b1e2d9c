/**
 * Search for upstreams whose registry API has none: `searchable` puts a search beside a registry, and `dockerHubSearch`, `quaySearch` and `harborSearch` are searches by the vendors' own
 * services.
 */
import { request } from "undici/index.js";
import { RegistryError } from "../core/errors.js";
import { found, type Lookup } from "../core/lookup.js";
import type { Page } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { Searchable, SearchResult, SearchSource } from "../core/search.js";
import { parseBaseUrl } from "./options.js";

/**
 * The same registry, searched by a service beside it. Put it around what is given to a connector as its source, so outside of a cache.
 *
 * @example
 * ```ts
 * import { cached, dockerHub } from "oci-manifold";
 * import { dockerHubSearch, searchable } from "oci-manifold/extend";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const hub = searchable(cached(dockerHub(), { storage: memoryStorage(), name: "hub" }), dockerHubSearch());
 * await hub.close();
 * ```
 */
export function searchable<R extends Registry>(registry: R, search: SearchSource): R & Searchable {
  // The same object, so that mounts from it and its holders are recognised.
  return Object.assign(registry, { search });
}

/** How a search service is reached. */
export interface SearchServiceOptions {
  /** Another base URL, for a mirror, a service of one's own or a test. */
  readonly url?: string;
  /** The value of an Authorization header, asked for with every search. Default: anonymous, which finds what is public. */
  readonly authorization?: () => string | undefined | Promise<string | undefined>;
}

/** A page of a search is some KiB; more than this is none. */
const bodyLimit = 4 * 1024 * 1024;
const timeout = 10_000;
/** Docker Hub gives no more at a time. */
const largestPage = 100;

type Json = Readonly<Record<string, unknown>>;

/**
 * Searches Docker Hub by the API of its web site, since its registry has none. Official images are found under `library/`.
 *
 * @example
 * ```ts
 * import { dockerHubSearch } from "oci-manifold/extend";
 * const search = dockerHubSearch();
 * console.log(typeof search); // (await search("redis", { limit: 25 })) finds library/redis, bitnami/redis, …
 * ```
 */
export function dockerHubSearch({ url = "https://hub.docker.com", authorization }: SearchServiceOptions = {}): SearchSource {
  const base = parseBaseUrl(url);
  return (text, { after, limit }, o) => {
    const size = Math.min(limit, largestPage);
    const at = new URL("/v2/search/repositories/", base);
    const page = pageNumber(after);
    at.search = new URLSearchParams({ query: text, page: String(page), page_size: String(size) }).toString();
    return ask("Docker Hub", at, authorization, o, (answer) => {
      const items = objects(answer.results).flatMap((one): SearchResult[] => {
        const name = textOf(one.repo_name);
        if (name === undefined) return [];
        return [
          { repository: name.includes("/") ? name : `library/${name}`, ...described(one.short_description), ...starred(one.star_count) },
        ];
      });
      return { items, ...(textOf(answer.next) !== undefined && { next: String(page + 1) }) };
    });
  };
}

/**
 * Searches Quay, `quay.io` or one of one's own.
 *
 * @example
 * ```ts
 * import { quaySearch } from "oci-manifold/extend";
 * const search = quaySearch({ url: "https://quay.example" });
 * console.log(typeof search);
 * ```
 */
export function quaySearch({ url = "https://quay.io", authorization }: SearchServiceOptions = {}): SearchSource {
  const base = parseBaseUrl(url);
  return (text, { after }, o) => {
    const page = pageNumber(after);
    const at = new URL("/api/v1/find/repositories", base);
    at.search = new URLSearchParams({ query: text, page: String(page) }).toString();
    return ask("Quay", at, authorization, o, (answer) => {
      const items = objects(answer.results).flatMap((one): SearchResult[] => {
        const [namespace] = objects([one.namespace]);
        const [owner, name] = [textOf(namespace?.name), textOf(one.name)];
        if (owner === undefined || name === undefined) return [];
        return [{ repository: `${owner}/${name}`, ...described(one.description), ...starred(one.stars) }];
      });
      return { items, ...(answer.has_additional === true && { next: String(page + 1) }) };
    });
  };
}

/**
 * Searches Harbor. It answers all in one page.
 *
 * @example
 * ```ts
 * import { harborSearch } from "oci-manifold/extend";
 * const search = harborSearch({ url: "https://harbor.example" });
 * console.log(typeof search);
 * ```
 */
export function harborSearch({ url, authorization }: SearchServiceOptions & { readonly url: string }): SearchSource {
  const base = parseBaseUrl(url);
  return (text, { after = "", limit }, o) => {
    const at = new URL("/api/v2.0/search", base);
    at.search = new URLSearchParams({ q: text }).toString();
    return ask("Harbor", at, authorization, o, (answer) => {
      const names = objects(answer.repository).flatMap((one) => textOf(one.repository_name) ?? []);
      const rest = [...new Set(names)].sort().filter((name) => name > after);
      const items = rest.slice(0, limit).map((repository): SearchResult => ({ repository }));
      return { items, ...(rest.length > limit && limit > 0 && { next: items.at(-1)?.repository ?? after }) };
    });
  };
}

async function ask(
  service: string,
  url: URL,
  authorization: SearchServiceOptions["authorization"],
  o: CallOptions | undefined,
  read: (answer: Json) => Page<SearchResult>,
): Promise<Lookup<Page<SearchResult>>> {
  const failed = (why: string, cause?: unknown, code: "UNAVAILABLE" | "TOOMANYREQUESTS" | "DENIED" = "UNAVAILABLE"): Lookup<never> => ({
    kind: code === "DENIED" ? "denied" : "unavailable",
    error: new RegistryError(code, `${service} could not be searched: ${why}`, { cause }),
  });
  const signals = [AbortSignal.timeout(timeout), ...(o?.signal ? [o.signal] : [])];
  try {
    const credentials = await authorization?.();
    // Redirects are not followed: they could lead the credentials anywhere.
    const response = await request(url, {
      headers: {
        accept: "application/json",
        "user-agent": "oci-manifold",
        ...(credentials !== undefined && { authorization: credentials }),
      },
      signal: AbortSignal.any(signals),
    });
    if (response.statusCode !== 200) {
      response.body.dump().catch(() => {});
      if (response.statusCode === 429) return failed("it asks for fewer requests", undefined, "TOOMANYREQUESTS");
      if (response.statusCode === 401 || response.statusCode === 403) return failed("it refuses", undefined, "DENIED");
      return failed(`it answers ${response.statusCode}`);
    }
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of response.body) {
      size += chunk.length;
      if (size > bodyLimit) return failed("its answer is too large");
      chunks.push(chunk);
    }
    const [answer] = objects([JSON.parse(Buffer.concat(chunks).toString("utf8"))]);
    return answer ? found(read(answer), { member: [service] }) : failed("its answer is not understood");
  } catch (cause) {
    o?.signal?.throwIfAborted();
    return failed(cause instanceof SyntaxError ? "its answer is not understood" : "it cannot be reached", cause);
  }
}

function objects(value: unknown): Json[] {
  return Array.isArray(value) ? value.filter((one): one is Json => typeof one === "object" && one !== null && !Array.isArray(one)) : [];
}

function textOf(value: unknown): string | undefined {
  return typeof value === "string" && value !== "" ? value : undefined;
}

function described(value: unknown): { description?: string } {
  const description = textOf(value);
  return description === undefined ? {} : { description };
}

function starred(value: unknown): { stars?: number } {
  return typeof value === "number" && Number.isFinite(value) ? { stars: value } : {};
}

function pageNumber(after: string | undefined): number {
  const page = Number(after ?? "1");
  return Number.isInteger(page) && page > 0 ? page : 1;
}
