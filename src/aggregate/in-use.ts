import type { Content } from "../core/content.js";
import { type Lookup, mapFound } from "../core/lookup.js";
import type { BlobContent, UploadSession } from "../core/registry.js";

/**
 * Content that was answered may still be opened so long after: what can be removed at run time stays usable for that time. Remotes give up what nobody opens
 * after half a minute as well.
 */
export const opensWithin = 30_000;

/** What runs through a registry at the moment, so that a registry that is taken away is not closed under a transfer. */
export class InUse {
  #running = 0;
  #waiting: (() => void)[] = [];

  async during<T>(run: () => Promise<T>): Promise<T> {
    const end = this.begin();
    try {
      return await run();
    } finally {
      end();
    }
  }

  /** The same answer; reading its bytes counts until the stream is closed. */
  reading(lookup: Lookup<BlobContent>): Lookup<BlobContent> {
    if (lookup.kind !== "found" || lookup.value.content.kind !== "stream") return lookup;
    return mapFound(lookup, (value) => ({ ...value, content: this.#counted(value.content) }));
  }

  /** The same session; what is done with it counts. */
  writing(session: UploadSession): UploadSession {
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
      append: (source, o) => this.during(() => session.append(source, o)),
      commit: (digest) => this.during(() => session.commit(digest)),
      cancel: () => this.during(() => session.cancel()),
    };
  }

  /** Counts one use until the answer is called. */
  begin(): () => void {
    this.#running++;
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      this.#running--;
      if (this.#running > 0) return;
      for (const resolve of this.#waiting.splice(0)) resolve();
    };
  }

  /** Resolves when nothing runs. */
  async idle(): Promise<void> {
    while (this.#running > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  #counted(content: Content): Content {
    if (content.kind !== "stream") return content;
    return {
      kind: "stream",
      open: () => {
        const end = this.begin();
        try {
          return content.open().once("close", end);
        } catch (error) {
          end();
          throw error;
        }
      },
    };
  }
}
