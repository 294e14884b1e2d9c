import type { MetadataStore } from "../core/metadata-store.js";

/** The same store for work that a signal ends: reads look at it first. What is being committed is committed, so that no step is left half done without need. */
export function endedBy(metadata: MetadataStore, signal: AbortSignal | undefined): MetadataStore {
  if (!signal) return metadata;
  const unlessEnded = <T>(read: () => Promise<T>): Promise<T> => (signal.aborted ? Promise.reject(signal.reason) : read());
  return {
    get: (key) => unlessEnded(() => metadata.get(key)),
    page: (range) => unlessEnded(() => metadata.page(range)),
    names: (range) => unlessEnded(() => metadata.names(range)),
    commit: (conditions, changes) => metadata.commit(conditions, changes),
    ...(metadata.now && { now: metadata.now.bind(metadata) }),
    ready: () => metadata.ready(),
    close: () => metadata.close(),
  };
}
