import { randomBytes } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { DigestAlgorithm } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { CallOptions, UploadSession } from "../core/registry.js";
import { callerKey, Shares } from "../core/shares.js";
import { RemoteUploadSession } from "./upload-session.js";
import type { Upstream } from "./upstream.js";
import { UpstreamUpload } from "./upstream-upload.js";

/** Far more than push at one time; each is a few hundred bytes, and an upload that the upstream keeps. */
const limits = { all: 10_000, each: 1000 } as const;
/** Those that were committed are only remembered, for a client that did not get the answer. */
const committedLimit = 10_000;
/** Milliseconds. How often it is looked which have expired, at most, while another one would be refused. */
const sweepInterval = 10_000;
/** Seconds, as for uploads to a store of our own. */
const retryAfter = 30;

interface Kept {
  readonly repository: string;
  readonly caller: string | undefined;
  readonly sharer: string;
  readonly session: RemoteUploadSession;
}

/**
 * The uploads that run through this process. Clients know them by ids of our own, since the upstream's locations hold state that only this side may use.
 * They are kept in memory: a restart ends them, and clients start anew.
 */
export class RemoteUploads {
  readonly #upstream: Upstream;
  readonly #running = new Map<string, Kept>();
  readonly #committed = new LRUCache<string, Kept>({ max: committedLimit });
  readonly #shares = new Shares(limits);
  #swept = Number.NEGATIVE_INFINITY;

  constructor(upstream: Upstream) {
    this.#upstream = upstream;
  }

  async start(repository: string, o?: CallOptions & { algorithm?: DigestAlgorithm }): Promise<UploadSession> {
    const sharer = callerKey(o);
    this.#admit(sharer);
    // Before the upstream is asked: those who come meanwhile must not all fit.
    this.#shares.add(sharer, 1);
    const upload = await UpstreamUpload.start(this.#upstream.after(o?.via), repository, {
      algorithm: o?.algorithm,
      signal: o?.signal,
    }).catch((error) => {
      this.#shares.add(sharer, -1);
      throw error;
    });
    const id = randomBytes(16).toString("hex");
    const session = new RemoteUploadSession({
      id,
      upload,
      clock: this.#upstream.clock,
      committed: () => {
        const kept = this.#end(id);
        if (kept) this.#committed.set(id, kept);
      },
      forget: () => {
        this.#end(id);
        this.#committed.delete(id);
      },
    });
    this.#running.set(id, { repository, caller: o?.caller?.name, sharer, session });
    return session;
  }

  /** @throws RegistryError TOOMANYREQUESTS when there are as many uploads as there may be, of all or of this one. */
  #admit(sharer: string): void {
    if (!this.#shares.exceededBy(sharer, 1)) return;
    const now = this.#upstream.clock.now();
    if (now - this.#swept >= sweepInterval) {
      this.#swept = now;
      for (const [id, { session }] of this.#running) if (!session.isAlive) this.#end(id);
    }
    const exceeded = this.#shares.exceededBy(sharer, 1);
    if (!exceeded) return;
    const whose = exceeded === "each" ? "of one caller" : "of all callers";
    throw new RegistryError(
      "TOOMANYREQUESTS",
      `${limits[exceeded]} uploads ${whose} are in progress, which is the limit: finish or cancel some, or try again later`,
      { retryAfter },
    );
  }

  #end(id: string): Kept | undefined {
    const kept = this.#running.get(id);
    if (kept && this.#running.delete(id)) this.#shares.add(kept.sharer, -1);
    return kept;
  }

  async resume(repository: string, id: string, o?: CallOptions): Promise<UploadSession> {
    const kept = this.#running.get(id) ?? this.#committed.get(id);
    if (!kept?.session.isAlive || kept.repository !== repository || kept.caller !== o?.caller?.name) {
      throw new RegistryError(
        "BLOB_UPLOAD_UNKNOWN",
        "no such upload in this repository: it was committed, cancelled, has expired, or the server was restarted; start a new one",
      );
    }
    await kept.session.settle(o?.signal);
    return kept.session;
  }
}
