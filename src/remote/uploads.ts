import { randomBytes } from "node:crypto";
import { LRUCache } from "lru-cache";
import type { DigestAlgorithm } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { CallOptions, UploadSession } from "../core/registry.js";
import { RemoteUploadSession } from "./upload-session.js";
import type { Upstream } from "./upstream.js";
import { UpstreamUpload } from "./upstream-upload.js";

/** Far more than push at one time; each is a few hundred bytes. Beyond it the one that rested longest is forgotten. */
const sessionLimit = 10_000;

interface Kept {
  readonly repository: string;
  readonly principal: string | undefined;
  readonly session: RemoteUploadSession;
}

/**
 * The uploads that run through this process. Clients know them by ids of our own, since the upstream's locations hold state that only this side may use.
 * They are kept in memory: a restart ends them, and clients start anew.
 */
export class RemoteUploads {
  readonly #upstream: Upstream;
  readonly #kept = new LRUCache<string, Kept>({ max: sessionLimit });

  constructor(upstream: Upstream) {
    this.#upstream = upstream;
  }

  async start(repository: string, o?: CallOptions & { algorithm?: DigestAlgorithm }): Promise<UploadSession> {
    const upload = await UpstreamUpload.start(this.#upstream.after(o?.via), repository, { algorithm: o?.algorithm, signal: o?.signal });
    const id = randomBytes(16).toString("hex");
    const forget = () => void this.#kept.delete(id);
    const session = new RemoteUploadSession({ id, upload, clock: this.#upstream.clock, forget });
    this.#kept.set(id, { repository, principal: o?.caller?.name, session });
    return session;
  }

  async resume(repository: string, id: string, o?: CallOptions): Promise<UploadSession> {
    const kept = this.#kept.get(id);
    if (!kept?.session.isAlive || kept.repository !== repository || kept.principal !== o?.caller?.name) {
      throw new RegistryError(
        "BLOB_UPLOAD_UNKNOWN",
        "no such upload in this repository: it was committed, cancelled, has expired, or the server was restarted; start a new one",
      );
    }
    await kept.session.settle(o?.signal);
    return kept.session;
  }
}
