import { Readable } from "node:stream";
import type { Clock } from "../core/clock.js";
import type { Content } from "../core/content.js";
import { RegistryError } from "../core/errors.js";
import { networkReason } from "./failures.js";
import type { UpstreamResponse } from "./transport.js";

export interface HeldResponse {
  readonly response: UpstreamResponse;
  /** For messages. */
  readonly what: string;
  /** Bytes to leave out at the front, where a whole blob came for a part that was asked for. */
  readonly skip: number;
  /** Bytes to give; infinite: to the end of the body, wherever that is. */
  readonly length: number;
  /** Whether the body must end after `skip` and `length`; else the rest is abandoned. */
  readonly toEnd: boolean;
  readonly clock: Clock;
  /** Milliseconds. */
  readonly openWithin: number;
  readonly signal: AbortSignal | undefined;
}

/** Content over a response whose headers were the answer. Not opened in time, its connection is given up; the signal ends it at any time. */
export function heldContent(held: HeldResponse): Content {
  const { response, what, signal } = held;
  const opened = new AbortController();
  let reason: "expired" | "opened" | undefined;
  held.clock.sleep(held.openWithin, opened.signal).then(
    () => {
      reason = "expired";
      response.body.destroy();
    },
    () => {},
  );
  return {
    kind: "stream",
    open() {
      opened.abort();
      if (reason === "opened") throw new RegistryError("UNKNOWN", `${what}: this content was opened before and can be read once`);
      const expired = reason === "expired";
      reason = "opened";
      if (!expired) return new BodyPart(held);
      const gone = new Readable({ read() {} });
      gone.destroy(
        signal?.aborted
          ? asError(signal.reason)
          : new RegistryError("UNAVAILABLE", `${what}: not opened in time, the response was given up`),
      );
      return gone;
    },
  };
}

/** A part of a body, of exactly the declared length or an error. */
class BodyPart extends Readable {
  readonly #held: HeldResponse;
  #skip: number;
  #left: number;

  constructor(held: HeldResponse) {
    super({ highWaterMark: 0 });
    this.#held = held;
    this.#skip = held.skip;
    this.#left = held.length;
    const { body } = held.response;
    body.on("data", (chunk: Buffer) => this.#take(chunk));
    body.on("end", () => (this.#lacks ? this.#brokenOff("the body ended") : this.push(null)));
    body.on("error", (error) => this.#brokenOff(networkReason(error)));
    // A body that was destroyed before it was opened tells only this.
    body.on("close", () => !body.readableEnded && this.#brokenOff("the connection was closed"));
    body.pause();
    if (body.destroyed) this.#brokenOff("the connection was closed");
  }

  get #lacks(): boolean {
    return this.#left > 0 && Number.isFinite(this.#left);
  }

  override _read(): void {
    this.#held.response.body.resume();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#held.response.body.destroy();
    callback(error);
  }

  #take(chunk: Buffer): void {
    if (this.destroyed) return;
    const skipped = Math.min(this.#skip, chunk.byteLength);
    this.#skip -= skipped;
    const rest = chunk.subarray(skipped);
    if (rest.byteLength > this.#left && this.#held.toEnd) {
      this.destroy(new RegistryError("UNAVAILABLE", `${this.#held.what}: the body is longer than the ${this.#held.length} bytes declared`));
      return;
    }
    const part = rest.subarray(0, this.#left);
    this.#left -= part.byteLength;
    // A consumer that waits holds this chunk and no other.
    if (part.byteLength > 0 && (!this.push(part) || this.isPaused())) this.#held.response.body.pause();
    if (this.#left === 0 && !this.#held.toEnd) {
      this.push(null);
      this.#held.response.body.destroy();
    }
  }

  #brokenOff(reason: string): void {
    if (this.destroyed || this.readableEnded || (this.#left === 0 && !this.#held.toEnd)) return;
    const { signal, what, length } = this.#held;
    const progress = Number.isFinite(length) ? ` after ${length - this.#left} of ${length} bytes` : "";
    if (signal?.aborted) this.destroy(asError(signal.reason));
    else this.destroy(new RegistryError("UNAVAILABLE", `${what}: ${reason}${progress}`));
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new RegistryError("UNKNOWN", "the operation was aborted");
}
