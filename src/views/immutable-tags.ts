import { compareAndSet, conflicted } from "../core/compare-and-set.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf, isDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import type { PutManifestOptions, Registry } from "../core/registry.js";

type Content = Parameters<Registry["putManifest"]>[2];

/**
 * A push in which some tags keep what they have: each is set only where it is not there yet, so that of two writers one gets DENIED. With tags beside a digest each
 * of these is a step of its own: where one is lost to another writer, those before it stay.
 */
export async function putImmutable(
  registry: Registry,
  repository: string,
  reference: string,
  content: Content,
  keeps: (tag: string) => boolean,
  o: PutManifestOptions = {},
): Promise<Descriptor> {
  const { tags = [], ...options } = o;
  const digest = isDigest(reference) ? reference : digestOf(content.bytes);
  const kept = tags.filter(keeps);
  if (kept.length > 0 && algorithmOf(digest) !== "sha256") {
    throw new RegistryError("UNSUPPORTED", 'tags under the rule "immutable" can be set beside a sha256 digest only', { status: 400 });
  }
  // Nothing is stored where a tag points to another digest already.
  for (const tag of kept) await pointsTo(registry, repository, tag, digest, options);
  const others = tags.filter((tag) => !keeps(tag));
  const rest = { ...options, ...(others.length > 0 && { tags: others }) };
  const stored =
    !isDigest(reference) && keeps(reference)
      ? await putOnce(registry, repository, reference, content, digest, rest)
      : await registry.putManifest(repository, reference, content, rest);
  const { ifMatch: _, ifNoneMatch: __, ...unconditional } = options;
  for (const tag of kept) await putOnce(registry, repository, tag, content, digest, unconditional);
  return stored;
}

async function putOnce(
  registry: Registry,
  repository: string,
  tag: string,
  content: Content,
  digest: Digest,
  o: PutManifestOptions,
): Promise<Descriptor> {
  // A conflict shows what the tag points to now, so the second attempt decides.
  return compareAndSet(`${repository}:${tag}`, async () => {
    const isThere = await pointsTo(registry, repository, tag, digest, o);
    // The caller's own condition is another question than ours; where both are asked, ours is answered first.
    if (!isThere && o.ifMatch !== undefined) {
      throw new RegistryError("PRECONDITION_FAILED", `${repository}:${tag} does not exist: it does not point to ${o.ifMatch}`);
    }
    if (isThere && (o.ifNoneMatch !== undefined || (o.ifMatch !== undefined && o.ifMatch !== digest))) {
      throw new RegistryError("PRECONDITION_FAILED", `${repository}:${tag} points to ${digest} already`);
    }
    const { ifMatch: _, ifNoneMatch: __, ...options } = o;
    try {
      return await registry.putManifest(repository, tag, content, {
        ...options,
        ...(isThere ? { ifMatch: digest } : { ifNoneMatch: "*" as const }),
      });
    } catch (error) {
      if (isRegistryError(error) && error.code === "PRECONDITION_FAILED") return conflicted;
      throw error;
    }
  });
}

/** Whether the tag points to the digest. @throws RegistryError DENIED where it points to another. */
async function pointsTo(registry: Registry, repository: string, tag: string, digest: Digest, o: PutManifestOptions): Promise<boolean> {
  const { signal, caller } = o;
  const lookup = await registry.resolveManifest(repository, tag, { ...(signal && { signal }), ...(caller && { caller }), refresh: true });
  if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
  if (lookup.kind !== "found") return false;
  if (lookup.value.digest === digest) return true;
  throw new RegistryError(
    "DENIED",
    `${repository}:${tag} points to ${lookup.value.digest} and cannot be moved by the rule "immutable": push another tag`,
  );
}
