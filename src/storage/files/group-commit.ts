import { Worker } from "node:worker_threads";
import { errorText } from "../../core/errors.js";
import { spendTurn } from "../../core/turn-budget.js";
import { tooNew } from "../sql/formats.js";
import { storageError } from "../storage-error.js";
import { newGate, waitAtExit } from "./commit-exit.js";
import type { CommitFailure, CommitMessage, CommitRequest, CommitStart, GroupAnswer, VersionSpan } from "./commit-messages.js";
import { databaseError } from "./database-errors.js";
import { diskError } from "./disk-errors.js";
import { leftPlace } from "./folder-identity.js";

interface Waiting {
  readonly commit: CommitRequest;
  resolve(committed: boolean): void;
  reject(error: unknown): void;
}

/** What one transaction takes at most, so that nobody waits long for what others write: commits, conditions or changed rows, and bytes of manifests. */
const groupLimits = { commits: 256, rows: 4096, bytes: 16 * 1024 * 1024 };

/** Of a commit that is larger than a group may be, so many conditions and so many rows are sent at a time. */
const partRows = 500;
const partUnits = 100;

/** Who has to know what the transactions of this process did. */
interface CommitObserver {
  /** Before the commits are answered. */
  answered(spans: readonly VersionSpan[]): void;
  /** The thread ended in the middle: what it was committing may have been made. */
  lost(): void;
}

/**
 * Commits in a thread of its own, since each waits for the disk. Those that wait at the same time share one transaction, and so one sync. They stay independent: each
 * sees its own conditions, and a failure is its own.
 *
 * The thread is started with the first commit. It keeps the process alive while commits are under way, and no longer. When it ends by itself, what was under way
 * fails, and the next commit starts another one.
 */
export class GroupCommit {
  readonly #start: Omit<CommitStart, "gate">;
  readonly #observer: CommitObserver;
  #queue: Waiting[] = [];
  #running: Promise<void> | undefined;
  #worker: Worker | undefined;
  /** Who waits for the thread's answer: one group at a time. */
  #asked: { resolve(answer: GroupAnswer): void; reject(error: unknown): void } | undefined;

  constructor(start: Omit<CommitStart, "gate">, observer: CommitObserver) {
    this.#start = start;
    this.#observer = observer;
  }

  add(commit: CommitRequest): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ commit, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /** Resolves when nothing waits any more. */
  async drain(): Promise<void> {
    while (this.#running) await this.#running;
  }

  /** Closes the thread's connection and ends the thread. To be called when nothing waits any more. */
  async stop(): Promise<void> {
    const worker = this.#worker;
    this.#worker = undefined;
    if (!worker) return;
    worker.ref();
    const ended = new Promise((resolve) => worker.once("exit", resolve));
    worker.postMessage("close");
    await ended;
  }

  async #run(): Promise<void> {
    // After the I/O of this turn: requests that arrived together are then all in the queue.
    await new Promise((resolve) => setImmediate(resolve));
    do {
      const group = this.#nextGroup();
      try {
        const { outcomes, spans } = await this.#committed(group.map(({ commit }) => commit));
        this.#observer.answered(spans);
        for (const [index, waiting] of group.entries()) this.#settle(waiting, outcomes[index]);
      } catch (error) {
        this.#observer.lost();
        for (const { reject } of group) reject(error);
      }
    } while (this.#queue.length > 0);
    this.#running = undefined;
  }

  #nextGroup(): readonly Waiting[] {
    const sum = { commits: 0, rows: 0, bytes: 0 };
    const end = this.#queue.findIndex(({ commit }, index) => {
      sum.commits += 1;
      sum.rows += lengthOf(commit);
      for (const { bytes } of commit.rows) sum.bytes += bytes?.byteLength ?? 0;
      // One that is larger than a group goes alone.
      return index > 0 && (sum.commits > groupLimits.commits || sum.rows > groupLimits.rows || sum.bytes > groupLimits.bytes);
    });
    return this.#queue.splice(0, end < 0 ? this.#queue.length : end);
  }

  #settle({ resolve, reject }: Waiting, outcome: boolean | CommitFailure | undefined): void {
    if (typeof outcome === "object") reject(this.#errorOf(outcome));
    else resolve(outcome === true);
  }

  #errorOf({ message, code, errcode, needs, left }: CommitFailure): unknown {
    const { path } = this.#start.place;
    if (left !== undefined) return leftPlace(path, left);
    if (needs !== undefined) return tooNew(needs, this.#start.format);
    const error = Object.assign(new Error(message), { ...(code !== undefined && { code }), ...(errcode !== undefined && { errcode }) });
    return diskError(path, databaseError(path, error));
  }

  /** @throws RegistryError UNAVAILABLE when the thread cannot be started, or ends before it answers. */
  async #committed(commits: readonly CommitRequest[]): Promise<GroupAnswer> {
    const worker = this.#worker ?? this.#started();
    worker.ref();
    try {
      const answer = new Promise<GroupAnswer>((resolve, reject) => {
        this.#asked = { resolve, reject };
      });
      const [only] = commits;
      if (commits.length === 1 && only && lengthOf(only) > groupLimits.rows) await this.#sendInParts(worker, only, answer);
      else send(worker, { group: commits });
      return await answer;
    } finally {
      this.#asked = undefined;
      worker.unref();
    }
  }

  /** To be sent a message is copied, in one go. */
  async #sendInParts(worker: Worker, commit: CommitRequest, answer: Promise<unknown>): Promise<void> {
    // Where the thread ends meanwhile, the caller that waits for the answer gets the error.
    answer.catch(() => {});
    for (let from = 0; from < lengthOf(commit); from += partRows) {
      await spendTurn(partUnits);
      const [conditions, rows] = [commit.conditions.slice(from, from + partRows), commit.rows.slice(from, from + partRows)];
      send(worker, { part: { conditions, rows } });
    }
    send(worker, { group: [] });
  }

  #started(): Worker {
    const gate = newGate();
    const start: CommitStart = { ...this.#start, gate };
    const worker = new Worker(new URL("./commit-worker.mjs", import.meta.url), {
      name: "oci-manifold commits",
      workerData: start,
      // Loaders and inspectors of the host are not for this thread, and that SQLite is an experiment of Node 22 is said once.
      execArgv: ["--disable-warning=ExperimentalWarning"],
    });
    const over = waitAtExit(gate);
    const ended = (cause: unknown) => {
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      this.#asked?.reject(this.#endedError(cause));
    };
    worker.on("message", (answer: GroupAnswer) => this.#asked?.resolve(answer));
    worker.on("error", ended);
    worker.on("exit", over);
    worker.on("exit", (code) => ended(new Error(`it ended with code ${code}`)));
    this.#worker = worker;
    return worker;
  }

  #endedError(cause: unknown): unknown {
    const reason = errorText(cause);
    const message = `the thread that commits to ${this.#start.place.path} ended: try again; the changes may have been made (${reason})`;
    return storageError("UNAVAILABLE", this.#start.place.path, message, { cause, retryAfter: 1 });
  }
}

function lengthOf({ conditions, rows }: CommitRequest): number {
  return Math.max(conditions.length, rows.length);
}

type Row = CommitRequest["rows"][number];

/** Bytes are copied here once and then handed over: a view of a pooled buffer would be sent with all of the pool. */
function send(worker: Worker, message: Exclude<CommitMessage, "close">): void {
  const copied: ArrayBuffer[] = [];
  const sendable = (row: Row): Row => {
    if (!row.bytes) return row;
    const bytes = new Uint8Array(row.bytes);
    copied.push(bytes.buffer);
    return { ...row, bytes };
  };
  const copy = ({ conditions, rows }: CommitRequest): CommitRequest => ({ conditions, rows: rows.map(sendable) });
  const sent = "part" in message ? { part: copy(message.part) } : { group: message.group.map(copy) };
  worker.postMessage(sent, copied);
}
