import { type Digest, parseDigest } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { orThrow } from "../core/lookup.js";
import { allPages } from "../core/page.js";
import type { LocalRegistry } from "../local/local-registry.js";
import { type AdoptImages, itemError } from "./adopt-images.js";
import type { AdoptCounts } from "./adopt-report.js";
import type { DistributionTree } from "./distribution-tree.js";

export interface AdoptTagsOptions {
  readonly registry: LocalRegistry;
  readonly tree: DistributionTree;
  readonly counts: AdoptCounts;
  readonly images: AdoptImages;
  readonly names: { readonly from: string; readonly to: string };
  readonly signal: AbortSignal | undefined;
  /** Tags that are listed there without a link that says what they point to: they are damaged, and not deleted. */
  readonly unreadable: Set<string>;
}

/** Somebody else moves the tag each time: then it is theirs. */
const attempts = 5;

/** Makes a tag point to what it points to there, once its image is here, unless somebody else has moved it here. */
export async function adoptTag(o: AdoptTagsOptions, tag: string): Promise<void> {
  const { tree, counts, images, names, signal, unreadable } = o;
  const problem = (kind: "incomplete" | "skipped", why: string) => counts.problem(kind, { repository: names.from, reference: tag, why });
  signal?.throwIfAborted();
  counts.known();
  const digest = await tree.tag(names.from, tag).catch(itemError);
  if (typeof digest !== "string") {
    unreadable.add(tag);
    problem("incomplete", digest.message);
  } else {
    try {
      const image = await images.manifest(digest);
      if (image.kind === "here") await move(o, tag, digest);
      else problem("incomplete", `it points to ${digest}: ${image.kind === "failed" ? image.why : "the repository does not have it"}`);
    } catch (error) {
      problem("skipped", itemError(error).message);
    }
  }
  counts.done();
}

async function move(o: AdoptTagsOptions, tag: string, there: Digest): Promise<void> {
  const { registry, tree, counts, names } = o;
  for (let tries = 0; ; tries++) {
    const stored = await registry.resolveManifest(names.to, tag);
    const now = stored.kind === "found" ? parseDigest(stored.value.digest) : undefined;
    if (now === there) return;
    if (now !== undefined && (tries >= attempts || !(await tree.hasPointedTo(names.from, tag, now)))) {
      counts.kept({ repository: names.to, tag, here: now, there });
      return;
    }
    const { bytes } = orThrow(await registry.getManifest(names.to, there));
    try {
      await registry.putManifest(names.to, tag, { bytes }, now === undefined ? { ifNoneMatch: "*" } : { ifMatch: now });
      counts.came("tag");
      return;
    } catch (error) {
      if (!isRegistryError(error) || error.code !== "PRECONDITION_FAILED") throw error;
    }
  }
}

/** Removes tags that are gone there, as far as they point to what is known there. */
export async function removeTags(o: AdoptTagsOptions): Promise<void> {
  const { registry, tree, counts, names, signal, unreadable } = o;
  const listed = await registry.listTags(names.to, { limit: 1 });
  if (listed.kind === "absent") return;
  for await (const tag of allPages(async (page) => orThrow(await registry.listTags(names.to, page), "NAME_UNKNOWN"))) {
    signal?.throwIfAborted();
    if (unreadable.has(tag)) continue;
    const stored = await registry.resolveManifest(names.to, tag);
    if (stored.kind !== "found") continue;
    const digest = parseDigest(stored.value.digest);
    try {
      if ((await tree.hasTag(names.from, tag)) || !(await tree.keeps(digest))) continue;
      await registry.deleteManifest(names.to, tag, { ifMatch: digest });
      counts.removed({ repository: names.to, tag, digest });
    } catch (error) {
      // Moved or removed meanwhile.
      if (isRegistryError(error) && (error.code === "PRECONDITION_FAILED" || error.code === "MANIFEST_UNKNOWN")) continue;
      counts.problem("skipped", { repository: names.from, reference: tag, why: itemError(error).message });
    }
  }
}
