import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { KeyedQueues } from "../core/keyed-queues.js";
import { manifestSizeLimit, parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import { parseJsonObject } from "./capped-body.js";
import { getManifest } from "./manifests.js";
import { putManifest } from "./push-manifest.js";
import { fallbackTag } from "./referrers.js";
import type { Upstream } from "./upstream.js";

/** Other clients change the same index; each conflict means that one of them got through. */
const attempts = 5;

/** What the index lists, changed; `undefined` when there is nothing to change. */
type Edit = (listed: readonly unknown[]) => readonly unknown[] | undefined;

/**
 * The lists of referrers that clients maintain where a registry has no referrers API: an index under a tag made from the subject's digest. (distribution-spec,
 * "Referrers Tag Schema")
 */
export class FallbackIndexes {
  /** By index. Registries that have no referrers API mostly ignore If-Match too. */
  readonly #queues = new KeyedQueues();

  /** Lists a referrer, once. @throws RegistryError when the index cannot be read or written. */
  add(upstream: Upstream, repository: string, subject: Digest, referrer: Descriptor, signal: AbortSignal | undefined): Promise<void> {
    return this.#edit(upstream, repository, subject, signal, (listed) =>
      listed.some((entry) => digestIn(entry) === referrer.digest) ? undefined : [...listed, referrer],
    );
  }

  /** Takes a referrer out. @throws RegistryError when the index cannot be read or written. */
  remove(upstream: Upstream, repository: string, subject: Digest, referrer: Digest, signal: AbortSignal | undefined): Promise<void> {
    return this.#edit(upstream, repository, subject, signal, (listed) => {
      const rest = listed.filter((entry) => digestIn(entry) !== referrer);
      return rest.length === listed.length ? undefined : rest;
    });
  }

  async #edit(upstream: Upstream, repository: string, subject: Digest, signal: AbortSignal | undefined, edit: Edit): Promise<void> {
    const tag = fallbackTag(subject);
    await this.#queues.run(`${repository}:${tag}`, () => this.#attempt(upstream, repository, tag, signal, edit));
  }

  async #attempt(upstream: Upstream, repository: string, tag: string, signal: AbortSignal | undefined, edit: Edit): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      const current = await this.#read(upstream, repository, tag, signal);
      const manifests = edit(current.listed);
      if (!manifests) return;
      const bytes = Buffer.from(JSON.stringify({ ...current.index, manifests }));
      if (bytes.byteLength > manifestSizeLimit) throw this.#unusable(upstream, repository, tag, "is full");
      const precondition = current.digest === undefined ? { ifNoneMatch: "*" as const } : { ifMatch: current.digest };
      try {
        const reference = { kind: "tag", tag } as const;
        await putManifest(upstream, { repository, reference, bytes, mediaType: mediaTypes.ociIndex, signal, ...precondition });
        return;
      } catch (error) {
        if (!isRegistryError(error) || error.code !== "PRECONDITION_FAILED" || attempt === attempts) throw error;
      }
    }
  }

  async #read(upstream: Upstream, repository: string, tag: string, signal: AbortSignal | undefined) {
    const tagged = await getManifest(upstream, repository, { kind: "tag", tag }, signal);
    if (tagged.kind === "absent") return { index: { schemaVersion: 2, mediaType: mediaTypes.ociIndex }, listed: [] };
    if (tagged.kind === "denied" || tagged.kind === "unavailable") throw tagged.error;
    // The tag is an ordinary one. What anybody has put there is not overwritten.
    if (tagged.kind !== "found" || tagged.value.descriptor.mediaType !== mediaTypes.ociIndex) {
      throw this.#unusable(upstream, repository, tag, "holds something other than an index");
    }
    const { bytes, descriptor } = tagged.value;
    try {
      parseManifest(bytes, mediaTypes.ociIndex);
      const index = parseJsonObject(bytes);
      // As they are: entries of other clients may hold fields that are unknown here.
      return { index, listed: Array.isArray(index.manifests) ? index.manifests : [], digest: descriptor.digest };
    } catch {
      throw this.#unusable(upstream, repository, tag, "holds no valid index");
    }
  }

  #unusable(upstream: Upstream, repository: string, tag: string, why: string): RegistryError {
    return new RegistryError("UNAVAILABLE", `${upstream.name}: the tag ${tag} of ${repository}, which lists referrers, ${why}`);
  }
}

function digestIn(entry: unknown): unknown {
  return typeof entry === "object" && entry !== null && "digest" in entry ? entry.digest : undefined;
}
