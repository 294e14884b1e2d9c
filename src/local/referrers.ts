import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { found, type Lookup } from "../core/lookup.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import type { Page, PageRequest } from "../core/page.js";
import { recordKey } from "../core/records.js";
import { fallbackTag } from "../core/references.js";
import type { Partition } from "./partition.js";

/** Each may be as large as a manifest, for annotations are part of it; most are a few hundred bytes. */
const firstBatch = 8;
const largestBatch = 1000;

/**
 * The referrers of a subject: manifests that name it, and what a pushed fallback-tag index lists (distribution-spec, "Referrers Tag Schema"), as far as
 * it is here. A page is no larger than a manifest may be, since clients read no more.
 */
export async function listReferrers(
  partition: Partition,
  repository: string,
  subject: Digest,
  request: PageRequest & { artifactType?: string },
): Promise<Lookup<Page<Descriptor>>> {
  const items: Descriptor[] = [];
  if (request.limit === 0) return found({ items }, partition.served);
  let bytes = 0;
  for await (const descriptor of all(partition, repository, subject, request.after)) {
    if (request.artifactType !== undefined && descriptor.artifactType !== request.artifactType) continue;
    const last = items.at(-1);
    bytes += JSON.stringify(descriptor).length;
    if (last && (items.length === request.limit || bytes > manifestSizeLimit)) return found({ items, next: last.digest }, partition.served);
    items.push(descriptor);
  }
  return found({ items }, partition.served);
}

/** In order of their digests, each once. */
async function* all(partition: Partition, repository: string, subject: Digest, after: string | undefined): AsyncGenerator<Descriptor> {
  const tagged = await fromFallbackTag(partition, repository, subject, after);
  for await (const descriptor of recorded(partition, repository, subject, after)) {
    for (let next = tagged[0]; next && next.digest <= descriptor.digest; next = tagged[0]) {
      tagged.shift();
      if (next.digest !== descriptor.digest && (await isHere(partition, repository, next))) yield next;
    }
    yield descriptor;
  }
  for (const next of tagged) if (await isHere(partition, repository, next)) yield next;
}

async function* recorded(
  { name, metadata }: Partition,
  repository: string,
  subject: Digest,
  start: string | undefined,
): AsyncGenerator<Descriptor> {
  let after = start;
  let limit = firstBatch;
  while (true) {
    const batch = await metadata.page({
      kind: "referrer",
      under: [name, repository, subject],
      limit,
      ...(after !== undefined && { after }),
    });
    let bytes = 1;
    for (const { value } of batch) {
      bytes += JSON.stringify(value.descriptor.annotations ?? {}).length;
      yield value.descriptor;
    }
    after = batch.at(-1)?.key.parts[3];
    if (batch.length < limit || after === undefined) return;
    const fitting = Math.floor((manifestSizeLimit * batch.length) / bytes);
    limit = Math.min(Math.max(firstBatch, fitting), limit * 4, largestBatch);
  }
}

async function fromFallbackTag(
  { name, metadata }: Partition,
  repository: string,
  subject: Digest,
  after: string | undefined,
): Promise<Descriptor[]> {
  const tag = await metadata.get(recordKey.tag(name, repository, fallbackTag(subject)));
  const stored = tag && (await metadata.get(recordKey.manifest(name, repository, tag.value.digest)));
  // The tag is an ordinary one: anybody may have put an image there.
  if (!stored?.bytes || stored.value.mediaType !== mediaTypes.ociIndex) return [];
  const listed = new Map(parseManifest(stored.bytes, stored.value.mediaType).children.map((child) => [child.digest, child]));
  return [...listed.values()].filter(({ digest }) => after === undefined || digest > after).sort((a, b) => (a.digest < b.digest ? -1 : 1));
}

/** A manifest that was deleted is no referrer any more, whatever the index says. */
async function isHere({ name, metadata }: Partition, repository: string, { digest }: Descriptor): Promise<boolean> {
  return (await metadata.get(recordKey.manifest(name, repository, digest))) !== undefined;
}
