import { Readable } from "node:stream";
import {
  type BlobContent,
  type CachedOptions,
  cached,
  type DigestAlgorithm,
  type FillEvent,
  type GetBlobOptions,
  type Lookup,
  localRegistry,
  type Registry,
} from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { type FakeClock, fakeClock } from "oci-manifold/testing";

/** One question for the blob, as the source got it. */
export interface Asked {
  readonly start: number;
  /** Counted from 0. */
  readonly attempt: number;
  readonly repository: string;
}

/** How one question is answered; what is left out is as it should be. */
export interface Play {
  readonly answer?: Lookup<BlobContent>;
  readonly throws?: Error;
  /** Other bytes of the same blob. */
  readonly bytes?: Uint8Array;
  /** The stream fails here. */
  readonly cutAt?: number;
  /** Waits here until `until`. */
  readonly holdAt?: number;
  readonly until?: Promise<void>;
  /** The whole comes for a part that was asked for. */
  readonly whole?: true;
  readonly unsized?: true;
  readonly size?: number;
}

const absent = { kind: "absent" } as const;
const chunk = 16 * 1024;

/** A source with one blob, in the repository `app` and wherever `repositories` says; a test plays its part in every transfer. */
export function scriptedSource(
  bytes: Uint8Array,
  play: (requests: Asked) => Play | undefined = () => undefined,
  o: { readonly algorithm?: DigestAlgorithm; readonly repositories?: readonly string[] } = {},
) {
  const digest = digestOf(bytes, o.algorithm);
  const descriptor = { mediaType: "application/octet-stream", digest, size: bytes.byteLength };
  const repositories = o.repositories ?? ["app"];
  const requests: string[] = [];
  const streams: Readable[] = [];
  const served = { member: ["origin"] };
  const getBlob = async (repository: string, wanted: string, call: GetBlobOptions = {}): Promise<Lookup<BlobContent>> => {
    if (wanted !== digest || !repositories.includes(repository)) return absent;
    const start = call.range && "start" in call.range ? call.range.start : 0;
    const played = play({ start, attempt: requests.length, repository }) ?? {};
    requests.push(call.range ? `GET ${start}-` : "GET");
    if (played.throws) throw played.throws;
    if (played.answer) return played.answer;
    const total = played.size ?? bytes.byteLength;
    const open = () => {
      const stream = streamOf(played.bytes ?? bytes, played.whole ? 0 : start, played);
      streams.push(stream);
      return stream;
    };
    const range = call.range && !played.whole && { start, end: total - 1, total };
    const value = { descriptor: { ...descriptor, size: played.unsized ? 0 : total }, content: { kind: "stream" as const, open } };
    return { kind: "found", value: { ...value, ...(range && { range }), ...(played.unsized && { unsized: true as const }) }, served };
  };
  const source: Registry = {
    ...localRegistry({ storage: memoryStorage(), name: "origin" }),
    async resolveBlob(repository, wanted) {
      requests.push("HEAD");
      return wanted === digest && repositories.includes(repository) ? { kind: "found", value: descriptor, served } : absent;
    },
    getBlob,
  };
  return { source, digest, requests, streams, getBlob };
}

function streamOf(bytes: Uint8Array, start: number, { cutAt = -1, holdAt = -1, until }: Play): Readable {
  let at = start;
  const step = async (): Promise<Uint8Array | null> => {
    if (at === holdAt) await until;
    if (at === cutAt) throw new Error("cut");
    if (at >= bytes.byteLength) return null;
    const stops = [cutAt, holdAt, bytes.byteLength].filter((stop) => stop > at);
    const part = bytes.subarray(at, Math.min(at + chunk, ...stops));
    at += part.byteLength;
    return part;
  };
  return new Readable({
    // No reading ahead: what is buffered when a stream fails is lost, and the tests count bytes.
    highWaterMark: 1,
    read() {
      step().then(
        (part) => this.push(part),
        (error) => this.destroy(error),
      );
    },
  });
}

/** A cache whose time moves only in `during`, and the fills it tells of. */
export function cacheBefore(source: Registry, options: Partial<CachedOptions> = {}) {
  const clock = fakeClock();
  const fills: FillEvent[] = [];
  const events = { emit: (type: string, event: object) => void (type === "fill" && fills.push(event as FillEvent)) };
  const storage = options.storage ?? memoryStorage();
  const hub = cached(source, { name: "hub", clock, events, ...options, storage });
  return { hub, clock, fills, storage };
}

/** Lets time pass, as fast as it can, until the work is done. */
export async function during<T>(clock: FakeClock, work: Promise<T>): Promise<T> {
  let over = false;
  const end = () => {
    over = true;
  };
  work.then(end, end);
  while (!over) {
    await clock.advance(500);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  return work;
}

export interface Gate {
  open(): void;
  readonly passed: Promise<void>;
}

export function gate(): Gate {
  let open = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open: () => open(), passed };
}

/** The same bytes but for the one at this place. */
export function corrupted(bytes: Uint8Array, at = bytes.byteLength - 1): Uint8Array {
  const wrong = Buffer.from(bytes);
  wrong[at] = (wrong[at] ?? 0) ^ 0xff;
  return wrong;
}

/** What arrived before the end or the failure. */
export async function arrived(lookup: Lookup<BlobContent>): Promise<{ bytes: Buffer; error?: unknown }> {
  if (lookup.kind === "denied" || lookup.kind === "unavailable") return { bytes: Buffer.alloc(0), error: lookup.error };
  if (lookup.kind !== "found") return { bytes: Buffer.alloc(0), error: new Error(lookup.kind) };
  const { content } = lookup.value;
  if (content.kind === "bytes") return { bytes: Buffer.from(content.bytes) };
  if (content.kind === "redirect") return { bytes: Buffer.alloc(0), error: new Error("redirect") };
  const chunks: Uint8Array[] = [];
  try {
    for await (const part of content.open()) chunks.push(part);
  } catch (error) {
    return { bytes: Buffer.concat(chunks), error };
  }
  return { bytes: Buffer.concat(chunks) };
}
