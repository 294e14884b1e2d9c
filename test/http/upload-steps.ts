import type { DigestAlgorithm } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { expect } from "vitest";
import * as m from "../fixtures/upload-model.js";

interface Chosen {
  readonly node: 0 | 1;
  readonly pick: number;
}

interface Chunk extends Chosen {
  readonly seed: number;
  readonly length: number;
  readonly chunked: boolean;
}

/** How a Content-Range is right or wrong. */
type RangeKind = string;

const octets = { "Content-Type": "application/octet-stream" };

/** Mostly one of those that can go on. */
function chosen(model: m.Model, pick: number): m.Known {
  const running = model.sessions.filter(({ gone, committed }) => !gone && committed === undefined);
  const from = pick % 4 === 3 || running.length === 0 ? model.sessions : running;
  const session = from[pick % from.length];
  if (!session) throw new Error("no session to choose from");
  return session;
}

const isOver = (session: m.Known) => session.gone || session.committed !== undefined;

function contentRange(kind: RangeKind, at: number, length: number): Record<string, string> {
  if (kind === "none" || length === 0) return {};
  if (kind === "malformed") return { "Content-Range": `bytes ${at}-${at + length - 1}/*` };
  const start = kind === "start" ? at + 1 : at;
  const end = kind === "length" ? start + length : start + length - 1;
  return { "Content-Range": `${start}-${end}` };
}

function expectUnknown(answer: m.Answer): void {
  expect([answer.status, m.errorOf(answer)]).toEqual([404, "BLOB_UPLOAD_UNKNOWN"]);
}

export function committed(model: m.Model, repository: string, digest: string, bytes: Buffer, answer: m.Answer): void {
  expect([answer.status, answer.headers.location, answer.headers["docker-content-digest"], answer.headers["content-length"]]).toEqual([
    201,
    `/v2/${repository}/blobs/${digest}`,
    digest,
    "0",
  ]);
  const blobs = model.blobs.get(repository) ?? new Map<string, Buffer>();
  model.blobs.set(repository, blobs.set(digest, bytes));
}

/** What a chunk did: `true` when all of it is there now. */
async function appended(
  port: number,
  session: m.Known,
  answer: m.Answer,
  chunk: Buffer,
  o: { range: RangeKind; chunked: boolean },
): Promise<boolean> {
  const size = session.bytes.byteLength;
  const kind = chunk.byteLength === 0 ? "none" : o.range;
  if (kind === "start" || kind === "malformed") {
    expect([answer.status, m.errorOf(answer)]).toEqual([416, "RANGE_INVALID"]);
    m.expectSession(answer, session, { low: size, high: size });
    return false;
  }
  if (kind === "length") {
    expect([answer.status, m.errorOf(answer)]).toEqual([400, "SIZE_INVALID"]);
    // Of a chunked one that is known only at its end; what came before may be kept.
    if (o.chunked) {
      session.bytes = Buffer.concat([session.bytes, chunk]);
      await m.recovered(port, session);
    }
    return false;
  }
  session.bytes = Buffer.concat([session.bytes, chunk]);
  m.settled(session, size + chunk.byteLength);
  return true;
}

export const continuing = {
  async append(model: m.Model, world: m.World, o: Chunk & { range: RangeKind }): Promise<void> {
    const session = chosen(model, o.pick);
    const port = world.ports[o.node];
    if (!isOver(session)) await m.recovered(port, session);
    const size = session.bytes.byteLength;
    const body = m.content(o.seed, o.length);
    const headers = { ...octets, ...contentRange(o.range, size, body.byteLength) };
    const answer = await m.send(port, { method: "PATCH", path: session.location, headers, body, chunked: o.chunked });
    if (isOver(session)) return expectUnknown(answer);
    if (!(await appended(port, session, answer, body, o))) return;
    expect(answer.status).toBe(202);
    m.expectSession(answer, session, { low: session.low, high: session.low });
  },

  async cut(model: m.Model, world: m.World, o: Chunk & { named: boolean; keep: number; reset: boolean; wait: boolean }): Promise<void> {
    const session = chosen(model, o.pick);
    const port = world.ports[o.node];
    if (isOver(session)) return;
    await m.recovered(port, session);
    const size = session.bytes.byteLength;
    const body = m.content(o.seed, o.length + 2);
    const keep = Math.floor((o.keep / 1000) * (body.byteLength - 1));
    const headers = { ...octets, ...contentRange(o.named ? "right" : "none", size, body.byteLength) };
    await m.cut(port, { method: "PATCH", path: session.location, headers, body, keep, reset: o.reset, chunked: o.chunked });
    session.bytes = Buffer.concat([session.bytes, body.subarray(0, keep)]);
    session.inFlight = true;
    // One that names its start can do no harm however late it is; any other may be written behind what comes next.
    if (o.named && !o.wait) return;
    await new Promise((resolve) => setTimeout(resolve, 2));
    await m.quiet(world);
  },

  async status(model: m.Model, world: m.World, o: Chosen & { method: string }): Promise<void> {
    const session = chosen(model, o.pick);
    const answer = await m.send(world.ports[o.node], { method: o.method, path: session.location });
    expect(answer.status).toBe(isOver(session) ? 404 : 204);
    if (!isOver(session)) m.expectSession(answer, session, { low: session.low, high: session.bytes.byteLength });
  },
};

export async function cancelling(model: m.Model, world: m.World, o: Chosen): Promise<void> {
  const session = chosen(model, o.pick);
  const answer = await m.send(world.ports[o.node], { method: "DELETE", path: session.location });
  if (isOver(session)) return expectUnknown(answer);
  expect(answer.status).toBe(204);
  session.gone = true;
}

interface Finish extends Chunk {
  readonly range: RangeKind;
  readonly algorithm: DigestAlgorithm;
  readonly digest: string;
}

export async function finishing(model: m.Model, world: m.World, o: Finish): Promise<void> {
  const session = chosen(model, o.pick);
  const port = world.ports[o.node];
  if (!isOver(session)) await m.recovered(port, session);
  const size = session.bytes.byteLength;
  const last = m.content(o.seed, o.length > 3000 ? 0 : o.length);
  const bytes = Buffer.concat([session.bytes, last]);
  const digest = digestOf(o.digest === "wrong" ? Buffer.concat([bytes, bytes, Buffer.from("!")]) : bytes, o.algorithm);
  model.suspects.add(digest);
  const query = o.digest === "missing" ? "" : `?digest=${o.digest === "malformed" ? "sha256:abc" : digest}`;
  // With an empty body any range is stale, and means nothing.
  const range = contentRange(o.range, last.byteLength === 0 ? Math.max(0, size - 7) : size, last.byteLength || 7);
  const path = session.location + query;
  const answer = await m.send(port, { method: "PUT", path, headers: { ...octets, ...range }, body: last, chunked: o.chunked });
  if (o.digest === "missing" || o.digest === "malformed") {
    expect([answer.status, m.errorOf(answer)]).toEqual([400, "DIGEST_INVALID"]);
    return;
  }
  if (session.committed === digest) return committed(model, session.repository, digest, session.bytes, answer);
  if (isOver(session)) return expectUnknown(answer);
  if (!(await appended(port, session, answer, last, o))) return;
  if (o.digest === "wrong") {
    expect([answer.status, m.errorOf(answer)]).toEqual([400, "DIGEST_INVALID"]);
    session.gone = true;
    return;
  }
  committed(model, session.repository, digest, bytes, answer);
  session.committed = digest;
}

/** The answer to a PUT was lost: the client sends it again. */
export async function repeating(model: m.Model, world: m.World, o: Chunk & { other: boolean }): Promise<void> {
  const done = model.sessions.filter((session) => session.committed !== undefined);
  const session = done[o.pick % done.length];
  if (!session?.committed) throw new Error("nothing is committed");
  const body = m.content(o.seed, o.length);
  const digest = o.other ? digestOf(Buffer.from(`other ${o.seed}`)) : session.committed;
  model.suspects.add(digest);
  const path = `${session.location}?digest=${digest}`;
  const answer = await m.send(world.ports[o.node], { method: "PUT", path, headers: octets, body, chunked: o.chunked });
  if (o.other) expectUnknown(answer);
  else committed(model, session.repository, session.committed, session.bytes, answer);
}

export async function strangers(model: m.Model, world: m.World, o: Chosen & { method: string; id: boolean }): Promise<void> {
  const session = chosen(model, o.pick);
  const id = session.location.split("/").at(-1) ?? "";
  const elsewhere = session.repository === "app" ? "team/app" : "app";
  // Another repository's, or nobody's.
  const path = o.id
    ? `/v2/${session.repository}/blobs/uploads/${[...id].reverse().join("")}`
    : session.location.replace(`/v2/${session.repository}/`, `/v2/${elsewhere}/`);
  const query = o.method === "PUT" ? `?digest=${digestOf(Buffer.from("stranger"))}` : "";
  expectUnknown(
    await m.send(world.ports[o.node], { method: o.method, path: path + query, body: Buffer.from(o.method === "GET" ? "" : "stranger") }),
  );
}

/** The same chunk's place, two writers in two processes: one wins, the other is told so. */
export async function racing(model: m.Model, world: m.World, o: { pick: number; length: number }): Promise<void> {
  const session = chosen(model, o.pick);
  if (isOver(session)) return;
  await m.recovered(world.ports[0], session);
  const size = session.bytes.byteLength;
  const headers = { ...octets, "Content-Range": `${size}-${size + o.length - 1}` };
  const bodies = [m.content(size, o.length), m.content(size + 1, o.length)];
  const answers = await Promise.all(
    bodies.map((body, node) => m.send(world.ports[node === 0 ? 0 : 1], { method: "PATCH", path: session.location, headers, body })),
  );
  expect([
    [202, 416],
    [202, 503],
  ]).toContainEqual(answers.map(({ status }) => status).sort());
  const winner = bodies[answers.findIndex(({ status }) => status === 202)];
  if (!winner) throw new Error("nobody won");
  session.bytes = Buffer.concat([session.bytes, winner]);
  m.settled(session, size + o.length);
}
