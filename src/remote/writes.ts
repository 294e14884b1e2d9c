import { parseDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { parseReference } from "../core/name.js";
import type { Registry } from "../core/registry.js";
import { deleteRemoteBlob, deleteRemoteManifest } from "./deletes.js";
import { mountRemoteBlob, pushBlob } from "./push-blob.js";
import { pushManifest, ReferrersTags } from "./push-manifest.js";
import { RemoteUploads } from "./uploads.js";
import type { Upstream } from "./upstream.js";

/** The methods of a registry that change it. */
export type Writes = Pick<
  Registry,
  "putManifest" | "putBlob" | "mountBlob" | "startUpload" | "resumeUpload" | "deleteManifest" | "deleteBlob"
>;

/**
 * Writes that go to the upstream.
 * @param repositoryOf checks a name and makes it the upstream's. @throws RegistryError NAME_INVALID
 * @param isThis whether a mount's source is the registry that these are the writes of.
 */
export function remoteWrites(source: Upstream, repositoryOf: (text: string) => string, isThis: (other: Registry) => boolean): Writes {
  const upstream = source.withoutMirrors();
  const uploads = new RemoteUploads(upstream);
  const referrersTags = new ReferrersTags();
  return {
    async putManifest(repository, reference, content, o) {
      return pushManifest(upstream.after(o?.via), referrersTags, repositoryOf(repository), parseReference(reference), content, o);
    },
    async putBlob(repository, { digest, size }, source, o) {
      const push = { repository: repositoryOf(repository), digest: parseDigest(digest), size, signal: o?.signal };
      return pushBlob(upstream.after(o?.via), push, source);
    },
    async mountBlob(repository, digest, from, o) {
      const question = { repository: repositoryOf(repository), digest: parseDigest(digest), signal: o?.signal };
      if (from && !isThis(from.registry)) return undefined;
      // The upstream would choose among the repositories that these credentials may read, and not tell which it took.
      if (!from && o?.permits) return undefined;
      return mountRemoteBlob(upstream.after(o?.via), question, from && repositoryOf(from.repository));
    },
    async startUpload(repository, o) {
      return uploads.start(repositoryOf(repository), o);
    },
    async resumeUpload(repository, id, o) {
      return uploads.resume(repositoryOf(repository), id, o);
    },
    async deleteManifest(repository, reference, o) {
      const parsed = parseReference(reference);
      if (parsed.kind === "digest" && (o?.permits || o?.protects)) throw unknownTags(source.name, parsed.digest);
      await deleteRemoteManifest(upstream.after(o?.via), referrersTags, repositoryOf(repository), parsed, o);
    },
    async deleteBlob(repository, digest, o) {
      if (o?.protects) throw unknownTags(source.name, digest);
      await deleteRemoteBlob(upstream.after(o?.via), repositoryOf(repository), parseDigest(digest), o?.signal);
    },
  };
}

/** No upstream says which tags point to a digest, and none takes a delete on the condition that there are no others. */
function unknownTags(name: string, digest: string): RegistryError {
  return new RegistryError(
    "UNSUPPORTED",
    `${name}: which tags would go or break with ${digest} cannot be asked of an upstream, and some are not to be deleted by everybody here: delete tags by name, or at the upstream itself`,
  );
}

/** Writes of a remote that is for reading. */
export function refusedWrites(message: string): Writes {
  const refuse = async (): Promise<never> => {
    throw new RegistryError("UNSUPPORTED", message);
  };
  return {
    putManifest: refuse,
    putBlob: refuse,
    mountBlob: refuse,
    startUpload: refuse,
    resumeUpload: refuse,
    deleteManifest: refuse,
    deleteBlob: refuse,
  };
}
