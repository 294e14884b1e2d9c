import type { CallOptions, Registry } from "../core/registry.js";
import { intercept } from "../views/intercept.js";
import type { InUse } from "./in-use.js";

/** A member as its aggregate asks it: it is told whom the question has passed, and what it gives counts as in use until it is read. */
export function passing(source: Registry, hop: string, inUse: InUse): Registry {
  const passed = (o: CallOptions | undefined) => ({ via: [...(o?.via ?? []), hop], knownVia: [...(o?.knownVia ?? []), hop] });
  return intercept(
    source,
    ({ repository }) => repository,
    (guarded) => ({
      resolveManifest: (repository, reference, o) => guarded.resolveManifest(repository, reference, { ...o, ...passed(o) }),
      getManifest: (repository, reference, o) => guarded.getManifest(repository, reference, { ...o, ...passed(o) }),
      resolveBlob: (repository, digest, o) => guarded.resolveBlob(repository, digest, { ...o, ...passed(o) }),
      getBlob: async (repository, digest, o) => inUse.reading(await guarded.getBlob(repository, digest, { ...o, ...passed(o) })),
      listTags: (repository, page, o) => guarded.listTags(repository, page, { ...o, ...passed(o) }),
      listRepositories: (page, o) => guarded.listRepositories(page, { ...o, ...passed(o) }),
      listReferrers: (repository, subject, page, o) => guarded.listReferrers(repository, subject, page, { ...o, ...passed(o) }),
    }),
  );
}
