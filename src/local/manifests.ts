import { compareAndSet, conflicted } from "../core/compare-and-set.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { KeyedQueues } from "../core/keyed-queues.js";
import { absent, found, type Lookup } from "../core/lookup.js";
import { canHaveType, followManifest, type Manifest, parseManifest } from "../core/manifest.js";
import type { Change, Condition } from "../core/metadata-store.js";
import { parseReference, parseRepositoryName, parseTag, type Reference } from "../core/name.js";
import { recordKey } from "../core/records.js";
import { keptReferences, missingReference, requiredReferences } from "../core/references.js";
import type { DeleteManifestOptions, ManifestContent, PutManifestOptions } from "../core/registry.js";
import { inTurns } from "../core/turn-budget.js";
import { withoutMark } from "./blob-references.js";
import { recordPages } from "./every-record.js";
import type { Partition } from "./partition.js";
import { assertUnprotected } from "./protection.js";
import { referrerChanges, referrerRemovals } from "./referrers.js";

/**
 * The manifests and tags of a registry. A push and a delete are one commit each, and each of them holds only while nothing that it was made out from has changed:
 * {@link relyOnReferences} makes out what a pushed manifest relies on, {@link removalOf} what a deleted one takes with it.
 */
export class LocalManifests {
  readonly #in: Partition;
  /**
   * Pushes of one manifest write the same record, and pushes of one tag too: hundreds at once would refuse each other until some give up. Other processes are few.
   */
  readonly #queues = new KeyedQueues();

  constructor(partition: Partition) {
    this.#in = partition;
  }

  async get(repository: string, text: string): Promise<Lookup<ManifestContent>> {
    const reference = parseReference(text);
    if (reference.kind === "digest") return this.#read(repository, reference.digest);
    const tag = await this.#in.metadata.get(recordKey.tag(this.#in.name, repository, reference.tag));
    if (!tag) return absent;
    return this.#read(repository, tag.value.digest);
  }

  async #read(repository: string, digest: Digest): Promise<Lookup<ManifestContent>> {
    const stored = await this.#in.metadata.get(recordKey.manifest(this.#in.name, repository, digest));
    if (!stored?.bytes) return absent;
    const descriptor = { mediaType: stored.value.mediaType, digest, size: stored.bytes.byteLength };
    return found({ descriptor, bytes: stored.bytes }, this.#in.served);
  }

  async put(
    repository: string,
    text: string,
    content: { readonly bytes: Uint8Array; readonly mediaType?: string },
    o: PutManifestOptions = {},
  ): Promise<Descriptor> {
    parseRepositoryName(repository);
    const reference = parseReference(text);
    const digest = checkedDigest(content.bytes, reference);
    const manifest = parseManifest(content.bytes, content.mediaType ?? (await this.#storedType(repository, digest, content.bytes)));
    const tags = [...new Set([...(reference.kind === "tag" ? [reference.tag] : []), ...(o.tags ?? []).map(parseTag)])];
    const checked = o.references !== "trust";
    const attempt = async (before: number) => {
      const references = await relyOnReferences(this.#in, repository, manifest, { checked, refused: before > 0 });
      const precondition = await this.#checkPrecondition(repository, reference, o);
      const sameType = await this.#checkMediaType(repository, digest, content.bytes, manifest.mediaType);
      const tagging = await this.#tagChanges(repository, digest, tags);
      const committed = await this.#in.metadata.commit(
        [...references.conditions, ...precondition, sameType, ...tagging.conditions],
        [...references.changes, ...this.#manifestChanges(repository, digest, manifest, content.bytes), ...tagging.changes],
      );
      return committed ? undefined : conflicted;
    };
    const keys = [digest, ...tags].map((written) => `${repository} ${written}`);
    await this.#queues.runAll(keys, () => compareAndSet(repository, attempt));
    return { mediaType: manifest.mediaType, digest, size: content.bytes.byteLength };
  }

  async delete(repository: string, text: string, o: DeleteManifestOptions = {}): Promise<void> {
    const reference = parseReference(text);
    const permitted = new Set<string>();
    await compareAndSet(repository, async () => {
      const removal = await this.#removal(repository, reference, o.ifMatch);
      if (!removal) throw new RegistryError("MANIFEST_UNKNOWN", `${repository} has no manifest ${text}`);
      // Both hold at the moment of the commit: it fails when a tag or a manifest was put after the removal was made out.
      if (reference.kind === "digest") {
        if (o.protects) await assertUnprotected(this.#in, repository, reference.digest, o.protects);
        if (o.permits) await askAbout(removal.tags, o.permits, permitted, reference.digest);
      }
      return (await this.#in.metadata.commit(removal.conditions, removal.changes)) ? undefined : conflicted;
    });
  }

  async #removal(repository: string, reference: Reference, ifMatch: string | undefined): Promise<ManifestRemoval | undefined> {
    const { name, metadata } = this.#in;
    if (reference.kind === "digest") {
      const removal = await removalOf(this.#in, repository, reference.digest);
      if (removal && ifMatch !== undefined && ifMatch !== reference.digest) throw pointsElsewhere(repository, reference.digest);
      return removal;
    }
    const key = recordKey.tag(name, repository, reference.tag);
    const tag = await metadata.get(key);
    if (!tag) return undefined;
    if (ifMatch !== undefined && ifMatch !== tag.value.digest) throw pointsElsewhere(repository, tag.value.digest);
    return {
      conditions: [{ key, is: "version", version: tag.version }],
      changes: [{ remove: key }, { remove: recordKey.tagByDigest(name, repository, tag.value.digest, reference.tag) }],
      tags: [reference.tag],
    };
  }

  async #checkPrecondition(repository: string, reference: Reference, o: PutManifestOptions): Promise<Condition[]> {
    if (o.ifMatch === undefined && o.ifNoneMatch === undefined) return [];
    const { name, metadata } = this.#in;
    const key =
      reference.kind === "tag" ? recordKey.tag(name, repository, reference.tag) : recordKey.manifest(name, repository, reference.digest);
    const stored = await metadata.get(key);
    const current = stored && (reference.kind === "digest" ? reference.digest : "digest" in stored.value ? stored.value.digest : undefined);
    if (o.ifNoneMatch === "*" ? current !== undefined : current !== o.ifMatch) {
      throw pointsElsewhere(repository, current);
    }
    return [stored ? { key, is: "version", version: stored.version } : { key, is: "absent" }];
  }

  /** What a manifest that is sent without a type is stored as already, if it is. */
  async #storedType(repository: string, digest: Digest, bytes: Uint8Array): Promise<string | undefined> {
    const stored = await this.#in.metadata.get(recordKey.manifest(this.#in.name, repository, digest));
    return stored && canHaveType(bytes, stored.value.mediaType) ? stored.value.mediaType : undefined;
  }

  /**
   * Tags that point to a digest, and clients that know it, rely on what it was stored as. A type that the body cannot have was stored by an earlier version of this
   * library, and a push puts it right.
   * @throws RegistryError MANIFEST_INVALID when the repository has it as another type.
   */
  async #checkMediaType(repository: string, digest: Digest, bytes: Uint8Array, mediaType: string): Promise<Condition> {
    const key = recordKey.manifest(this.#in.name, repository, digest);
    const stored = await this.#in.metadata.get(key);
    if (!stored) return { key, is: "absent" };
    if (stored.value.mediaType !== mediaType && canHaveType(bytes, stored.value.mediaType)) {
      throw new RegistryError(
        "MANIFEST_INVALID",
        `${repository} has ${digest} as ${stored.value.mediaType}, not as ${mediaType}: push it as that, or delete it first`,
      );
    }
    return { key, is: "version", version: stored.version };
  }

  #manifestChanges(repository: string, digest: Digest, manifest: Manifest, bytes: Uint8Array): Change[] {
    const { name, clock } = this.#in;
    const now = clock.now();
    return [
      { put: recordKey.repository(name, repository), value: { updatedAt: now } },
      { put: recordKey.manifest(name, repository, digest), value: { mediaType: manifest.mediaType, pushedAt: now }, bytes },
      ...referrerChanges(name, repository, manifest, { digest, size: bytes.byteLength }),
    ];
  }

  async #tagChanges(repository: string, digest: Digest, tags: readonly string[]): Promise<{ conditions: Condition[]; changes: Change[] }> {
    const { name, metadata, clock } = this.#in;
    const conditions: Condition[] = [];
    const changes: Change[] = [];
    for (const tag of tags) {
      const key = recordKey.tag(name, repository, tag);
      const stored = await metadata.get(key);
      conditions.push(stored ? { key, is: "version", version: stored.version } : { key, is: "absent" });
      changes.push({ put: key, value: { digest, updatedAt: clock.now() } });
      if (stored && stored.value.digest !== digest)
        changes.push({ remove: recordKey.tagByDigest(name, repository, stored.value.digest, tag) });
      changes.push({ put: recordKey.tagByDigest(name, repository, digest, tag), value: {} });
    }
    return { conditions, changes };
  }
}

function pointsElsewhere(repository: string, current: Digest | undefined): RegistryError {
  return new RegistryError(
    "PRECONDITION_FAILED",
    `this reference points to ${current ?? "nothing"} in ${repository}: read it again, then decide`,
  );
}

/**
 * Asks about each tag that a delete would remove, once.
 * @throws RegistryError DENIED when one may not go, or what the question throws.
 */
async function askAbout(
  tags: readonly string[],
  permits: NonNullable<DeleteManifestOptions["permits"]>,
  permitted: Set<string>,
  digest: Digest,
): Promise<void> {
  const unasked = tags.filter((tag) => !permitted.has(tag));
  await inTurns(unasked, 1, async (tag) => {
    if (!(await permits(tag)))
      throw new RegistryError("DENIED", `a tag that points to ${digest} must not be deleted: delete other tags by name`);
    permitted.add(tag);
  });
}

/** The digest a manifest is stored under: by digest the one asked for, which must be its own; by tag sha256. */
function checkedDigest(bytes: Uint8Array, reference: Reference): Digest {
  if (reference.kind === "tag") return digestOf(bytes);
  const actual = digestOf(bytes, algorithmOf(reference.digest));
  if (actual !== reference.digest) throw new RegistryError("DIGEST_INVALID", `the manifest's digest is ${actual}, not ${reference.digest}`);
  return actual;
}

/**
 * What must be so of what a manifest refers to at the moment it is stored, and what is stored with it. Each blob reference that it relies on is a condition in
 * exactly the version that was read, and is unmarked: garbage collection that marked it before sees the new version and leaves it, and a mark that is made
 * meanwhile makes the commit fail.
 *
 * @param o.checked config, layers and children must be known.
 * @param o.refused a commit with these conditions failed before. Bytes are rarely lost, so only then it is looked which.
 * @throws RegistryError MANIFEST_BLOB_UNKNOWN for one that is not.
 */
async function relyOnReferences(
  { name, metadata }: Partition,
  repository: string,
  manifest: Manifest,
  o: { readonly checked: boolean; readonly refused: boolean },
): Promise<{ conditions: Condition[]; changes: Change[] }> {
  const { blobs, children } = requiredReferences(manifest);
  const required = new Set<Digest>(o.checked ? [...blobs, ...children].map(({ digest }) => digest) : []);
  const conditions: Condition[] = [];
  const changes: Change[] = [];
  const rely = async (descriptor: Manifest["layers"][number]): Promise<void> => {
    const { digest } = descriptor;
    // BuildKit's older cache layout lists blobs as children of an index.
    const child = manifest.kind === "index" ? recordKey.manifest(name, repository, digest) : undefined;
    if (child && (await metadata.get(child))) {
      if (o.checked) conditions.push({ key: child, is: "present" });
      return;
    }
    const key = recordKey.link(name, repository, digest);
    const reference = await metadata.get(key);
    if (!reference) {
      if (required.has(digest)) throw missingReference(descriptor);
      return;
    }
    if (!reference.value.origin && required.has(digest)) {
      // Without an origin it is a reference to bytes of this store. Those may be lost: then the client is to push them again.
      const blob = recordKey.blob(digest);
      if (o.refused && !(await metadata.get(blob))) throw missingReference(descriptor);
      conditions.push({ key: blob, is: "present" });
    }
    conditions.push({ key, is: "version", version: reference.version });
    if (reference.value.condemned) changes.push({ put: key, value: withoutMark(reference.value) });
  };
  // Thousands, where an index says so; the first that is missing ends it.
  await inTurns(keptReferences(manifest), 3, rely);
  return { conditions, changes };
}

interface ManifestRemoval {
  readonly conditions: readonly Condition[];
  readonly changes: readonly Change[];
  /** The tags that go with the manifest. */
  readonly tags: readonly string[];
}

/**
 * What deleting a manifest takes with it: every tag on it, its referrers entry, and the repository when nothing is left in it. `undefined` when
 * there is no such manifest. The conditions fail when a tag moved or a manifest was put in the meantime.
 */
async function removalOf(partition: Partition, repository: string, digest: Digest): Promise<ManifestRemoval | undefined> {
  const { name, metadata, clock } = partition;
  const key = recordKey.manifest(name, repository, digest);
  const stored = await metadata.get(key);
  if (!stored?.bytes) return undefined;
  const conditions: Condition[] = [{ key, is: "version", version: stored.version }];
  const changes: Change[] = [{ remove: key }];
  changes.push(...(await referrerRemovals(partition, repository, followManifest(stored.bytes, stored.value.mediaType), digest)));
  const tags = await addTags(partition, repository, digest, conditions, changes);

  const listed = recordKey.repository(name, repository);
  const repositoryRecord = await metadata.get(listed);
  const left = await metadata.page({ kind: "manifest", under: [name, repository], limit: 2 });
  if (repositoryRecord) {
    // Rewritten even where it stays: of two that delete the last two manifests at the same time, one then has to look again.
    conditions.push({ key: listed, is: "version", version: repositoryRecord.version });
    changes.push(left.length === 1 ? { remove: listed } : { put: listed, value: { updatedAt: clock.now() } });
  }
  return { conditions, changes, tags };
}

async function addTags(
  partition: Partition,
  repository: string,
  digest: Digest,
  conditions: Condition[],
  changes: Change[],
): Promise<string[]> {
  const { name, metadata } = partition;
  const tags: string[] = [];
  for await (const page of recordPages(metadata, "tagByDigest", [name, repository, digest])) {
    // One digest may have thousands of tags.
    await inTurns(page, 2, async ({ key }) => {
      const tag = recordKey.tag(name, repository, key.parts[3] ?? "");
      const stored = await metadata.get(tag);
      changes.push({ remove: key });
      if (stored?.value.digest !== digest) return;
      conditions.push({ key: tag, is: "version", version: stored.version });
      changes.push({ remove: tag });
      tags.push(tag.parts[2] ?? "");
    });
  }
  return tags;
}
