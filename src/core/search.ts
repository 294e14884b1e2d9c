import type { Lookup } from "./lookup.js";
import type { Page, PageRequest } from "./page.js";
import type { CallOptions } from "./registry.js";

/** One repository that a search found. */
export interface SearchResult {
  readonly repository: string;
  /** Which member has it; `local` for the aggregate's own registry. Absent where there are no members. */
  readonly member?: string;
  /** Something of it is kept here, so it can be pulled while its source is down. */
  readonly cached?: boolean;
  readonly description?: string;
  readonly stars?: number;
}

/** Searches by a service of its own, beside the registry's API. What a page's `next` means is the service's business. */
export type SearchSource = (text: string, page: PageRequest, o?: CallOptions) => Promise<Lookup<Page<SearchResult>>>;

/** What can be searched for names of repositories. */
export interface Searchable {
  readonly search: SearchSource;
}

export function isSearchable(value: object): value is Searchable {
  return "search" in value && typeof value.search === "function";
}

/** A repository's name that a member gave. */
export interface KnownName {
  readonly repository: string;
  readonly member: string;
  /** Milliseconds since the epoch, to the day. */
  readonly lastSeenAt: number;
}

/** Remembers the names that members of an aggregate gave, since some of them cannot list theirs. */
export interface NameIndex {
  /** Cheap to call for every answer: a name is written when it is new, another member's, or was seen a day ago. */
  note(member: string, repositories: readonly string[]): Promise<void>;
  /** In ASCII order. */
  list(page: PageRequest): Promise<Page<KnownName>>;
}
