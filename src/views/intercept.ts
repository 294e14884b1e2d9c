import type { Awaitable } from "../core/awaitable.js";
import { RegistryError } from "../core/errors.js";
import { absent, type Lookup } from "../core/lookup.js";
import { madeOf, mountPath, namesOnPath } from "../core/mount-source.js";
import { closesThrough } from "../core/ownership.js";
import type { CallOptions, MountOptions, MountSource, Registry, UploadSession } from "../core/registry.js";
import { mapReads, mapWrites, type RegistryCall, registryCall, sessionThrough } from "../core/registry-calls.js";

/** An answer in place of the call: reads give it, writes throw its error. */
export type Refusal = Extract<Lookup<never>, { kind: "denied" | "unavailable" }>;

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
  /** Each step of a session is decided like the call that opened it. */
  const guarded = (session: UploadSession, question: RegistryCall) => sessionThrough(session, (step) => write(question, step));

  /** Where a blob that is visible here comes from. */
  const sourceOf = async (ours: string, digest: string, o: CallOptions | undefined): Promise<MountSource | undefined> => {
    const entered = await enter(registryCall("resolveBlob", ours, digest, o));
    if (typeof entered !== "string") return undefined;
    // A wrapper that looks at blobs themselves hides some by what they are.
    const lookup = replaced.resolveBlob && (await replaced.resolveBlob(ours, digest, o));
    return lookup && lookup.kind !== "found" && lookup.kind !== "linked" ? undefined : { registry: inner, repository: entered };
  };
  /** Whether a mount without source may take from a repository: not from what is hidden here. */
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
    ...mapReads((question, send) => read(question, (repository) => send(inner, repository))),
    listRepositories: (page, o) => inner.listRepositories(page, o),
    ...mapWrites((question, send) => write(question, (repository) => send(inner, repository))),
    putManifest: (name, reference, content, o) =>
      write(registryCall("putManifest", name, reference, o), async (r) => {
        // Tags beside the reference are written like it, so they are decided like it.
        for (const tag of o?.tags ?? []) await write(registryCall("putManifest", name, tag, o), async () => {});
        return inner.putManifest(r, reference, content, o);
      }),
    mountBlob: (name, digest, from, o) =>
      write(registryCall("mountBlob", name, digest, o), async (r) => {
        if (!from) return inner.mountBlob(r, digest, undefined, { ...o, permits: (theirs) => readable(theirs, digest, o) });
        const source = await mountedFrom(from, digest, o);
        return source === "refused" ? undefined : inner.mountBlob(r, digest, source, o);
      }),
    startUpload: (name, o) => {
      const question = registryCall("startUpload", name, undefined, o);
      return write(question, async (r) => guarded(await inner.startUpload(r, o), question));
    },
    resumeUpload: (name, id, o) => {
      const question = registryCall("resumeUpload", name, undefined, o);
      return write(question, async (r) => guarded(await inner.resumeUpload(r, id, o), question));
    },
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
