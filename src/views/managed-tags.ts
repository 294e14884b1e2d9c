import { compareAndSet, conflicted } from "../core/compare-and-set.js";
import type { Digest } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import { type Lookup, orThrow } from "../core/lookup.js";
import { allPages, type Page, type PageRequest } from "../core/page.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { compareNumbers, isRelease, parseVersion, type VersionTag } from "./semver.js";

/** Which tags follow the releases of a repository. */
export interface ManagedTags {
  /** The highest release of all. */
  readonly latest?: boolean;
  /** `1`: the highest of 1.x. */
  readonly major?: boolean;
  /** `1.4`: the highest of 1.4.x. */
  readonly minor?: boolean;
}

/** Whether a tag is one that follows releases: `latest`, `1` or `v1`, `1.4`. */
export function isManaged(tag: string, { latest, major, minor }: ManagedTags): boolean {
  if (tag === "latest") return latest === true;
  const version = parseVersion(tag);
  if (version?.suffix !== "") return false;
  return version.numbers.length === 1 ? major === true : version.numbers.length === 2 && minor === true;
}

/** Moves the tags that follow a release which was just pushed. Where a higher one is there, they point to that. */
export async function followRelease(
  registry: Registry,
  repository: string,
  tag: string,
  managed: ManagedTags,
  o?: CallOptions,
): Promise<void> {
  const release = parseVersion(tag);
  if (!release || !isRelease(release)) return;
  const { prefix, numbers } = release;
  const [major, minor] = numbers;
  // From the narrowest to the widest: `latest` never shows what its own `1.4` does not have yet.
  if (managed.minor) await follow(registry, repository, `${prefix}${major}.${minor}`, numbers.slice(0, 2), prefix, o);
  if (managed.major) await follow(registry, repository, `${prefix}${major}`, numbers.slice(0, 1), prefix, o);
  if (managed.latest) await follow(registry, repository, "latest", [], undefined, o);
}

/**
 * Moves one tag to the highest release. The tag is read before the releases are listed, and moved only from what it pointed to: who lists later sees more, and wins.
 * @param prefix only releases written like this, `v1.4.2` or `1.4.2`; absent: both.
 */
async function follow(
  registry: Registry,
  repository: string,
  tag: string,
  within: readonly number[],
  prefix: string | undefined,
  o?: CallOptions,
): Promise<void> {
  // Each conflict means that another release was pushed in the meantime.
  await compareAndSet(`${repository}:${tag}`, async () => {
    const now = digestIn(await registry.resolveManifest(repository, tag, { ...o, refresh: true }));
    const highest = await highestRelease(registry, repository, within, prefix, o);
    const content = highest === undefined ? undefined : await registry.getManifest(repository, highest, o);
    // Deleted in the meantime.
    if (content === undefined || content.kind === "absent") return;
    const { descriptor, bytes } = orThrow(content);
    if (descriptor.digest === now) return;
    try {
      const condition = now === undefined ? { ifNoneMatch: "*" as const } : { ifMatch: now };
      await registry.putManifest(repository, tag, { bytes, mediaType: descriptor.mediaType }, { ...o, ...condition, references: "trust" });
      return;
    } catch (error) {
      if (isRegistryError(error) && error.code === "PRECONDITION_FAILED") return conflicted;
      throw error;
    }
  });
}

function digestIn(lookup: Lookup<{ readonly digest: Digest }>): Digest | undefined {
  return lookup.kind === "absent" ? undefined : orThrow(lookup).digest;
}

async function highestRelease(
  registry: Registry,
  repository: string,
  within: readonly number[],
  prefix: string | undefined,
  o?: CallOptions,
): Promise<string | undefined> {
  // Tags that begin alike are next to each other.
  const start = prefix === undefined ? "" : `${prefix}${within.join(".")}.`;
  let highest: { tag: string; version: VersionTag } | undefined;
  const list = async (request: PageRequest): Promise<Page<string>> => {
    const page = orThrow(await registry.listTags(repository, { ...(start !== "" && { after: start }), ...request }, o), "NAME_UNKNOWN");
    const past = (page.items.at(-1) ?? start) > start && !page.items.at(-1)?.startsWith(start);
    return past ? { items: page.items } : page;
  };
  for await (const tag of allPages(list)) {
    const version = tag.startsWith(start) ? parseVersion(tag) : undefined;
    if (!version || !isRelease(version) || (prefix !== undefined && version.prefix !== prefix)) continue;
    if (compareNumbers(version.numbers, within) !== 0) continue;
    if (!highest || compareNumbers(version.numbers, highest.version.numbers) > 0) highest = { tag, version };
  }
  return highest?.tag;
}
