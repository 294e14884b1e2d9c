import type { Awaitable } from "../core/awaitable.js";
import { RegistryError } from "../core/errors.js";
import { absent, type Lookup } from "../core/lookup.js";
import { madeOf, mountPath, namesOnPath } from "../core/mount-source.js";
import { closesThrough } from "../core/ownership.js";
import type { CallOptions, MountOptions, MountSource, Registry, UploadSession } from "../core/registry.js";

/** What a method does to a registry. */
export type Access = "read" | "catalog" | "push" | "delete" | "neither";

/** Every method, classified: one that is added to `Registry` does not compile until it stands here, so no wrapper can forget it. */
export const accessOf = {
  identity: "neither",
  canonicalName: "neither",
  resolveManifest: "read",
  getManifest: "read",
  resolveBlob: "read",
  getBlob: "read",
  listTags: "read",
  listReferrers: "read",
  listRepositories: "catalog",
  putManifest: "push",
  putBlob: "push",
  mountBlob: "push",
  startUpload: "push",
  resumeUpload: "push",
  deleteManifest: "delete",
  deleteBlob: "delete",
  forNamespace: "neither",
  ready: "neither",
  close: "neither",
} as const satisfies Record<keyof Registry, Access>;

export type RegistryMethod = keyof typeof accessOf;

/** One operation on one repository, before it reaches the registry behind the wrapper. */
export interface RegistryCall {
  readonly method: RegistryMethod;
  readonly access: Access;
  readonly repository: string;
  /** The tag or digest it is about, where there is one. */
  readonly reference?: string;
  readonly options?: CallOptions;
}

/** An answer in place of the call: reads give it, writes throw its error. */
export interface Refusal {
  readonly kind: "denied" | "unavailable";
  readonly error: RegistryError;
}

/**
 * Decides what becomes of a call: the repository's name behind the wrapper, or `undefined` when it is hidden (reads then answer absent, writes throw
 * NAME_UNKNOWN), or a refusal. May throw a `RegistryError` of its own.
 */
export type Enter = (call: RegistryCall) => Awaitable<string | undefined | Refusal>;

/**
 * A registry in front of another one. Every operation on a repository passes `enter`, those of upload sessions too. Catalog, `canonicalName` and `forNamespace` pass
 * unchanged: a wrapper that changes names or hides repositories replaces them. One that refuses anything replaces `forNamespace` by {@link behindNamespaces}.
 *
 * @param replace methods that do more than decide; they are given the guarded registry as it would be without them.
 * @param outerName the name in front of the wrapper of a repository behind it, for a wrapper that changes names.
 *
 * @example
 * ```ts
 * import { localRegistry, type Registry, RegistryError } from "oci-manifold";
 * import { behindNamespaces, intercept } from "oci-manifold/extend";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const frozen = (registry: Registry): Registry =>
 *   intercept(
 *     registry,
 *     ({ access, repository }) => {
 *       if (access === "delete") throw new RegistryError("DENIED", "nothing is deleted during the audit: try again tomorrow");
 *       return repository;
 *     },
 *     () => behindNamespaces(registry, frozen),
 *   );
 * const release = frozen(localRegistry({ storage: memoryStorage(), name: "release" }));
 * await release.deleteManifest("team/app", "1.0").catch((error) => console.log(error.code)); // DENIED
 * ```
 */
export function intercept(
  inner: Registry,
  enter: Enter,
  replace?: (guarded: Registry) => Partial<Registry>,
  outerName: (repository: string) => string | undefined = (repository) => repository,
): Registry {
  const call = (method: RegistryMethod, repository: string, reference?: string, options?: CallOptions): RegistryCall => ({
    method,
    access: accessOf[method],
    repository,
    ...(reference !== undefined && { reference }),
    ...(options && { options }),
  });
  const read = async <T>(question: RegistryCall, run: (repository: string) => Promise<Lookup<T>>): Promise<Lookup<T>> => {
    const entered = await enter(question);
    if (typeof entered === "object") return entered;
    return entered === undefined ? absent : run(entered);
  };
  const write = async <T>(question: RegistryCall, run: (repository: string) => Promise<T>): Promise<T> => {
    const entered = await enter(question);
    if (typeof entered === "object") throw entered.error;
    if (entered === undefined) throw new RegistryError("NAME_UNKNOWN", `${question.repository} cannot be written to here`);
    return run(entered);
  };
  const guarded = (session: UploadSession, question: RegistryCall): UploadSession => ({
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
    append: (source, o) => write(question, () => session.append(source, o)),
    commit: (digest) => write(question, () => session.commit(digest)),
    cancel: () => write(question, () => session.cancel()),
  });

  /** Where a blob that is visible here comes from. */
  const sourceOf = async (ours: string, digest: string, o: CallOptions | undefined): Promise<MountSource | undefined> => {
    const entered = await enter(call("resolveBlob", ours, digest, o));
    if (typeof entered !== "string") return undefined;
    // A wrapper that looks at blobs themselves hides some by what they are.
    const lookup = replaced.resolveBlob && (await replaced.resolveBlob(ours, digest, o));
    return lookup && lookup.kind !== "found" && lookup.kind !== "linked" ? undefined : { registry: inner, repository: entered };
  };
  /** A mount without source must not take from what is hidden here. */
  const readable = async (theirs: string, digest: string, o: MountOptions | undefined): Promise<boolean> => {
    const ours = outerName(theirs);
    if (ours === undefined || !(await sourceOf(ours, digest, o))) return false;
    return (await o?.permits?.(ours)) ?? true;
  };
  /** What a mount takes from. `refused`: it is what this wrapper shows, under whichever registry's name it was asked for, and hidden here. */
  const mountedFrom = async (from: MountSource, digest: string, o: MountOptions | undefined): Promise<MountSource | "refused"> => {
    if (from.registry === outer) return (await sourceOf(from.repository, digest, o)) ?? "refused";
    const path = await mountPath(from, digest, o);
    const names = path && namesOnPath(outer, path);
    if (path && !names) return from;
    for (const ours of names ?? []) {
      const source = await sourceOf(ours, digest, o);
      if (source) return source;
    }
    return "refused";
  };

  const outer: Registry = {
    ...(inner.identity !== undefined && { identity: inner.identity }),
    ...(inner.canonicalName && { canonicalName: inner.canonicalName.bind(inner) }),
    resolveManifest: (name, reference, o) =>
      read(call("resolveManifest", name, reference, o), (r) => inner.resolveManifest(r, reference, o)),
    getManifest: (name, reference, o) => read(call("getManifest", name, reference, o), (r) => inner.getManifest(r, reference, o)),
    resolveBlob: (name, digest, o) => read(call("resolveBlob", name, digest, o), (r) => inner.resolveBlob(r, digest, o)),
    getBlob: (name, digest, o) => read(call("getBlob", name, digest, o), (r) => inner.getBlob(r, digest, o)),
    listTags: (name, page, o) => read(call("listTags", name, undefined, o), (r) => inner.listTags(r, page, o)),
    listReferrers: (name, subject, page, o) =>
      read(call("listReferrers", name, subject, o), (r) => inner.listReferrers(r, subject, page, o)),
    listRepositories: (page, o) => inner.listRepositories(page, o),
    putManifest: (name, reference, content, o) =>
      write(call("putManifest", name, reference, o), async (r) => {
        // Tags beside the reference are written like it, so they are decided like it.
        for (const tag of o?.tags ?? []) await write(call("putManifest", name, tag, o), async () => {});
        return inner.putManifest(r, reference, content, o);
      }),
    putBlob: (name, expected, source, o) => write(call("putBlob", name, expected.digest, o), (r) => inner.putBlob(r, expected, source, o)),
    mountBlob: (name, digest, from, o) =>
      write(call("mountBlob", name, digest, o), async (r) => {
        if (!from) return inner.mountBlob(r, digest, undefined, { ...o, permits: (theirs) => readable(theirs, digest, o) });
        const source = await mountedFrom(from, digest, o);
        return source === "refused" ? undefined : inner.mountBlob(r, digest, source, o);
      }),
    startUpload: (name, o) => {
      const question = call("startUpload", name, undefined, o);
      return write(question, async (r) => guarded(await inner.startUpload(r, o), question));
    },
    resumeUpload: (name, id, o) => {
      const question = call("resumeUpload", name, undefined, o);
      return write(question, async (r) => guarded(await inner.resumeUpload(r, id, o), question));
    },
    deleteManifest: (name, reference, o) => write(call("deleteManifest", name, reference, o), (r) => inner.deleteManifest(r, reference, o)),
    deleteBlob: (name, digest, o) => write(call("deleteBlob", name, digest, o), (r) => inner.deleteBlob(r, digest, o)),
    forNamespace: (host) => inner.forNamespace(host),
    ready: (o) => inner.ready(o),
    close: (o) => inner.close(o),
  };
  closesThrough(outer, inner);
  madeOf(outer, {
    parts: () => [inner],
    behind: sourceOf,
    namesOf: (_part, theirs) => [outerName(theirs) ?? []].flat(),
  });
  const replaced = replace?.({ ...outer }) ?? {};
  // One object, so that a mount from this very registry is recognised by identity.
  return Object.assign(outer, replaced);
}

/**
 * The registries behind `?ns=` in a wrapper of their own, the same one each time, so that nobody walks around the outer one.
 *
 * @example
 * ```ts
 * import { localRegistry, readOnly } from "oci-manifold";
 * import { behindNamespaces } from "oci-manifold/extend";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const { forNamespace } = behindNamespaces(localRegistry({ storage: memoryStorage(), name: "release" }), readOnly);
 * console.log(forNamespace("registry.example")); // undefined: a local registry knows no namespaces
 * ```
 */
export function behindNamespaces(inner: Registry, wrap: (behind: Registry) => Registry): Pick<Registry, "forNamespace"> {
  const wrapped = new WeakMap<Registry, Registry>();
  return {
    forNamespace(host) {
      const behind = inner.forNamespace(host);
      if (!behind) return undefined;
      const known = wrapped.get(behind) ?? wrap(behind);
      wrapped.set(behind, known);
      return known;
    },
  };
}
