import type { Descriptor } from "../core/descriptor.js";
import { type Digest, parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { orThrow } from "../core/lookup.js";
import { followManifest, type Manifest } from "../core/manifest.js";
import { allPages } from "../core/page.js";
import type { StoringRegistry } from "../core/storing-registry.js";

const pageSize = 100;

/** Some of the manifests of one repository. */
interface ManifestPage {
  readonly repository: string;
  readonly manifests: readonly Descriptor[];
  /** Continues behind this page. */
  readonly cursor: string;
  /** No more of this repository follows. */
  readonly last: boolean;
}

interface WalkOptions {
  /** One repository instead of all. */
  readonly repository?: string;
  /** A cursor. */
  readonly after?: string;
  readonly signal?: AbortSignal;
}

/**
 * Every manifest stored in a registry, page by page. The catalog leads to all of them: a manifest and its repository's entry are written and removed in the
 * same transaction, so no repository with manifests is missing there.
 */
export async function* localManifests(local: StoringRegistry, o: WalkOptions = {}): AsyncGenerator<ManifestPage> {
  const start = o.after === undefined ? undefined : parseCursor(o.after);
  for await (const repository of repositories(local, o.repository, start?.repository)) {
    let after: string | undefined = repository === start?.repository ? start.digest : undefined;
    do {
      o.signal?.throwIfAborted();
      const { items, next } = await local.listManifests(repository, { limit: pageSize, ...(after !== undefined && { after }) });
      const end = next ?? items.at(-1)?.digest;
      if (end !== undefined) yield { repository, manifests: items, cursor: `${repository}@${end}`, last: next === undefined };
      after = next;
    } while (after !== undefined);
  }
}

/** @param first where to begin, itself included. */
export async function* repositories(local: StoringRegistry, only: string | undefined, first?: string): AsyncGenerator<string> {
  if (only !== undefined) {
    yield only;
    return;
  }
  if (first !== undefined) yield first;
  const list = allPages(async (page) => {
    const after = page.after ?? first;
    return orThrow(await local.listRepositories({ limit: page.limit, ...(after !== undefined && { after }) }), "NAME_UNKNOWN");
  });
  yield* list;
}

/** `undefined` when it was deleted meanwhile. */
export async function readStoredManifest(local: StoringRegistry, repository: string, digest: Digest): Promise<Manifest | undefined> {
  const lookup = await local.getManifest(repository, digest);
  return lookup.kind === "found" ? followManifest(lookup.value.bytes, lookup.value.descriptor.mediaType) : undefined;
}

/** Reads `repository@digest`, as progress gives it. @throws RegistryError NAME_INVALID */
export function parseCursor(text: string): { repository: string; digest: Digest } {
  const at = text.indexOf("@");
  if (at < 1) throw new RegistryError("NAME_INVALID", `${JSON.stringify(text)} is no place to go on from: pass the "after" of a progress`);
  return { repository: text.slice(0, at), digest: parseDigest(text.slice(at + 1)) };
}
