import { lastUseOf } from "../../core/blob-reference.js";
import { type Digest, parseDigest } from "../../core/digest.js";
import type { Change, Condition, MetadataStore, StoredRecord } from "../../core/metadata-store.js";
import { type RecordTypes, recordKey } from "../../core/records.js";
import { withoutMark } from "../../local/blob-references.js";
import { Quota } from "../../local/quota.js";
import { batchSize, type Collection, type ResumePlace } from "./collection.js";
import { removeReferenced } from "./remove-referenced.js";

const pageSize = 1000;

type Candidates = Map<Digest, StoredRecord<"link">>;

/**
 * Removes blob references that no manifest of their repository refers to, in batches of each repository. Each batch is marked, compared with the manifests once more,
 * and removed ({@link BlobReferenceBatch}).
 */
export async function collectBlobReferences(run: Collection, from: ResumePlace | undefined): Promise<void> {
  const { metadata } = run;
  const [firstRegistry, firstRepository, firstDigest] = from ?? [];
  let repository = firstRepository;
  let after = firstDigest;
  for (let registry = firstRegistry ?? (await nextPart(run, [], undefined)); registry !== undefined; ) {
    const removal = new BlobReferenceRemoval(run, registry);
    for (repository ??= await nextPart(run, [registry], undefined); repository !== undefined; ) {
      do {
        await run.pause();
        const batch = await oldReferences(run, registry, repository, after);
        if (batch.old.size > 0) await new BlobReferenceBatch(run, removal, registry, repository).collect(batch.old);
        after = batch.next;
        if (batch.last !== undefined) run.progress([registry, repository, batch.last]);
      } while (after !== undefined);
      repository = await nextPart(run, [registry], repository);
    }
    await removal.end(metadata);
    registry = await nextPart(run, [], registry);
  }
}

/** The part of the next blob reference's key behind these. */
async function nextPart({ metadata }: Collection, under: readonly string[], after: string | undefined): Promise<string | undefined> {
  const [item] = await metadata.page({ kind: "link", under, limit: 1, ...(after !== undefined && { after }) });
  return item?.key.parts[under.length];
}

/** Those that nobody has come to rely on within the grace. */
async function oldReferences(
  run: Collection,
  registry: string,
  repository: string,
  start: string | undefined,
): Promise<{ old: Candidates; next: string | undefined; last: string | undefined }> {
  const old: Candidates = new Map();
  const { graceBegan } = run;
  let last = start;
  for (;;) {
    const page = await run.metadata.page({
      kind: "link",
      under: [registry, repository],
      limit: pageSize,
      ...(last !== undefined && { after: last }),
    });
    await run.pause();
    for (const { key, value, version } of page) {
      run.counts.blobReferences.checked++;
      last = key.parts[2];
      if (lastUseOf(value) <= graceBegan) old.set(parseDigest(last ?? ""), { value, version });
    }
    if (page.length < pageSize) return { old, next: undefined, last };
    if (old.size >= batchSize) return { old, next: last, last };
  }
}

/** Some old blob references of one repository. */
class BlobReferenceBatch {
  readonly #run: Collection;
  readonly #removal: BlobReferenceRemoval;
  readonly #registry: string;
  readonly #repository: string;

  constructor(run: Collection, removal: BlobReferenceRemoval, registry: string, repository: string) {
    this.#run = run;
    this.#removal = removal;
    this.#registry = registry;
    this.#repository = repository;
  }

  async collect(candidates: Candidates): Promise<void> {
    const run = this.#run;
    if (!(await this.#keepReferenced(candidates))) return;
    if (run.dryRun) {
      await run.each(candidates, async ([digest, { value }]) => {
        if (!(await this.#isEvictable(digest))) this.#removed(digest, value);
      });
      return;
    }
    const marked: Candidates = new Map();
    await run.each(candidates, ([digest, reference]) => this.#mark(digest, reference, marked));
    // A manifest that was put before the mark is seen now; one that is put after it unmarks the blob reference.
    if (marked.size === 0 || !(await this.#keepReferenced(marked))) return;
    await run.each(marked, async ([digest, { value, version }]) => {
      const key = recordKey.link(this.#registry, this.#repository, digest);
      const removed = await this.#removal.commit(
        [
          { key, is: "version", version },
          { key: recordKey.cachedBlob(this.#registry, digest), is: "absent" },
        ],
        [{ remove: key }, { remove: recordKey.linkByDigest(this.#registry, digest, this.#repository) }],
      );
      if (removed) this.#removed(digest, value);
    });
  }

  /** Removes from `candidates` what manifests refer to. False when that cannot be found out: nothing of this repository may be removed then. */
  async #keepReferenced(candidates: Candidates): Promise<boolean> {
    const needed: [Digest, StoredRecord<"link">][] = [];
    const readable = await removeReferenced(this.#run, this.#registry, this.#repository, candidates, (digest, reference) => {
      if (reference.value.condemned) needed.push([digest, reference]);
    });
    // The mark is this collection's own, or one that was killed has left it.
    if (!this.#run.dryRun) await this.#run.each(needed, ([digest, reference]) => this.#unmark(digest, reference));
    return readable;
  }

  async #mark(digest: Digest, reference: StoredRecord<"link">, marked: Candidates): Promise<void> {
    const { metadata } = this.#run;
    const key = recordKey.link(this.#registry, this.#repository, digest);
    if (!reference.value.condemned) {
      const committed = await metadata.commit(
        [
          { key, is: "version", version: reference.version },
          { key: recordKey.cachedBlob(this.#registry, digest), is: "absent" },
        ],
        [{ put: key, value: { ...reference.value, condemned: true } }],
      );
      if (!committed) return;
    }
    const stored = await metadata.get(key);
    if (stored?.value.condemned) marked.set(digest, stored);
  }

  async #unmark(digest: Digest, { value, version }: StoredRecord<"link">): Promise<void> {
    const key = recordKey.link(this.#registry, this.#repository, digest);
    await this.#run.metadata.commit([{ key, is: "version", version }], [{ put: key, value: withoutMark(value) }]);
  }

  /** What a cache may evict is its own business. */
  async #isEvictable(digest: Digest): Promise<boolean> {
    return (await this.#run.metadata.get(recordKey.cachedBlob(this.#registry, digest))) !== undefined;
  }

  #removed(digest: Digest, { size, origin }: RecordTypes["link"]): void {
    const { counts, dryRun } = this.#run;
    counts.blobReferences.removed++;
    if (dryRun && !origin) this.#run.noteRemovedReference(digest);
    this.#run.note({
      what: "blobReference",
      registry: this.#registry,
      repository: this.#repository,
      digest,
      size,
      why: "no manifest of the repository refers to it",
    });
  }
}

const unlimited = { bytes: Number.POSITIVE_INFINITY, repositories: Number.POSITIVE_INFINITY };

/** Removes blob references of one registry. Where it has a quota, its record of usage is kept right, as by the registry itself. */
class BlobReferenceRemoval {
  readonly #metadata: MetadataStore;
  readonly #registry: string;
  readonly #quota: Quota;
  readonly #begun: number;
  #uncounted = false;

  constructor({ metadata, clock }: Collection, registry: string) {
    this.#metadata = metadata;
    this.#registry = registry;
    this.#quota = new Quota(metadata, registry, unlimited, clock);
    this.#begun = clock.now();
  }

  async commit(conditions: readonly Condition[], changes: readonly Change[]): Promise<boolean> {
    const key = recordKey.usage(this.#registry);
    if (await this.#metadata.get(key)) return this.#quota.metadata.commit(conditions, changes);
    const committed = await this.#metadata.commit([...conditions, { key, is: "absent" }], changes);
    if (committed) this.#uncounted = true;
    return committed;
  }

  /** A count that began while blob references were removed without a record of usage may have counted them. */
  async end(metadata: MetadataStore): Promise<void> {
    if (!this.#uncounted) return;
    const usage = await metadata.get(recordKey.usage(this.#registry));
    if (usage && usage.value.countedAt >= this.#begun) await this.#quota.usage({ recount: true });
  }
}
