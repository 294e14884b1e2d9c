import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { type Lookup, orThrow } from "../core/lookup.js";
import { parseManifest } from "../core/manifest.js";
import { missingReference, requiredReferences } from "../core/references.js";
import type { CallOptions, DeleteManifestOptions, DeleteOptions, PutManifestOptions, Registry } from "../core/registry.js";
import type { Distrust, StoringRegistry } from "../core/storing-registry.js";
import type { AggregateBlobs } from "./blobs.js";
import type { LocalCopies } from "./local-copies.js";
import type { ConnectedMember } from "./members.js";

interface AggregateWritesOptions {
  readonly local: StoringRegistry;
  readonly distrust: Distrust;
  readonly blobs: AggregateBlobs;
  readonly localCopies: LocalCopies;
  /** The aggregate itself. */
  outer(): Registry;
}

/** Pushes to the local member and deletes from it. What a pushed manifest refers to may be behind a connector; what is pushed is copied to local from there. */
export class AggregateWrites {
  readonly #o: AggregateWritesOptions;

  constructor(options: AggregateWritesOptions) {
    this.#o = options;
  }

  async putManifest(
    members: readonly ConnectedMember[],
    repository: string,
    reference: string,
    content: { readonly bytes: Uint8Array; readonly mediaType?: string },
    o?: PutManifestOptions,
  ): Promise<Descriptor> {
    const { local, blobs, localCopies } = this.#o;
    if (o?.references === "trust") return local.putManifest(repository, reference, content, o);
    const manifest = parseManifest(content.bytes, content.mediaType);
    const { blobs: needed, children } = requiredReferences(manifest);
    // All of them before the answer: the client that comes back finds by HEAD which blobs it has to send.
    const refuted: Descriptor[] = [];
    const refer = async (blob: Descriptor) => {
      if ((await blobs.refer(members, repository, blob, o)) === "refuted") refuted.push(blob);
    };
    for (const blob of needed) await refer(blob);
    let isBehindConnector = false;
    for (const child of children) {
      if ((await local.resolveManifest(repository, child.digest, o)).kind === "found") continue;
      // BuildKit's older cache layout lists blobs as children.
      if ((await local.resolveBlob(repository, child.digest, o)).kind === "found") continue;
      const there = await this.#childBehindConnector(repository, child, o);
      if (there.kind === "found") isBehindConnector = true;
      else if (there.kind === "absent") await refer(child);
      // Whether the child exists could not be found out: to say that it does not would be wrong.
      else orThrow(there);
    }
    if (refuted[0]) throw missingReference(refuted[0]);
    if (isBehindConnector) await this.#checkAll(repository, [...needed, ...children]);
    // The local member's check holds at the moment of the commit; it does not know children that only a connector has.
    const stored = await local.putManifest(repository, reference, content, isBehindConnector ? { ...o, references: "trust" } : o);
    localCopies.copyLater(repository, manifest);
    return stored;
  }

  /** A connector's child counts by its bytes. Where a member states one and does not give it, HEAD asks for the bytes from now on, so that the client sends it. */
  async #childBehindConnector(repository: string, { digest }: Descriptor, o?: CallOptions): Promise<Lookup<unknown>> {
    const outer = this.#o.outer();
    const stated = await outer.resolveManifest(repository, digest, o);
    if (stated.kind !== "found") return stated;
    const given = await outer.getManifest(repository, digest, o);
    if (given.kind !== "found") await this.#o.distrust.add(repository, [digest]);
    return given;
  }

  async #checkAll(repository: string, references: readonly Descriptor[]): Promise<void> {
    for (const reference of references) {
      if ((await this.#o.local.resolveBlob(repository, reference.digest)).kind !== "absent") continue;
      if ((await this.#o.outer().resolveManifest(repository, reference.digest)).kind !== "found") throw missingReference(reference);
    }
  }

  async deleteManifest(repository: string, reference: string, o?: DeleteManifestOptions): Promise<void> {
    const { local, outer } = this.#o;
    const remaining = () => outer().resolveManifest(repository, reference, o);
    await local.deleteManifest(repository, reference, o).catch(behindConnector(repository, remaining));
    if (!o?.warn) return;
    const shown = await remaining().catch(() => undefined);
    if (shown?.kind !== "found") return;
    o.warn(
      `${reference} was deleted from ${repository}, but a connector gives ${shown.value.digest} under that name, and it is served from now on`,
    );
  }

  async deleteBlob(repository: string, digest: string, o?: DeleteOptions): Promise<void> {
    const { local, outer } = this.#o;
    const remaining = () => outer().resolveBlob(repository, digest, o);
    await local.deleteBlob(repository, digest, o).catch(behindConnector(repository, remaining));
  }
}

/** What only a connector gives cannot be deleted here; to say it is unknown would be wrong, since it is served or may be. */
function behindConnector(repository: string, ask: () => Promise<Lookup<unknown>>): (error: unknown) => Promise<never> {
  return async (error) => {
    if (!isRegistryError(error) || error.status !== 404) throw error;
    const there = await ask();
    if (there.kind === "denied" || there.kind === "unavailable") throw there.error;
    if (there.kind !== "found") throw error;
    throw new RegistryError(
      "UNSUPPORTED",
      `${repository} has this only through a connector: delete it at its source, or block it in the connector`,
    );
  };
}
