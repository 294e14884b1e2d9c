import { LRUCache } from "lru-cache";
import type { Lookup } from "../core/lookup.js";
import type { Page } from "../core/page.js";
import type { RecordTypes } from "../core/records.js";

/** A few hundred bytes each. The records of other tags are read again. */
const tags = 50_000;
/** Each costs the client that causes it a question, and a client asks for few names. */
const negatives = 10_000;
/** Of up to 1,000 names each. */
const pages = 500;
/** Pages of referrers have annotations, up to 4 MiB a page. */
const pageBytes = 64 * 1024 * 1024;
const images = 10_000;

/** An answer that there is nothing, and until when it counts. */
export interface NegativeAnswer {
  readonly lookup: Exclude<Lookup<never>, { kind: "found" }>;
  readonly until: number;
}

/**
 * What a cache remembers in memory, for all callers' parts together: a list of a fixed length takes its memory before it has an entry, and there may be a hundred
 * parts. Keys begin with the part's name.
 */
export interface CacheMemory {
  readonly freshness: LRUCache<string, RecordTypes["freshness"]>;
  readonly negatives: LRUCache<string, NegativeAnswer>;
  readonly pages: LRUCache<string, { readonly lookup: Extract<Lookup<Page<unknown>>, { kind: "found" }>; readonly at: number }>;
  /** Manifests whose blobs were brought, or are about to be. */
  readonly images: LRUCache<string, true>;
}

export function cacheMemory(): CacheMemory {
  return {
    freshness: new LRUCache({ max: tags }),
    negatives: new LRUCache({ max: negatives }),
    pages: new LRUCache({ max: pages, maxSize: pageBytes, sizeCalculation: ({ lookup }) => sizeOf(lookup.value.items) }),
    images: new LRUCache({ max: images }),
  };
}

/** What the items of a page take up, roughly. */
function sizeOf(items: readonly unknown[]): number {
  let size = 1000;
  for (const item of items) {
    if (typeof item === "string") size += item.length + 40;
    else size += 500 + sizeOfAnnotations((item as { readonly annotations?: Readonly<Record<string, string>> }).annotations);
  }
  return size;
}

function sizeOfAnnotations(annotations: Readonly<Record<string, string>> = {}): number {
  let size = 0;
  for (const key of Object.keys(annotations)) size += key.length + (annotations[key]?.length ?? 0) + 80;
  return size;
}
