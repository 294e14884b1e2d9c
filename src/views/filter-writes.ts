import { digestOf, isDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { parseManifest } from "../core/manifest.js";
import { protectingTag } from "../core/protected-content.js";
import { missingReference } from "../core/references.js";
import type { CallOptions, DeleteManifestOptions, PutManifestOptions, Registry, UploadSession } from "../core/registry.js";
import type { FilterGate } from "./filter-gate.js";

type Writes = Pick<Registry, "putManifest" | "putBlob" | "mountBlob" | "startUpload" | "resumeUpload" | "deleteManifest" | "deleteBlob">;

/** Writes through a filter: what is hidden can be neither named nor removed, and what is written is visible to its writer. */
export function filterWrites(registry: Registry, gate: FilterGate, guarded: Registry): Writes {
  const remembering = (name: string, session: UploadSession): UploadSession => ({
    get id() {
      return session.id;
    },
    get offset() {
      return session.offset;
    },
    get committed() {
      return session.committed;
    },
    get expiresAt() {
      return session.expiresAt;
    },
    append: (source, o) => session.append(source, o),
    async commit(digest) {
      const blob = await session.commit(digest);
      await gate.remember(gate.canonical(name), [blob.digest]);
      return blob;
    },
    cancel: () => session.cancel(),
  });

  const checkReferences = async (repository: string, content: { bytes: Uint8Array; mediaType?: string }, o?: PutManifestOptions) => {
    const manifest = parseManifest(content.bytes, content.mediaType);
    const unproven = o?.references === "trust" ? undefined : await gate.firstUnproven(repository, manifest);
    if (unproven) throw missingReference(unproven);
    // Whether a hidden subject exists must not show.
    const { subject } = manifest;
    if (subject && gate.manifestsMustBeReached(repository) && !(await gate.knows(repository, subject.digest)))
      throw missingReference(subject);
    if (!gate.judges) return;
    if (manifest.config && (await registry.resolveBlob(repository, manifest.config.digest, o)).kind === "absent")
      throw missingReference(manifest.config);
    const descriptor = { mediaType: manifest.mediaType, digest: digestOf(content.bytes), size: content.bytes.byteLength };
    const reason = await gate.whyUnfit(repository, { descriptor, bytes: content.bytes }, o);
    if (reason !== undefined) throw new RegistryError("DENIED", `this cannot be pushed here: ${reason}`);
  };

  /** Whether a tag may go with its manifest: one that is hidden stays. */
  const mayGo = async (repository: string, digest: string, tag: string, o?: DeleteManifestOptions): Promise<boolean> => {
    const refusal = await gate.decided("deleteManifest", o, () => gate.whyTagHidden(repository, tag, o, "delete"));
    if (refusal?.kind === "unavailable") throw refusal.error;
    // Its name stays hidden too.
    if (refusal) throw new RegistryError("DENIED", `${digest} has other tags, which cannot be deleted here: delete the tag`);
    return (await o?.permits?.(tag)) ?? true;
  };
  /** A protected tag that is hidden here is not named. */
  const unnamed =
    (repository: string, o?: CallOptions) =>
    async (error: unknown): Promise<never> => {
      const tag = protectingTag(error);
      if (tag === undefined || (await gate.decided("getManifest", o, () => gate.whyTagHidden(repository, tag, o))) === undefined)
        throw error;
      throw new RegistryError("DENIED", "this is needed by something that is protected: it cannot be deleted here");
    };

  return {
    async putManifest(name, reference, content, o) {
      const repository = gate.canonical(name);
      const entered = await gate.enter({ method: "putManifest", access: "push", repository: name, reference, ...(o && { options: o }) });
      // What is refused for its name is refused for that, by the guarded registry.
      if (typeof entered === "string") await checkReferences(repository, content, o);
      const stored = await guarded.putManifest(name, reference, content, o);
      await gate.remember(repository, [stored.digest]);
      return stored;
    },
    async putBlob(name, expected, source, o) {
      const blob = await guarded.putBlob(name, expected, source, o);
      await gate.remember(gate.canonical(name), [blob.digest]);
      return blob;
    },
    async mountBlob(name, digest, from, o) {
      const blob = await guarded.mountBlob(name, digest, from, o);
      if (blob) await gate.remember(gate.canonical(name), [blob.digest]);
      return blob;
    },
    startUpload: async (name, o) => remembering(name, await guarded.startUpload(name, o)),
    resumeUpload: async (name, id, o) => remembering(name, await guarded.resumeUpload(name, id, o)),
    async deleteManifest(name, reference, o) {
      const repository = gate.canonical(name);
      const hides = isDigest(reference) && gate.manifestsMustBeReached(repository);
      const asked = hides ? { ...o, permits: (tag: string) => mayGo(repository, reference, tag, o) } : o;
      await guarded.deleteManifest(name, reference, asked).catch(unnamed(repository, o));
    },
    async deleteBlob(name, digest, o) {
      const repository = gate.canonical(name);
      if (gate.patterns.repository(repository) !== "none" && gate.manifestsMustBeReached(repository)) {
        throw new RegistryError("DENIED", "what is not shown here may need this blob: delete manifests, and let the registry collect");
      }
      await guarded.deleteBlob(name, digest, o).catch(unnamed(repository, o));
    },
  };
}
