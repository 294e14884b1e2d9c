/**
 * Calls as values. {@link accessOf} classifies the methods of a registry; {@link mapReads} and {@link mapWrites} make many methods out of one function that is given the
 * call; {@link sessionThrough} does so for an upload session. What is no plain call stays with each wrapper: a mount, which has a second repository, and methods whose
 * answer the wrapper changes.
 */
import type { Lookup } from "./lookup.js";
import type { CallOptions, Registry, UploadSession } from "./registry.js";

/** What a method does to a registry. */
export type Access = "read" | "catalog" | "push" | "delete" | "neither";

/** Every method, classified: one that is added to `Registry` does not compile until it is classified here, so no wrapper can forget it. */
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
  /** Empty for the catalog, which belongs to no repository. */
  readonly repository: string;
  /** The tag or digest it is about, where there is one. */
  readonly reference?: string;
  readonly options?: CallOptions;
}

export function registryCall(method: RegistryMethod, repository: string, reference?: string, options?: CallOptions): RegistryCall {
  return {
    method,
    access: accessOf[method],
    repository,
    ...(reference !== undefined && { reference }),
    ...(options && { options }),
  };
}

/** Sends a call on: to this registry, under this repository name, with these options beside those that it has. */
type SendCall<T> = (registry: Registry, repository: string, more?: CallOptions) => Promise<T>;

type MethodsFor<A extends Access> = { [M in RegistryMethod]: (typeof accessOf)[M] extends A ? M : never }[RegistryMethod];

/** Every method that reads. @param map decides what becomes of a call; it sends the call on or answers by itself. */
export function mapReads(
  map: <T>(call: RegistryCall, send: SendCall<Lookup<T>>) => Promise<Lookup<T>>,
): Pick<Registry, MethodsFor<"read" | "catalog">> {
  return {
    resolveManifest: (name, reference, o) =>
      map(registryCall("resolveManifest", name, reference, o), (to, there, more) => to.resolveManifest(there, reference, joined(o, more))),
    getManifest: (name, reference, o) =>
      map(registryCall("getManifest", name, reference, o), (to, there, more) => to.getManifest(there, reference, joined(o, more))),
    resolveBlob: (name, digest, o) =>
      map(registryCall("resolveBlob", name, digest, o), (to, there, more) => to.resolveBlob(there, digest, joined(o, more))),
    getBlob: (name, digest, o) =>
      map(registryCall("getBlob", name, digest, o), (to, there, more) => to.getBlob(there, digest, joined(o, more))),
    listTags: (name, page, o) =>
      map(registryCall("listTags", name, undefined, o), (to, there, more) => to.listTags(there, page, joined(o, more))),
    listReferrers: (name, subject, page, o) =>
      map(registryCall("listReferrers", name, subject, o), (to, there, more) => to.listReferrers(there, subject, page, joined(o, more))),
    listRepositories: (page, o) =>
      map(registryCall("listRepositories", "", undefined, o), (to, _there, more) => to.listRepositories(page, joined(o, more))),
  };
}

/** Every method that writes to one repository. @param map as for {@link mapReads}. */
export function mapWrites(
  map: <T>(call: RegistryCall, send: SendCall<T>) => Promise<T>,
): Pick<Registry, Exclude<MethodsFor<"push" | "delete">, "mountBlob">> {
  return {
    putManifest: (name, reference, content, o) =>
      map(registryCall("putManifest", name, reference, o), (to, there, more) => to.putManifest(there, reference, content, joined(o, more))),
    putBlob: (name, expected, source, o) =>
      map(registryCall("putBlob", name, expected.digest, o), (to, there, more) => to.putBlob(there, expected, source, joined(o, more))),
    startUpload: (name, o) =>
      map(registryCall("startUpload", name, undefined, o), (to, there, more) => to.startUpload(there, joined(o, more))),
    resumeUpload: (name, id, o) =>
      map(registryCall("resumeUpload", name, undefined, o), (to, there, more) => to.resumeUpload(there, id, joined(o, more))),
    deleteManifest: (name, reference, o) =>
      map(registryCall("deleteManifest", name, reference, o), (to, there, more) => to.deleteManifest(there, reference, joined(o, more))),
    deleteBlob: (name, digest, o) =>
      map(registryCall("deleteBlob", name, digest, o), (to, there, more) => to.deleteBlob(there, digest, joined(o, more))),
  };
}

function joined<O extends CallOptions>(o: O | undefined, more: CallOptions | undefined): O | undefined {
  return more ? ({ ...o, ...more } as O) : o;
}

/** The same upload session; `run` carries out each step of it. */
export function sessionThrough(session: UploadSession, run: <T>(step: () => Promise<T>) => Promise<T>): UploadSession {
  return {
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
    append: (source, o) => run(() => session.append(source, o)),
    commit: (digest) => run(() => session.commit(digest)),
    cancel: () => run(() => session.cancel()),
  };
}
