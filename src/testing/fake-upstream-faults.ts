import type { IncomingMessage, ServerResponse } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

/** A request as the fake upstream got it. */
export interface FakeRequest {
  readonly method: string;
  /** Path and query. */
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
}

/** An answer before faults are applied. */
export interface FakeReply {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | readonly string[]>>;
  readonly body: Uint8Array;
}

/** What goes wrong with one answer. Everything left out stays as the protocol wants it. */
export interface Fault {
  readonly status?: number;
  /** Added to the headers; `undefined` removes one. Names in lower case. */
  readonly headers?: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly body?: Uint8Array | string;
  /** Milliseconds before anything is sent. */
  readonly delay?: number;
  /** The connection is destroyed after this many bytes of the body. */
  readonly truncateAfter?: number;
  /** The last byte of the body is another one. */
  readonly corrupt?: boolean;
  readonly slowBytesPerSecond?: number;
  /** Answers 307 (or `status`) to this URL. */
  readonly redirect?: string;
  /** Leaves Docker-Content-Digest out. */
  readonly dropDigestHeader?: boolean;
  /** Declared instead of the true length. */
  readonly wrongContentLength?: number;
  /** Sends no Content-Length: the body comes in chunks. */
  readonly dropContentLength?: boolean;
  /** Destroys the connection before any header. */
  readonly hangUp?: boolean;
}

/** The answer with everything but its timing gone wrong. */
export function spoil(reply: FakeReply, fault: Fault): FakeReply {
  const headers: Record<string, string | readonly string[]> = { ...reply.headers };
  let body = typeof fault.body === "string" ? Buffer.from(fault.body) : (fault.body ?? reply.body);
  // A status that is not the reply's comes with a body of its own.
  const replaced = fault.redirect !== undefined || (fault.status !== undefined && fault.status !== reply.status);
  if (replaced && fault.body === undefined) body = new Uint8Array(0);
  if (fault.corrupt) body = body.map((byte, at) => (at === body.byteLength - 1 ? byte ^ 0xff : byte));
  if (body !== reply.body && !fault.corrupt) headers["content-length"] = String(body.byteLength);
  if (fault.wrongContentLength !== undefined) headers["content-length"] = String(fault.wrongContentLength);
  if (fault.dropContentLength) delete headers["content-length"];
  if (fault.dropDigestHeader) delete headers["docker-content-digest"];
  if (fault.redirect !== undefined) headers.location = fault.redirect;
  for (const [name, value] of Object.entries(fault.headers ?? {})) {
    if (value === undefined) delete headers[name];
    else headers[name] = value;
  }
  return { status: fault.status ?? (fault.redirect === undefined ? reply.status : 307), headers, body };
}

/** Sends an answer, slowly or in part if the fault says so. */
export async function send(request: IncomingMessage, response: ServerResponse, reply: FakeReply, fault: Fault): Promise<void> {
  if (fault.delay) await sleep(fault.delay);
  if (fault.hangUp) return void request.socket.destroy();
  response.strictContentLength = false;
  for (const [name, value] of Object.entries(reply.headers)) response.setHeader(name, value);
  response.writeHead(reply.status);
  if (request.method === "HEAD") return void response.end();
  const cut = fault.truncateAfter;
  const body = cut === undefined ? reply.body : reply.body.subarray(0, cut);
  if (fault.slowBytesPerSecond) await writeSlowly(response, body, fault.slowBytesPerSecond);
  else if (cut !== undefined) await new Promise((resolve) => response.write(body, resolve));
  else return void response.end(body);
  if (cut === undefined) response.end();
  else request.socket.destroy();
}

/** In milliseconds: short enough to look like a stream. */
const slowStep = 20;

async function writeSlowly(response: ServerResponse, body: Uint8Array, bytesPerSecond: number): Promise<void> {
  const step = Math.max(1, Math.round((bytesPerSecond * slowStep) / 1000));
  response.flushHeaders();
  for (let at = 0; at < body.byteLength && !response.destroyed; at += step) {
    response.write(body.subarray(at, at + step));
    await sleep(slowStep);
  }
}
