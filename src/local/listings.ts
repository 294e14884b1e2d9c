import { absent, found, type Lookup } from "../core/lookup.js";
import type { RecordItem } from "../core/metadata-store.js";
import type { Page, PageRequest } from "../core/page.js";
import { type RecordKind, recordKey } from "../core/records.js";
import type { Partition } from "./partition.js";

export class LocalListings {
  readonly #in: Partition;

  constructor(partition: Partition) {
    this.#in = partition;
  }

  async tags(repository: string, request: PageRequest): Promise<Lookup<Page<string>>> {
    const page = await this.#page("tag", [repository], request, (item) => item.key.parts[2]);
    if (page.items.length === 0 && !(await this.#in.metadata.get(recordKey.repository(this.#in.name, repository)))) return absent;
    return found(page, this.#in.served);
  }

  async repositories(request: PageRequest): Promise<Lookup<Page<string>>> {
    return found(await this.#page("repository", [], request, (item) => item.key.parts[1]), this.#in.served);
  }

  /** One item more than wanted is read, to know whether there is a next page. */
  async #page<K extends RecordKind, T>(
    kind: K,
    under: readonly string[],
    request: PageRequest,
    read: (item: RecordItem<K>) => T | undefined,
  ): Promise<Page<T>> {
    const { limit, after } = request;
    if (limit === 0) return { items: [] };
    const path = [this.#in.name, ...under];
    const records = await this.#in.metadata.page({ kind, under: path, limit: limit + 1, ...(after !== undefined && { after }) });
    const items = records.slice(0, limit).flatMap((item) => read(item) ?? []);
    const next = records.length > limit ? records[limit - 1]?.key.parts[path.length] : undefined;
    return { items, ...(next !== undefined && { next }) };
  }
}
