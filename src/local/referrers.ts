import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { found, type Lookup } from "../core/lookup.js";
import { followManifest, type Manifest, manifestSizeLimit } from "../core/manifest.js";
import { isMediaType, mediaTypes } from "../core/media-types.js";
import type { Change, RecordItem } from "../core/metadata-store.js";
import type { Page, PageRequest } from "../core/page.js";
import { type ReferrerRecord, recordKey } from "../core/records.js";
import { referrersTag } from "../core/references.js";
import { spendTurn, unitsOfBytes } from "../core/turn-budget.js";
import type { Partition } from "./partition.js";

/** Longer descriptors are kept without their annotations; those of signatures and attestations are a few hundred bytes. */
const inlineLimit = 2000;
/** Of at most `inlineLimit` characters each. */
const batchSize = 100;

/** What makes a manifest a referrer of its subject: by digest and by type, always together. Nothing when it has no subject. */
export function referrerChanges(
  registry: string,
  repository: string,
  manifest: Manifest,
  { digest, size }: Pick<Descriptor, "digest" | "size">,
): Change[] {
  const { subject, mediaType, artifactType, annotations } = manifest;
  if (!subject) return [];
  const plain: Descriptor = { mediaType, digest, size, ...(artifactType && { artifactType }) };
  const whole: ReferrerRecord = { descriptor: annotations ? { ...plain, annotations } : plain };
  const isLong = annotations !== undefined && JSON.stringify(whole).length > inlineLimit;
  const value: ReferrerRecord = isLong ? { descriptor: plain, annotated: true } : whole;
  const own = recordKey.referrer(registry, repository, subject.digest, digest);
  const byType = artifactType && recordKey.referrerByType(registry, repository, subject.digest, artifactType, digest);
  return [{ put: own, value }, ...(byType ? [{ put: byType, value }] : [])];
}

/** The reverse of {@link referrerChanges}, by what was recorded: older code may have read another type. */
export async function referrerRemovals(
  { name, metadata }: Partition,
  repository: string,
  { subject }: Manifest,
  digest: Digest,
): Promise<Change[]> {
  if (!subject) return [];
  const own = recordKey.referrer(name, repository, subject.digest, digest);
  const artifactType = (await metadata.get(own))?.value.descriptor.artifactType;
  const byType = artifactType && recordKey.referrerByType(name, repository, subject.digest, artifactType, digest);
  return [{ remove: own }, ...(byType ? [{ remove: byType }] : [])];
}

/**
 * The referrers of a subject: manifests that name it, and what a pushed fallback-tag index lists (distribution-spec, "Referrers Tag Schema"), as far as
 * it is here. A page is no larger than a manifest may be, since clients read no more.
 */
export async function storedReferrers(
  partition: Partition,
  repository: string,
  subject: Digest,
  request: PageRequest & { artifactType?: string },
): Promise<Lookup<Page<Descriptor>>> {
  const items: Descriptor[] = [];
  // What is no media type is no stored manifest's either.
  const isNoType = request.artifactType !== undefined && !isMediaType(request.artifactType);
  if (request.limit === 0 || isNoType) return found({ items }, partition.served);
  let bytes = 0;
  for await (const listed of all(partition, repository, subject, request)) {
    const last = items.at(-1);
    const next = () => found({ items, ...(last && { next: last.digest }) }, partition.served);
    if (items.length === request.limit) return next();
    const descriptor = await whole(partition, repository, listed);
    bytes += Buffer.byteLength(JSON.stringify(descriptor));
    if (last && bytes > manifestSizeLimit) return next();
    items.push(descriptor);
  }
  return found({ items }, partition.served);
}

/** In order of their digests, each once. */
async function* all(
  partition: Partition,
  repository: string,
  subject: Digest,
  request: PageRequest & { artifactType?: string },
): AsyncGenerator<ReferrerRecord> {
  const tagged = await fromFallbackTag(partition, repository, subject, request);
  let at = 0;
  for await (const listed of recorded(partition, repository, subject, request)) {
    const { digest } = listed.descriptor;
    for (let next = tagged[at]; next && next.digest <= digest; next = tagged[++at]) {
      if (next.digest !== digest && (await isHere(partition, repository, next))) yield { descriptor: next };
    }
    yield listed;
  }
  for (let next = tagged[at]; next; next = tagged[++at]) if (await isHere(partition, repository, next)) yield { descriptor: next };
}

async function* recorded(
  { name, metadata }: Partition,
  repository: string,
  subject: Digest,
  { after: start, limit: wanted, artifactType }: PageRequest & { artifactType?: string },
): AsyncGenerator<ReferrerRecord> {
  const under = [name, repository, subject, ...(artifactType === undefined ? [] : [artifactType])];
  // One more than the page has tells whether there is another.
  const limit = Math.min(wanted + 1, batchSize);
  for (let after = start; ; ) {
    const range = { under, limit, ...(after !== undefined && { after }) };
    const batch: readonly RecordItem<"referrer" | "referrerByType">[] =
      artifactType === undefined
        ? await metadata.page({ kind: "referrer", ...range })
        : await metadata.page({ kind: "referrerByType", ...range });
    for (const { value } of batch) yield value;
    after = batch.at(-1)?.key.parts.at(-1);
    if (batch.length < limit || after === undefined) return;
  }
}

/** With the annotations that its record left out. */
async function whole({ name, metadata }: Partition, repository: string, { descriptor, annotated }: ReferrerRecord): Promise<Descriptor> {
  if (!annotated) return descriptor;
  const stored = await metadata.get(recordKey.manifest(name, repository, descriptor.digest));
  if (!stored?.bytes) return descriptor;
  const turn = spendTurn(unitsOfBytes(stored.bytes.byteLength));
  if (turn) await turn;
  const annotations = annotationsOf(stored.bytes, stored.value.mediaType);
  return annotations ? { ...descriptor, annotations } : descriptor;
}

/** None of a manifest that was stored under older limits: that it refers to its subject is known without them. */
function annotationsOf(bytes: Uint8Array, mediaType: string): Manifest["annotations"] {
  try {
    return followManifest(bytes, mediaType).annotations;
  } catch {
    return undefined;
  }
}

async function fromFallbackTag(
  { name, metadata }: Partition,
  repository: string,
  subject: Digest,
  { after, artifactType }: PageRequest & { artifactType?: string },
): Promise<Descriptor[]> {
  const tag = await metadata.get(recordKey.tag(name, repository, referrersTag(subject)));
  const stored = tag && (await metadata.get(recordKey.manifest(name, repository, tag.value.digest)));
  // The tag is an ordinary one: anybody may have put an image there.
  if (!stored?.bytes || stored.value.mediaType !== mediaTypes.ociIndex) return [];
  const turn = spendTurn(unitsOfBytes(stored.bytes.byteLength));
  if (turn) await turn;
  const listed = new Map(followManifest(stored.bytes, stored.value.mediaType).children.map((child) => [child.digest, child]));
  return [...listed.values()]
    .filter((child) => (after === undefined || child.digest > after) && (artifactType === undefined || child.artifactType === artifactType))
    .sort((a, b) => (a.digest < b.digest ? -1 : 1));
}

/** A manifest that was deleted is no referrer any more, whatever the index says. */
async function isHere({ name, metadata }: Partition, repository: string, { digest }: Descriptor): Promise<boolean> {
  return (await metadata.get(recordKey.manifest(name, repository, digest))) !== undefined;
}
