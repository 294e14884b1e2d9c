import { UseCount } from "../aggregate/members.js";
import { madeOf } from "../core/mount-source.js";
import type { Registry } from "../core/registry.js";
import { mapReads, mapWrites } from "../core/registry-calls.js";

/** A registry and what runs through it. */
interface ServedRegistry {
  readonly registry: Registry;
  readonly useCount: UseCount;
}

/** One object for hosts to serve, whatever a new configuration puts behind it. */
export class SwappableRegistry {
  #now: ServedRegistry;
  readonly registry: Registry;

  constructor(registry: Registry, own: Pick<Registry, "ready" | "close">) {
    this.#now = { registry, useCount: new UseCount() };
    this.registry = Object.assign(
      through(() => this.#now),
      own,
    );
  }

  /** Serves another registry from now on. What runs goes on where it began. @returns what was served before. */
  swap(registry: Registry): ServedRegistry {
    const before = this.#now;
    this.#now = { registry, useCount: new UseCount() };
    return before;
  }
}

function through(now: () => ServedRegistry): Registry {
  const run = <T>(call: (registry: Registry, useCount: UseCount) => Promise<T>): Promise<T> => {
    const { registry, useCount } = now();
    return useCount.during(() => call(registry, useCount));
  };
  const outer: Registry = {
    canonicalName: (repository) => now().registry.canonicalName?.(repository) ?? repository,
    ...mapReads(({ repository }, send) => run((r) => send(r, repository))),
    getBlob: (repository, digest, o) => run(async (r, useCount) => useCount.reading(await r.getBlob(repository, digest, o))),
    ...mapWrites(({ repository }, send) => run((r) => send(r, repository))),
    // From this very registry: the one behind knows itself, not this object.
    mountBlob: (repository, digest, from, o) =>
      run((r) => r.mountBlob(repository, digest, from?.registry === outer ? { ...from, registry: r } : from, o)),
    startUpload: (repository, o) => run(async (r, useCount) => useCount.writing(await r.startUpload(repository, o))),
    resumeUpload: (repository, id, o) => run(async (r, useCount) => useCount.writing(await r.resumeUpload(repository, id, o))),
    forNamespace(host) {
      const { registry, useCount } = now();
      const there = registry.forNamespace(host);
      return there && through(() => ({ registry: there, useCount }));
    },
    ready: (o) => now().registry.ready(o),
    close: (o) => now().registry.close(o),
  };
  madeOf(outer, {
    parts: () => [now().registry],
    behind: (repository) => ({ registry: now().registry, repository }),
    namesOf: (_part, repository) => [repository],
  });
  return outer;
}
