import type { ServerResponse } from "node:http";
import type { ByteLease } from "../core/byte-budget.js";
import type { WireBody, WireHeaders } from "./exchange.js";
import type { NodeOutput } from "./node-output.js";
import { Pacing } from "./pacing.js";

interface StreamAnswer {
  readonly status: number;
  readonly headers: WireHeaders;
  readonly body: Extract<WireBody, { kind: "stream" }>;
}

interface StreamReport {
  /** What the transfer holds in memory. */
  readonly lease: ByteLease | undefined;
  /** Told where the client is waited for; where the source is, nobody is. */
  readonly output: NodeOutput;
  /** Called with the size of each chunk that was handed to the connection. */
  sent(bytes: number): void;
  /** The source failed. Before its first byte another response can still be sent. */
  failed(error: unknown): void;
}

/**
 * Sends a stream of known size. Three things set it apart from `stream.pipeline`: the headers wait for the first byte, so that a source that
 * cannot be opened is an error response and not a broken connection; a source of another length than promised breaks the connection, which is the
 * only way to tell the client; and a pull of many small layers does not pay for the machinery.
 */
export function sendStream(response: ServerResponse, answer: StreamAnswer, report: StreamReport): void {
  const { size } = answer.body;
  const { output } = report;
  let source: ReturnType<typeof answer.body.open>;
  try {
    source = answer.body.open();
  } catch (error) {
    report.failed(error);
    return;
  }
  const pacing = new Pacing({ source, response, output, lease: report.lease });
  let sent = 0;
  let over = false;

  const fail = (error: unknown) => {
    if (over) return;
    over = true;
    source.destroy();
    response.off("drain", resume);
    const begun = response.headersSent;
    report.failed(error);
    if (begun) response.destroy();
  };
  const resume = () => {
    output.drained();
    pacing.goOn();
    source.resume();
  };

  const begin = (): boolean => {
    if (response.headersSent) {
      fail(new Error("the host answered in our place"));
      return false;
    }
    try {
      response.writeHead(answer.status, answer.headers);
      return true;
    } catch (error) {
      // A header that Node refuses: thrown from here it would end the host's process.
      fail(error);
      return false;
    }
  };

  source.on("data", (chunk: Uint8Array) => {
    if (over) return;
    if (sent + chunk.byteLength > size) return fail(new Error(`a blob of ${size} bytes gave more`));
    if (sent === 0 && !begin()) return;
    sent += chunk.byteLength;
    report.sent(chunk.byteLength);
    if (response.write(chunk) || pacing.taken()) return output.moved(chunk.byteLength);
    source.pause();
    output.waits(chunk.byteLength);
    pacing.waits();
  });
  source.on("end", () => {
    if (over) return;
    if (sent !== size) return fail(new Error(`a blob of ${size} bytes gave ${sent}`));
    if (sent === 0 && !begin()) return;
    over = true;
    response.end();
    output.last(0);
  });
  source.on("error", fail);
  source.on("close", () => fail(new Error("the blob's source closed early")));
  response.on("drain", resume);
  response.once("close", () => {
    over = true;
    source.destroy();
  });
}
