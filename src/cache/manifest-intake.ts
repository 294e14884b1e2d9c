import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, digestOf, parseDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import { absent, type Lookup } from "../core/lookup.js";
import { followManifest, isManifestType, type Manifest, parseManifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { makeRoom } from "../core/room.js";
import type { Partition } from "../local/partition.js";
import type { Passed } from "./asking.js";
import type { Freshness } from "./freshness.js";

/** Links of a cache remember that their bytes come from its source, of which there is one. No connector can have this name. */
export const sourceMember = "(source)";

export interface ManifestIntakeOptions {
  readonly source: Registry;
  readonly store: LinkingRegistry;
  readonly partition: Partition;
  readonly freshness: Freshness;
  /** Called with every manifest that came from the source and is kept. */
  arrived(repository: string, descriptor: Descriptor, manifest: Manifest, o: Passed): void;
}

/** Brings manifests from the source into the store. What cannot be kept is passed on all the same: neither a full disk nor an unknown type fails a pull. */
export class ManifestIntake {
  readonly #o: ManifestIntakeOptions;

  constructor(options: ManifestIntakeOptions) {
    this.#o = options;
  }

  /** @param tag what the source has just said to stand at this digest. */
  async bring(repository: string, digest: string, call: CallOptions, tag?: string): Promise<Lookup<ManifestContent>> {
    const { source, store, partition } = this.#o;
    const here = tag === undefined ? absent : await store.getManifest(repository, digest);
    const lookup = here.kind === "found" ? here : await source.getManifest(repository, digest, call);
    if (lookup.kind !== "found") return lookup;
    const { bytes } = lookup.value;
    if (digestOf(bytes, algorithmOf(parseDigest(digest))) !== digest) {
      return {
        kind: "unavailable",
        error: new RegistryError("UNAVAILABLE", `the source sent other bytes than ${digest}; they were discarded`),
      };
    }
    let content = lookup.value;
    await this.contained(`${digest} of ${repository} could not be kept`, async () => {
      try {
        content = await this.#keep(repository, digest, lookup.value, call, tag);
      } catch (error) {
        if (!isRegistryError(error) || error.code !== "INSUFFICIENT_STORAGE" || !(await makeRoom(partition.blobs, bytes.byteLength)))
          throw error;
        content = await this.#keep(repository, digest, lookup.value, call, tag);
      }
    });
    return { ...lookup, value: content };
  }

  /** For what happens beside an answer: a failure is told and does not spoil it. */
  async contained(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const { clock, events, name } = this.#o.partition;
      const why = error instanceof Error ? error.message : String(error);
      events.emit("fault", { time: clock.now(), registry: name, message: `${what}: ${why}` });
    }
  }

  /** @returns the manifest as it is kept: of a type that its body can have, and that this repository has known it by. The source may state another one. */
  async #keep(
    repository: string,
    digest: string,
    { bytes, descriptor: stated }: ManifestContent,
    call: CallOptions,
    tag: string | undefined,
  ): Promise<ManifestContent> {
    const { store, freshness, arrived } = this.#o;
    const manifest = keptManifest(bytes, stated.mediaType);
    const origin = { member: sourceMember, repository };
    // Links first: once a manifest is visible, its layers are.
    const links = requiredReferences(manifest).blobs.map(async (blob) => {
      if ((await store.resolveBlob(repository, blob.digest)).kind === "absent") await store.linkBlob(repository, blob, origin);
    });
    await Promise.all(links);
    const put = (mediaType: string) =>
      store.putManifest(repository, digest, { bytes, mediaType }, { references: "trust", ...(tag && { tags: [tag] }) });
    const descriptor = await put(manifest.mediaType).catch(async (error: unknown) => {
      // Another question may have kept it as another type a moment ago.
      const kept = await store.resolveManifest(repository, digest);
      if (kept.kind !== "found" || kept.value.mediaType === manifest.mediaType) throw error;
      return put(kept.value.mediaType);
    });
    if (tag !== undefined) await freshness.confirm(repository, tag);
    arrived(repository, descriptor, manifest, call);
    return { descriptor, bytes };
  }
}

/** @throws RegistryError MANIFEST_INVALID for a type that is not kept, and for bytes of no kind. */
function keptManifest(bytes: Uint8Array, statedType: string): Manifest {
  const isKnown = isManifestType(statedType);
  return parseManifest(bytes, isKnown ? followManifest(bytes, statedType).mediaType : statedType);
}
