import type { AskMember, ManifestQuestion, ManifestResolver } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import type { Lookup } from "../core/lookup.js";
import type { ManifestContent } from "../core/registry.js";
import { entriesOf, type Lock } from "./lock.js";
import { ordered } from "./resolve.js";

export interface PinnedOptions {
  /** Resolves digests, and tags that are not in the lock file where `onMissing` says so. Default: `ordered`. */
  readonly otherwise?: ManifestResolver;
  /** A tag that is not in the lock file. Default: `refuse`, DENIED. */
  readonly onMissing?: "refuse" | "otherwise";
}

/**
 * A resolver by a lock file: a tag is the digest that is written there, from whichever member has it, wherever the tag has moved since.
 *
 * @throws RegistryError NAME_INVALID, MANIFEST_INVALID or DIGEST_INVALID for a malformed lock file.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry, lock, pinned } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const locked = await lock(release, []);
 * const production = aggregate({
 *   local: localRegistry({ storage, name: "production" }),
 *   connectors: [{ name: "release", source: release }],
 *   resolver: pinned(locked),
 * });
 * await production.close();
 * ```
 */
export function pinned(lock: Lock, options: PinnedOptions = {}): ManifestResolver {
  const { otherwise = ordered, onMissing = "refuse" } = options;
  const pins = new Map(entriesOf(lock).map(({ repository, tag, digest }) => [`${repository}:${tag}`, digest]));
  return {
    name: "pinned",
    async resolve(question, ask) {
      const { repository, reference } = question;
      if (reference.includes(":")) return otherwise.resolve(question, ask);
      const name = `${repository}:${reference}`;
      const digest = pins.get(name);
      if (digest !== undefined) return byPin(question, digest, ask);
      if (onMissing === "otherwise") return otherwise.resolve(question, ask);
      return { kind: "denied", error: new RegistryError("DENIED", `${name} is not in the lock file: add it, or pull by digest`) };
    },
  };
}

function byPin<T extends Descriptor | ManifestContent>(question: ManifestQuestion, digest: string, ask: AskMember<T>): Promise<Lookup<T>> {
  const { repository, reference: tag } = question;
  return ordered.resolve({ ...question, reference: digest }, async (member) => {
    const lookup = await ask(member, digest);
    if (lookup.kind !== "absent") return lookup;
    // A filter on tags shows a digest only after a permitted tag has led to it, and here nobody has asked for the tag yet.
    const tagged = await member.resolveManifest(repository, tag);
    return tagged.kind === "found" && tagged.value.digest === digest ? ask(member, digest) : lookup;
  });
}
