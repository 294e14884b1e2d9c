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
  readonly warnings?: readonly string[];
}

/** Every item of a paged listing, one page in memory at a time. */
export async function* allPages<T>(list: (request: PageRequest) => Promise<Page<T>>, limit = 1000): AsyncGenerator<T> {
  let after: string | undefined;
  do {
    const page: Page<T> = await list({ limit, ...(after !== undefined && { after }) });
    yield* page.items;
    after = page.next;
  } while (after !== undefined);
}
