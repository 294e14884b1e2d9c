import { absent, found, type Lookup } from "../core/lookup.js";
import type { Page, PageRequest } from "../core/page.js";
import { type RecordKind, recordKey } from "../core/records.js";
import type { Partition } from "./partition.js";

export class LocalListings {
  readonly #in: Partition;

  constructor(partition: Partition) {
    this.#in = partition;
  }

  async tags(repository: string, request: PageRequest): Promise<Lookup<Page<string>>> {
    const page = await this.#page("tag", [repository], request);
    if (page.items.length === 0 && !(await this.#in.metadata.get(recordKey.repository(this.#in.name, repository)))) return absent;
    return found(page, this.#in.served);
  }

  async repositories(request: PageRequest): Promise<Lookup<Page<string>>> {
    return found(await this.#page("repository", [], request), this.#in.served);
  }

  /** One name more than wanted is read, to know whether there is a next page. */
  async #page(kind: RecordKind, under: readonly string[], { limit, after }: PageRequest): Promise<Page<string>> {
    if (limit === 0) return { items: [] };
    const range = { kind, under: [this.#in.name, ...under], limit: limit + 1, ...(after !== undefined && { after }) };
    const names = await this.#in.metadata.names(range);
    if (names.length <= limit) return { items: names };
    const items = names.slice(0, limit);
    return { items, next: items[limit - 1] ?? "" };
  }
}
