/** What part of a listing is wanted. */
export interface PageRequest {
  /** Exclusive; need not exist. From the beginning when left out. */
  readonly after?: string;
  /** The most items wanted. Of 0 the page is empty, and the last. */
  readonly limit: number;
}

/** One page of a listing, in ASCII order. */
export interface Page<T> {
  readonly items: readonly T[];
  /** Pass it as `after` for the next page; absent on the last. */
  readonly next?: string;
  /** Sentences that say, for example, that the listing is not complete. HTTP clients get them as `Warning` headers. */
  readonly warnings?: readonly string[];
}

/**
 * Every item of a paged listing, one page in memory at a time.
 * @param limit how many items are asked for at a time.
 * @param warned sees the warnings of each page, such as that the listing is not complete.
 */
export async function* allPages<T>(
  list: (request: PageRequest) => Promise<Page<T>>,
  limit = 1000,
  warned: (warning: string) => void = () => {},
): AsyncGenerator<T> {
  let after: string | undefined;
  do {
    const page: Page<T> = await list({ limit, ...(after !== undefined && { after }) });
    page.warnings?.forEach(warned);
    yield* page.items;
    after = page.next;
  } while (after !== undefined);
}

/** A page from up to `limit + 1` items in order: the one too many only says that there is more. */
export function pageOf<T>(items: readonly T[], limit: number, name: (item: T) => string): Page<T> {
  if (items.length <= limit) return { items };
  const kept = items.slice(0, Math.max(0, limit));
  const last = kept.at(-1);
  return last === undefined ? { items: kept } : { items: kept, next: name(last) };
}

/**
 * The first names of a listing that has no order, in ASCII order. All of it is read, and no more than twice the limit is in memory.
 * @param name `undefined` for what is not wanted.
 */
export async function firstOf<T>(
  entries: AsyncIterable<T>,
  { after = "", limit }: PageRequest,
  name: (entry: T) => string | undefined,
): Promise<string[]> {
  let names: string[] = [];
  let last: string | undefined;
  for await (const entry of entries) {
    const found = name(entry);
    if (found === undefined || found <= after || (last !== undefined && found >= last)) continue;
    names.push(found);
    if (names.length < 2 * limit) continue;
    names = names.sort().slice(0, limit);
    last = names.at(-1);
  }
  return names.sort().slice(0, limit);
}
