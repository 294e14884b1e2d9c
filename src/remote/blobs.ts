/**
 * Blobs of an upstream: `resolveRemoteBlob` tells what it states of one, `getRemoteBlob` gets one or a part of it. A response is the answer as soon as its headers are there, so it is
 * held (`heldContent`) until somebody opens its body. Bytes are not verified here; `verified-blobs.ts` does that.
 */
import { Readable } from "node:stream";
import type { Clock } from "../core/clock.js";
import type { Content } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { algorithmOf, type Digest, digestOf } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { absent, found, type Lookup } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import { type ByteRange, type ResolvedRange, resolveRange } from "../core/range.js";
import type { BlobContent, GetBlobOptions } from "../core/registry.js";
import { type Coding, decodedStream } from "./content-coding.js";
import { failureOfError, networkReason, type RemoteError, RemoteFailure, unavailable } from "./failures.js";
import { isFromStorage } from "./storage-refusal.js";
import {
  bodyLength,
  contentCoding,
  contentLength,
  contentType,
  discard,
  headerOf,
  headFallbacks,
  readCapped,
  type UpstreamResponse,
  wholeNumber,
} from "./transport.js";
import { pullScope, type Upstream } from "./upstream.js";

export interface BlobAddress {
  readonly repository: string;
  readonly digest: Digest;
  readonly signal: AbortSignal | undefined;
}

export interface BlobQuestion extends BlobAddress {
  /** Milliseconds. */
  readonly openWithin: number;
}

/** How many bytes are read to find out whether they are the blob, where headers do not tell: most sign-in pages and configs have less. */
const readToResolve = 64 * 1024;

/**
 * What the upstream states of a blob: by HEAD; where that tells no size, by the headers of a GET, whose body is then abandoned. A HEAD that says it is a web page
 * (a sign-in page, a content network's `index.html`) is no blob. Where the GET says that, or no size, its bytes decide.
 */
export async function resolveRemoteBlob(upstream: Upstream, question: BlobAddress): Promise<Lookup<Descriptor>> {
  const head = await sizeByHead(upstream, question);
  if (head.kind !== "size") return head;
  if (head.isWebPage) return absent;
  if (head.size !== undefined) return found(describe(question, head.size), { member: [upstream.name] });
  const reply = await upstream.send({ method: "GET", ...asked(question) });
  if (reply.kind !== "response") return reply;
  const size = statedSize(question.digest, reply.response);
  if (size === undefined || isWebPage(reply.response)) return resolveByBytes(upstream, question, reply.response);
  // Destroyed, not read on: a layer may have gigabytes.
  reply.response.body.destroy();
  return found(describe(question, size), { member: [upstream.name] });
}

async function resolveByBytes(upstream: Upstream, question: BlobAddress, response: UpstreamResponse): Promise<Lookup<Descriptor>> {
  const { digest, signal } = question;
  let bytes: Uint8Array;
  try {
    bytes = await readCapped(response, readToResolve);
  } catch (error) {
    if (!(error instanceof RemoteFailure)) return failureOfError(error, `${upstream.name}: ${asked(question).what}`, signal);
    // More than is read here. What says of itself that it is a page is none at a HEAD either.
    return isWebPage(response) ? absent : noSize(upstream, question);
  }
  if (digestOf(bytes, algorithmOf(digest)) === digest) return found(describe(question, bytes.byteLength), { member: [upstream.name] });
  return isWebPage(response) ? absent : unavailable(`${upstream.name}: the upstream sent other bytes than ${digest}`);
}

/** What is asked of a blob, and what the asker knows of its size. */
export type BlobWish = Pick<GetBlobOptions, "range" | "size" | "unsized">;

/**
 * The blob or a part of it, as a stream of exactly the declared length, or to the end of the answer where nobody knows the length and the asker permits
 * that. The bytes are not hashed here: the caller verifies them, as a cache does on the way into its store.
 * @throws RegistryError RANGE_INVALID when the range lies outside the blob.
 */
export async function getRemoteBlob(upstream: Upstream, question: BlobQuestion, wish: BlobWish): Promise<Lookup<BlobContent>> {
  const { range } = wish;
  const headers = range && { range: rangeHeader(range) };
  let reply = await upstream.send({ method: "GET", ...asked(question), ...(headers && { headers, accept: [206, 416] }) });
  if (reply.kind !== "response") return reply;
  if (reply.response.status === 416 && range) {
    const { response, asked: first } = reply;
    discard(response);
    const isStorage = isFromStorage(response, first);
    const total = await totalOf(upstream, question, contentRange(response).total, isStorage ? wish.size : undefined, isStorage);
    if (typeof total === "object") return total;
    // Throws where the range is wrong.
    if (total !== undefined) resolveRange(range, total);
    if (total === undefined || !isStorage) throw refusedRange(upstream, question, total);
    // Storage refuses what the blob has: 416 is no answer any more.
    reply = await upstream.send({ method: "GET", ...asked(question), ...(headers && { headers }), accept: [206] });
    if (reply.kind !== "response") return reply;
  }
  if (reply.response.status === 206 && range) {
    const { response } = reply;
    const part = matchingPart(response, range);
    // In a content coding it may be a part of the encoded blob: its total tells.
    const isOfBlob = contentCoding(response) === undefined || part?.total === wish.size;
    if (part && isOfBlob) return hold(upstream, question, response.body, part.total, part, "part");
    // Another part than the one asked for: some proxies align ranges to their chunks. The whole blob serves, its beginning skipped.
    response.body.destroy();
    reply = await upstream.send({ method: "GET", ...asked(question) });
    if (reply.kind !== "response") return reply;
  }
  const { response } = reply;
  const coding = contentCoding(response);
  let size = contentLength(response) ?? wish.size;
  if (size === undefined && wish.unsized && coding === undefined)
    return hold(upstream, question, response.body, undefined, undefined, "whole");
  if (size === undefined) {
    const head = await sizeByHead(upstream, { ...question, besideAnother: true });
    if (head.kind !== "size" || head.size === undefined) response.body.destroy();
    if (head.kind !== "size") return head;
    if (head.size === undefined) return noSize(upstream, question, coding);
    size = head.size;
  }
  let wanted: ResolvedRange | undefined;
  try {
    wanted = range && resolveRange(range, size);
  } catch (error) {
    response.body.destroy();
    throw error;
  }
  // A body as long as the blob is the blob, which is in gzip itself as most layers are: storage was told so when it was stored.
  const body = coding === undefined || bodyLength(response) === size ? response.body : decodedStream(response.body, coding);
  return hold(upstream, question, body, size, wanted, "whole");
}

function hold(
  upstream: Upstream,
  question: BlobQuestion,
  body: Readable,
  size: number | undefined,
  range: ResolvedRange | undefined,
  extent: "whole" | "part",
): Lookup<BlobContent> {
  const { openWithin, signal } = question;
  const what = `${upstream.name}: ${asked(question).what}`;
  const length = range ? range.end - range.start + 1 : (size ?? Number.POSITIVE_INFINITY);
  const skip = range && extent === "whole" ? range.start : 0;
  const toEnd = extent === "part" || skip + length === size;
  const content = heldContent({ body, what, skip, length, toEnd, clock: upstream.clock, openWithin, signal });
  const unsized = size === undefined && ({ unsized: true } as const);
  return found({ descriptor: describe(question, size ?? 0), content, ...unsized, ...(range && { range }) }, { member: [upstream.name] });
}

async function sizeByHead(
  upstream: Upstream,
  { besideAnother = false, ...question }: BlobAddress & { readonly besideAnother?: boolean },
): Promise<{ readonly kind: "size"; readonly size: number | undefined; readonly isWebPage: boolean } | RemoteError> {
  const reply = await upstream.send({ method: "HEAD", ...asked(question), accept: headFallbacks, besideAnother });
  if (reply.kind !== "response") return reply;
  const { response } = reply;
  discard(response);
  // The headers of a redirect are about its own body.
  if (response.status !== 200) return { kind: "size", size: undefined, isWebPage: false };
  const page = isWebPage(response);
  return { kind: "size", size: page ? undefined : statedSize(question.digest, response), isWebPage: page };
}

/** What an answer says of the blob's size. Some proxies answer every HEAD with `Content-Length: 0`, which can be true of one digest only. */
function statedSize(digest: Digest, response: UpstreamResponse): number | undefined {
  const size = contentLength(response);
  return size === 0 && digest !== digestOf(new Uint8Array(0), algorithmOf(digest)) ? undefined : size;
}

function isWebPage(response: UpstreamResponse): boolean {
  const type = contentType(response);
  return type === "text/html" || type === "application/xhtml+xml";
}

/**
 * How large a blob is of which a range was refused, as far as anybody says.
 * @param stated by the 416. Storage may be wrong about that, as about the range, so the registry's word goes first there.
 * @param known what the asker knows.
 */
async function totalOf(
  upstream: Upstream,
  question: BlobQuestion,
  stated: number | undefined,
  known: number | undefined,
  isStorage: boolean,
): Promise<number | undefined | RemoteError> {
  const told = known ?? (isStorage ? undefined : stated);
  if (told !== undefined) return told;
  const head = await sizeByHead(upstream, question);
  return head.kind === "size" ? (head.size ?? stated) : head;
}

function refusedRange(upstream: Upstream, question: BlobQuestion, total: number | undefined): RegistryError {
  const detail = total === undefined ? undefined : { total };
  return new RegistryError("RANGE_INVALID", `${upstream.name}: ${asked(question).what}: the range was refused`, { detail });
}

function asked({ repository, digest, signal }: BlobAddress) {
  const path = `/v2/${repository}/blobs/${digest}`;
  return { path, scope: pullScope(repository), what: `blob ${digest} of ${repository}`, signal, fromStorage: true };
}

function describe({ digest }: BlobAddress, size: number): Descriptor {
  return { mediaType: mediaTypes.octetStream, digest, size };
}

function noSize(upstream: Upstream, question: BlobAddress, coding?: Coding): RemoteError {
  const compressed = coding === undefined ? "" : `the answer is compressed (${coding}), and `;
  return unavailable(`${upstream.name}: ${asked(question).what}: ${compressed}the upstream does not say how large it is`);
}

function rangeHeader(range: ByteRange): string {
  return "last" in range ? `bytes=-${range.last}` : `bytes=${range.start}-${range.end ?? ""}`;
}

/** The part a 206 holds, if it is the one asked for. */
function matchingPart(response: UpstreamResponse, range: ByteRange): ResolvedRange | undefined {
  const { start, end, total } = contentRange(response);
  if (start === undefined || end === undefined || !total) return undefined;
  try {
    const wanted = resolveRange(range, total);
    return wanted.start === start && wanted.end === end ? wanted : undefined;
  } catch {
    return undefined;
  }
}

// Of a 206 `bytes 0-9/100`, of a 416 `bytes *`, a slash and the total.
function contentRange(response: UpstreamResponse): { readonly start?: number; readonly end?: number; readonly total?: number } {
  const match = /^bytes (?:(\d+)-(\d+)|\*)\/(\d+)$/i.exec(headerOf(response, "content-range")?.trim() ?? "");
  const [start, end, total] = [wholeNumber(match?.[1]), wholeNumber(match?.[2]), wholeNumber(match?.[3])];
  return { ...(start !== undefined && { start }), ...(end !== undefined && { end }), ...(total !== undefined && { total }) };
}

interface HeldBody {
  readonly body: Readable;
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
function heldContent(held: HeldBody): Content {
  const { body, what, signal } = held;
  const opened = new AbortController();
  let reason: "expired" | "opened" | undefined;
  held.clock.sleep(held.openWithin, opened.signal).then(
    () => {
      reason = "expired";
      body.destroy();
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
  readonly #held: HeldBody;
  #skip: number;
  #left: number;

  constructor(held: HeldBody) {
    super({ highWaterMark: 0 });
    this.#held = held;
    this.#skip = held.skip;
    this.#left = held.length;
    const { body } = held;
    body.on("data", (chunk: Buffer) => this.#take(chunk));
    body.on("end", () => (this.#lacks ? this.#brokenOff("the body ended") : this.push(null)));
    body.on("error", (error) => this.#brokenOff(networkReason(error)));
    // The only event of a body that was destroyed before it was opened.
    body.on("close", () => !body.readableEnded && this.#brokenOff("the connection was closed"));
    body.pause();
    if (body.destroyed) this.#brokenOff("the connection was closed");
  }

  get #lacks(): boolean {
    return this.#left > 0 && Number.isFinite(this.#left);
  }

  override _read(): void {
    this.#held.body.resume();
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.#held.body.destroy();
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
    if (part.byteLength > 0 && (!this.push(part) || this.isPaused())) this.#held.body.pause();
    if (this.#left === 0 && !this.#held.toEnd) {
      this.push(null);
      this.#held.body.destroy();
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
