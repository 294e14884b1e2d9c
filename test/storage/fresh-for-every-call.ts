import type { BlobStore, Staged, StagedState } from "../../src/core/blob-store.js";

/** Every request of an upload comes to an instance that has never seen it, and knows only what went through JSON. */
export function freshForEveryCall(instance: () => BlobStore): BlobStore {
  const restless = (id: string, first: Staged): Staged => {
    let seen = { size: first.size, state: first.state };
    const reopened = () => instance().reopen(id, JSON.parse(JSON.stringify(seen.state)) as StagedState);
    let last: Staged | undefined;
    return {
      get size() {
        return seen.size;
      },
      get state() {
        return seen.state;
      },
      async append(source, o) {
        const staged = await reopened();
        try {
          await staged.append(source, o);
        } finally {
          seen = { size: staged.size, state: staged.state };
        }
      },
      async commit(digest) {
        last = await reopened();
        return last.commit(digest);
      },
      async abort() {
        if (last) await last.abort();
        else await instance().discardStaged(id);
      },
    };
  };
  return {
    ...instance(),
    stage: async (id) => restless(id, await instance().stage(id)),
    reopen: async (id, state) => restless(id, await instance().reopen(id, state)),
  };
}
