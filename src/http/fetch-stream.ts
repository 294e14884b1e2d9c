import type { Readable } from "node:stream";
import type { WireBody } from "./exchange.js";
import type { FlowGuard } from "./flow.js";

interface StreamReport {
  /** Nobody reads any more. */
  readonly signal: AbortSignal;
  /** Is given what breaks the body off, though somebody reads. */
  breakable(breakOff: (reason: Error) => void): void;
  readonly guard: FlowGuard;
  /** The client does not read on. */
  stalled(): void;
  /** The source failed after its first chunk: the body breaks off. */
  failed(error: unknown): void;
  /** Called with the size of each chunk that was handed to the runtime. */
  sent(bytes: number): void;
  /** The last chunk was handed over, or the client left, or the source failed. Called once, and not for a body that is all there. */
  ended(whole: boolean): void;
}

/**
 * Opens a stream of known size as the body of a Web `Response`; what is one chunk becomes plain bytes. The first chunk is awaited, so that a source that
 * cannot be opened is an error response; the last one waits until the source has ended, so that one of another length than promised never makes a
 * whole response.
 *
 * @throws what the source fails with before its first chunk.
 */
export async function openBody(
  content: Extract<WireBody, { kind: "stream" }>,
  report: StreamReport,
): Promise<Uint8Array | ReadableStream<Uint8Array>> {
  const source = content.open();
  // An error between two reads has nobody else to take it.
  source.on("error", () => {});
  const stop = () => void source.destroy();
  if (report.signal.aborted) stop();
  else report.signal.addEventListener("abort", stop, { once: true });
  const chunks = exactChunks(source, content.size);
  try {
    const first = await chunks.next();
    if (first.done) return new Uint8Array(0);
    report.signal.throwIfAborted();
    return first.value.last ? first.value.bytes : webStream(first.value, chunks, report);
  } catch (error) {
    source.destroy();
    throw error;
  }
}

/** Not of type "bytes": such a stream detaches the memory of each chunk, which here may be a store's own or a part of Node's pool. */
function webStream(first: Chunk, chunks: AsyncIterator<Chunk>, report: StreamReport): ReadableStream<Uint8Array> {
  const { guard } = report;
  // How much has left, only the runtime knows.
  const flow = guard.outgoing(
    () => "unknown",
    () => report.stalled(),
  );
  let waiting: Chunk | undefined = first;
  let over = false;
  const ended = (whole: boolean) => {
    if (over) return;
    over = true;
    guard.end(flow);
    report.ended(whole);
  };
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        // At once: a runtime whose client does not read would not ask for the next chunk.
        report.breakable((reason) => {
          if (!over) controller.error(reason);
          ended(false);
        });
        flow.waits();
      },
      async pull(controller) {
        flow.rests();
        try {
          const chunk = waiting ?? (await chunks.next()).value;
          waiting = undefined;
          if (over || !chunk) return;
          controller.enqueue(chunk.bytes);
          report.sent(chunk.bytes.byteLength);
          flow.moved(chunk.bytes.byteLength);
          if (!chunk.last) return flow.waits();
          controller.close();
          ended(true);
        } catch (error) {
          if (!over) report.failed(error);
          ended(false);
          throw error;
        }
      },
      cancel: () => ended(false),
    },
    // Nothing is read before the runtime asks for it.
    { highWaterMark: 0 },
  );
}

interface Chunk {
  readonly bytes: Uint8Array;
  readonly last: boolean;
}

/** The chunks of a source that must have exactly this size. The last one comes out once the source has ended. */
async function* exactChunks(source: Readable, size: number): AsyncGenerator<Chunk, undefined> {
  let held: Uint8Array | undefined;
  let received = 0;
  for await (const bytes of source as AsyncIterable<Uint8Array>) {
    received += bytes.byteLength;
    if (received > size) throw new Error(`a blob of ${size} bytes gave more`);
    if (received === size) held = bytes;
    else yield { bytes, last: false };
  }
  if (received !== size) throw new Error(`a blob of ${size} bytes gave ${received}`);
  if (held) yield { bytes: held, last: true };
  return undefined;
}
