import { algorithmOf, type Digest, digestOf, isDigest } from "../core/digest.js";
import type { DistributionStorage } from "../core/distribution-storage.js";
import { errorText, isRegistryError, RegistryError } from "../core/errors.js";
import { isRepositoryName, isTag } from "../core/name.js";
import { allPages } from "../core/page.js";

/** A link file holds one digest. */
const linkLimit = 1024;
const pageSize = 1000;

/** A name in the tree that means what it should, or why it does not. */
type Named<T extends string> = { readonly name: T; readonly problem?: undefined } | { readonly name: string; readonly problem: string };

/** The tree of a docker-registry: which names there are, and what they lead to. Names are checked here, before they become anything. */
export class DistributionTree {
  readonly #storage: DistributionStorage;

  constructor(storage: DistributionStorage) {
    this.#storage = storage;
  }

  /**
   * Every folder that holds manifests, each before those below it, in the order that names have with a "/" behind them.
   * @param after a name; what comes up to it is left out.
   * @throws RegistryError UNAVAILABLE when there is no tree at all.
   */
  async *repositories(after?: string): AsyncGenerator<Named<string>> {
    const { items } = await this.#storage
      .list("repositories", { limit: 1 })
      .catch((error: unknown) => Promise.reject(noTree(this.#storage, error)));
    if (items.length === 0) throw noTree(this.#storage);
    yield* this.#below("", after);
  }

  /** The digests of a repository's manifests. Those of deleted ones may be among them. */
  async *revisions(repository: string): AsyncGenerator<Named<Digest>> {
    const revisions = `repositories/${repository}/_manifests/revisions`;
    for await (const algorithm of this.#folders(revisions)) {
      for await (const hex of this.#folders(`${revisions}/${algorithm}`)) {
        const name = `${algorithm}:${hex}`;
        yield isDigest(name) ? { name } : { name, problem: "its name is no digest that this registry knows" };
      }
    }
  }

  /** Every tag that docker-registry lists. It lists whatever has a name there, also what nobody can pull. */
  async *tags(repository: string): AsyncGenerator<Named<string>> {
    for await (const name of this.#entries(`repositories/${repository}/_manifests/tags`, "entries"))
      yield isTag(name) ? { name } : { name, problem: "its name is no tag" };
  }

  /** Where a repository's manifest is kept; `undefined` when it has none of this digest. */
  revision(repository: string, digest: Digest): Promise<Digest | undefined> {
    return this.#link(`repositories/${repository}/_manifests/revisions/${slashed(digest)}/link`);
  }

  /** Where a repository's blob is kept: a blob may be linked under several digests. `undefined` when the repository does not have it. */
  layer(repository: string, digest: Digest): Promise<Digest | undefined> {
    return this.#link(`repositories/${repository}/_layers/${slashed(digest)}/link`);
  }

  /** What a tag points to. @throws RegistryError UNKNOWN or SIZE_INVALID when its link does not say that, or is missing. */
  async tag(repository: string, tag: string): Promise<Digest> {
    const path = `repositories/${repository}/_manifests/tags/${tag}/current/link`;
    const digest = await this.#link(path);
    if (digest !== undefined) return digest;
    throw new RegistryError("UNKNOWN", `the link ${path} is missing: a push that broke off, a deletion under way, or damage`);
  }

  /** Whether a tag has pointed to a digest at some time. */
  async hasPointedTo(repository: string, tag: string, digest: Digest): Promise<boolean> {
    return (await this.#storage.size(`repositories/${repository}/_manifests/tags/${tag}/index/${slashed(digest)}/link`)) !== undefined;
  }

  async hasTag(repository: string, tag: string): Promise<boolean> {
    return (await this.#storage.size(`repositories/${repository}/_manifests/tags/${tag}/current/link`)) !== undefined;
  }

  /** Whether bytes of this digest are kept, for whichever repository. */
  async keeps(digest: Digest): Promise<boolean> {
    return (await this.#storage.size(dataOf(digest))) !== undefined;
  }

  /**
   * A manifest's bytes, verified. `undefined` when they are gone.
   * @throws RegistryError SIZE_INVALID when there are more than `limit`, DIGEST_INVALID when they are others.
   */
  async manifest(digest: Digest, kept: Digest, limit: number): Promise<Uint8Array | undefined> {
    const bytes = await this.#storage.read(dataOf(kept), limit);
    if (bytes && digestOf(bytes, algorithmOf(digest)) !== digest)
      throw new RegistryError("DIGEST_INVALID", "its bytes are others than its digest says");
    return bytes;
  }

  async *#below(parent: string, after: string | undefined): AsyncGenerator<Named<string>> {
    const [first, ...rest] = after?.split("/") ?? [];
    const within = (name: string) => (parent === "" ? name : `${parent}/${name}`);
    if (first !== undefined) yield* this.#visit(within(first), { seen: true, ...(rest.length > 0 && { after: rest.join("/") }) });
    for await (const name of this.#folders(parent === "" ? "repositories" : `repositories/${parent}`, first)) {
      // What begins so belongs to the repository itself.
      if (!name.startsWith("_")) yield* this.#visit(within(name), { seen: false });
    }
  }

  async *#visit(name: string, o: { readonly seen: boolean; readonly after?: string }): AsyncGenerator<Named<string>> {
    if (!isRepositoryName(name)) {
      yield { name, problem: "its name is no repository name" };
      return;
    }
    try {
      const manifests = o.seen ? undefined : await this.#storage.list(`repositories/${name}/_manifests`, { limit: 1 });
      if (manifests && manifests.items.length > 0) yield { name };
      yield* this.#below(name, o.after);
    } catch (error) {
      if (!isRegistryError(error) || error.code === "UNAVAILABLE") throw error;
      yield { name, problem: error.message };
    }
  }

  #folders(path: string, after?: string): AsyncGenerator<string> {
    return this.#entries(path, "folders", after);
  }

  #entries(path: string, what: "folders" | "entries", after?: string): AsyncGenerator<string> {
    return allPages((page) => {
      const from = page.after ?? after;
      return this.#storage.list(path, { limit: page.limit, ...(from !== undefined && { after: from }) }, what);
    }, pageSize);
  }

  async #link(path: string): Promise<Digest | undefined> {
    const bytes = await this.#storage.read(path, linkLimit);
    if (!bytes) return undefined;
    const text = Buffer.from(bytes).toString("latin1").trim();
    if (isDigest(text)) return text;
    // Older versions write links in place, so one may be seen empty for a moment.
    const what =
      text === "" ? "is empty: it is just being written, or damaged" : `names no digest, but ${JSON.stringify(text.slice(0, 160))}`;
    throw new RegistryError("UNKNOWN", `the link ${path} ${what}`);
  }
}

/** Where the bytes of a digest are kept. */
export function dataOf(digest: Digest): string {
  const [algorithm = "", hex = ""] = digest.split(":");
  return `blobs/${algorithm}/${hex.slice(0, 2)}/${hex}/data`;
}

function slashed(digest: Digest): string {
  return digest.replace(":", "/");
}

function noTree({ place }: DistributionStorage, cause?: unknown): RegistryError {
  if (isRegistryError(cause) && cause.code === "UNAVAILABLE") return cause;
  const why = cause === undefined ? "there is none" : errorText(cause);
  return new RegistryError(
    "UNAVAILABLE",
    `no repositories can be read below ${place}: pass the rootdirectory of the registry's configuration (${why})`,
    { cause },
  );
}
