import { Readable } from "node:stream";
import type { Clock } from "../../core/clock.js";
import { withheldTail, withholdTail } from "../../core/content.js";
import { RegistryError } from "../../core/errors.js";
import { untilAborted } from "../../core/until-aborted.js";
import type { Fill } from "./fill.js";
import { type TransferSource, transferred } from "./transfer.js";

export interface FillReaderOptions {
  readonly start: number;
  /** Inclusive. */
  readonly end: number;
  /** The whole blob's. */
  readonly size: number;
  /** Bytes of a part may go out before the whole is verified. */
  readonly unverified: boolean;
  readonly clock: Clock;
  /** Ends readers that go on at the source. */
  readonly closing: AbortSignal;
  readonly sources: readonly TransferSource[];
  /** Opens a part of the blob once the store has it. */
  stored(range: { start: number; end: number }): Promise<AsyncIterable<Uint8Array>>;
  /** Called once, when the reader is done or gone. */
  left(): void;
}

/**
 * A stream of a part of a blob while it is filled, at the reader's own pace. The last chunk waits until the whole blob is verified and stored, so nobody ever
 * holds a complete answer of wrong bytes.
 */
export function fillReader(fill: Fill, o: FillReaderOptions): Readable {
  const leaving = new AbortController();
  fill.enter();
  const bytes = followed(fill, o, leaving.signal);
  let over = false;
  return new Readable({
    // Nothing is read before the reader wants it: it may never.
    highWaterMark: 0,
    read() {
      bytes.next().then(
        ({ done, value }) => this.push(done ? null : value),
        (error) => this.destroy(error),
      );
    },
    // Unlike the stream of a generator this one does not wait for the generator, which may wait for a stalled source.
    destroy(error, done) {
      leaving.abort(new RegistryError("UNAVAILABLE", "the reader left"));
      void bytes.return(undefined).catch(() => {});
      if (!over) {
        over = true;
        fill.leave();
        o.left();
      }
      done(error);
    },
  });
}

async function* followed(fill: Fill, o: FillReaderOptions, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const { generation } = fill;
  let position = o.start;
  while (position <= o.end) {
    if (fill.failure) throw fill.failure;
    if (fill.generation !== generation && position > o.start) {
      throw new RegistryError("UNAVAILABLE", `the source sent other bytes than ${fill.digest}; ask again`);
    }
    if (fill.phase === "stored") {
      yield* await o.stored({ start: position, end: o.end });
      return;
    }
    const withheld = o.unverified && o.end - o.start + 1 < o.size ? 0 : withheldTail;
    const releasable = Math.min(fill.received, o.end + 1 - withheld);
    if (fill.phase === "overflowed" && position >= releasable) {
      yield* fromSource(fill, o, position, signal);
      return;
    }
    const { spool } = fill;
    if (fill.phase === "adopting" || position >= releasable || !spool) {
      await untilAborted(fill.changed, signal);
      continue;
    }
    try {
      for await (const chunk of spool.read({ start: position, end: releasable - 1 })) {
        position += chunk.byteLength;
        yield chunk;
      }
    } catch (error) {
      // The bytes went after we decided to read and before the file was opened: into the store, or away because the fill failed.
      if (!movedAway(fill) && fill.generation === generation && fill.spool === spool) throw error;
    }
  }
}

/** The rest of a fill that has overflowed: from the source, for this reader alone, verified together with what the spool gave. */
async function* fromSource(fill: Fill, o: FillReaderOptions, position: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const { overflow, received, digest } = fill;
  if (!overflow) throw new RegistryError("UNAVAILABLE", `${digest} cannot be stored`);
  const hasher = overflow.copy();
  const ending = AbortSignal.any([signal, o.closing]);
  const bytes = transferred({ sources: o.sources, used: new Set(), from: received, size: o.size, hasher, clock: o.clock, signal: ending });
  const before: Uint8Array[] = [];
  if (position < received && fill.spool) {
    for await (const chunk of fill.spool.read({ start: position, end: Math.min(received - 1, o.end) })) before.push(chunk);
  }
  yield* withholdTail(bytes, { start: position, end: o.end + 1, from: received, before }, () => {
    if (hasher.digest() !== digest) throw new RegistryError("UNAVAILABLE", `the source sent other bytes than ${digest}; ask again`);
  });
}

/** A function of its own, since the compiler does not see that the phase changes while a reader waits. */
function movedAway({ phase }: Fill): boolean {
  return phase === "adopting" || phase === "stored";
}
