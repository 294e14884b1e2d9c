import pLimit from "p-limit";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { absent, found, type Lookup } from "../core/lookup.js";
import { type Page, type PageRequest, pageOf } from "../core/page.js";
import { type RecordKind, recordKey } from "../core/records.js";
import type { BlobReference } from "../core/storing-registry.js";
import { referencedBlob } from "./blob-references.js";
import type { Partition } from "./partition.js";

/** Manifests that are read at a time, for their sizes: each may have 4 MiB, and others want connections to a database too. */
const readAtOnce = 8;

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

  async manifests(repository: string, request: PageRequest): Promise<Page<Descriptor>> {
    const page = await this.#page("manifest", [repository], request);
    const items = await pLimit(readAtOnce).map(page.items, async (text) => {
      const digest = parseDigest(text);
      const stored = await this.#in.metadata.get(recordKey.manifest(this.#in.name, repository, digest));
      return stored?.bytes ? [{ mediaType: stored.value.mediaType, digest, size: stored.bytes.byteLength }] : [];
    });
    return { ...page, items: items.flat() };
  }

  tagsOf(repository: string, digest: Digest, request: PageRequest): Promise<Page<string>> {
    return this.#page("tagByDigest", [repository, digest], request);
  }

  async storedAt(repository: string, reference: string): Promise<number | undefined> {
    const { name, metadata } = this.#in;
    if (!reference.includes(":")) return (await metadata.get(recordKey.tag(name, repository, reference)))?.value.updatedAt;
    return (await metadata.get(recordKey.manifest(name, repository, parseDigest(reference))))?.value.pushedAt;
  }

  async blobReferences(repository: string, { after, limit }: PageRequest): Promise<Page<BlobReference>> {
    const under = [this.#in.name, repository];
    const records = await this.#in.metadata.page({ kind: "link", under, limit: limit + 1, ...(after !== undefined && { after }) });
    const references = records.map(({ key, value }) => ({
      descriptor: referencedBlob(parseDigest(key.parts[2] ?? ""), value),
      ...(value.origin && { origin: value.origin }),
    }));
    return pageOf(references, limit, ({ descriptor }) => descriptor.digest);
  }

  /** One name more than wanted is read, to know whether there is a next page. */
  async #page(kind: RecordKind, under: readonly string[], { limit, after }: PageRequest): Promise<Page<string>> {
    if (limit === 0) return { items: [] };
    const range = { kind, under: [this.#in.name, ...under], limit: limit + 1, ...(after !== undefined && { after }) };
    return pageOf(await this.#in.metadata.names(range), limit, (name) => name);
  }
}
