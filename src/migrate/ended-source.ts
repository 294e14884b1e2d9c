import type { DistributionStorage } from "../core/distribution-storage.js";
import { unlessAborted, untilAborted } from "../core/until-aborted.js";

/**
 * The same source for work that a signal ends: reads look at it first. To list a part of a large folder all of it is read, so the end of that is not waited for. Blobs
 * are read by a registry, which has the signal.
 */
export function endedSource(source: DistributionStorage, signal: AbortSignal | undefined): DistributionStorage {
  if (!signal) return source;
  const unlessEnded = <T>(read: () => Promise<T>): Promise<T> => unlessAborted(signal, read);
  return {
    place: source.place,
    list: (path, page, what) =>
      untilAborted(
        unlessEnded(() => source.list(path, page, what)),
        signal,
      ),
    read: (path, limit) => unlessEnded(() => source.read(path, limit)),
    size: (path) => unlessEnded(() => source.size(path)),
    open: (path) => source.open(path),
    foreign: (path) => unlessEnded(() => source.foreign(path)),
  };
}
