import type { Awaitable } from "../core/awaitable.js";
import { RegistryError } from "../core/errors.js";
import { allPages } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";

/** Looked up at a time. */
const batch = 100;
/** A registry has no list of the tags on a digest; more are not looked up one by one. */
const tagLimit = 100_000;

/**
 * The first of some tags that stands on a digest.
 * @throws RegistryError DENIED when there are too many to look at, or the error of a listing that failed.
 */
export async function tagOn(
  registry: Registry,
  repository: string,
  digest: string,
  concerns: (tag: string) => Awaitable<boolean>,
  o?: CallOptions,
): Promise<string | undefined> {
  let read = 0;
  const list = async (request: { after?: string; limit: number }) => {
    const lookup = await registry.listTags(repository, request, o);
    if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
    return lookup.kind === "found" ? lookup.value : { items: [] };
  };
  const stands = async (tag: string) => {
    if (!(await concerns(tag))) return false;
    const lookup = await registry.resolveManifest(repository, tag, o);
    if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
    return lookup.kind === "found" && lookup.value.digest === digest;
  };
  let tags: string[] = [];
  const look = async () => {
    const standing = await Promise.all(tags.map(stands));
    const at = standing.indexOf(true);
    const tag = tags[at];
    tags = [];
    return tag;
  };
  for await (const tag of allPages(list)) {
    if (++read > tagLimit)
      throw new RegistryError("DENIED", `${repository} has more than ${tagLimit} tags: which of them stand on ${digest} is not looked up`);
    if (tags.push(tag) < batch) continue;
    const standing = await look();
    if (standing !== undefined) return standing;
  }
  return look();
}
