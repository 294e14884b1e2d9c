import type { RequestListener } from "node:http";
import fc from "fast-check";
import { type DigestAlgorithm, localRegistry, type Storage } from "oci-manifold";
import { type BlobStore, digestOf } from "oci-manifold/extend";
import { nodeHandler } from "oci-manifold/node";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect } from "vitest";
import * as m from "../fixtures/upload-model.js";
import { cancelling, committed, continuing, finishing, racing, repeating, strangers } from "./upload-steps.js";

const repositories = ["app", "team/app"] as const;

const nodes = fc.constantFrom<0 | 1>(0, 1);
const seeds = fc.nat(99);
const repository = fc.constantFrom(...repositories);
const algorithms = fc.constantFrom<DigestAlgorithm>("sha256", "sha512");
/** Mostly small, with the 0 and 1 that a Range header cannot tell apart; some over the 64 KiB of one read. */
const lengths = fc.oneof(
  { weight: 2, arbitrary: fc.nat(3) },
  { weight: 4, arbitrary: fc.nat(3000) },
  fc.integer({ min: 65_000, max: 200_000 }),
);

export class Step<O extends object> implements fc.AsyncCommand<m.Model, m.World> {
  readonly #name: string;
  readonly #o: O;
  readonly #run: (model: m.Model, world: m.World, o: O) => Promise<void>;
  readonly #fits: (model: m.Model) => boolean;

  constructor(name: string, o: O, run: (model: m.Model, world: m.World, o: O) => Promise<void>, fits = (_: m.Model) => true) {
    this.#name = name;
    this.#o = o;
    this.#run = run;
    this.#fits = fits;
  }

  check(model: Readonly<m.Model>): boolean {
    return this.#fits(model);
  }

  run(model: m.Model, world: m.World): Promise<void> {
    return this.#run(model, world, this.#o);
  }

  toString(): string {
    return `${this.#name}(${JSON.stringify(this.#o)})`;
  }
}

const steps = <O extends object>(
  name: string,
  fields: { [K in keyof O]: fc.Arbitrary<O[K]> },
  run: (model: m.Model, world: m.World, o: O) => Promise<void>,
  fits?: (model: m.Model) => boolean,
) => fc.record<O>(fields).map((o) => new Step(name, o as O, run, fits));

function begun(model: m.Model, repository: string, answer: m.Answer): void {
  const id = answer.headers["docker-upload-uuid"];
  expect(id).toMatch(/^[a-f0-9]{32}$/);
  expect(model.sessions.map(({ location }) => location)).not.toContain(answer.headers.location);
  const session = {
    repository,
    location: `/v2/${repository}/blobs/uploads/${id}`,
    bytes: Buffer.alloc(0),
    low: 0,
    inFlight: false,
    gone: false,
  };
  expect([answer.status, answer.headers["content-length"]]).toEqual([202, "0"]);
  m.expectSession(answer, session, { low: 0, high: 0 });
  model.sessions.push(session);
}

const start = steps<{ node: 0 | 1; repository: string; query: string }>(
  "start",
  {
    node: nodes,
    repository,
    query: fc.constantFrom("", "", "/", "/?digest-algorithm=sha512", "?digest-algorithm=sha256", "/?digest-algorithm=md5"),
  },
  async (model, world, { node, repository, query }) => {
    const answer = await m.send(world.ports[node], { method: "POST", path: `/v2/${repository}/blobs/uploads${query}` });
    if (!query.endsWith("md5")) return begun(model, repository, answer);
    expect([answer.status, m.errorOf(answer)]).toEqual([400, "DIGEST_INVALID"]);
  },
);

const whole = steps<{
  node: 0 | 1;
  repository: string;
  algorithm: DigestAlgorithm;
  seed: number;
  length: number;
  right: boolean;
  chunked: boolean;
}>(
  "whole",
  { node: nodes, repository, algorithm: algorithms, seed: seeds, length: lengths, right: fc.boolean(), chunked: fc.boolean() },
  async (model, world, { node, repository, algorithm, seed, length, right, chunked }) => {
    const body = m.content(seed, length);
    const digest = digestOf(right ? body : Buffer.concat([body, body, Buffer.from("!")]), algorithm);
    model.suspects.add(digest).add(digestOf(body));
    const path = `/v2/${repository}/blobs/uploads/?digest=${encodeURIComponent(digest)}`;
    const answer = await m.send(world.ports[node], { method: "POST", path, body, chunked });
    if (right) return committed(model, repository, digest, body, answer);
    expect([answer.status, m.errorOf(answer)]).toEqual([400, "DIGEST_INVALID"]);
  },
);

const mount = steps<{ node: 0 | 1; repository: string; from: string | undefined; pick: number }>(
  "mount",
  { node: nodes, repository, from: fc.constantFrom(...repositories, "nowhere", "NO/NAME", undefined), pick: fc.nat(5) },
  async (model, world, { node, repository, from, pick }) => {
    const all = [...model.blobs.values()].flatMap((blobs) => [...blobs]);
    const [digest, bytes] = all[pick % Math.max(1, all.length)] ?? [digestOf(Buffer.from("none"))];
    const path = `/v2/${repository}/blobs/uploads/?mount=${digest}${from === undefined ? "" : `&from=${from}`}`;
    const answer = await m.send(world.ports[node], { method: "POST", path });
    const there = from === undefined || model.blobs.get(from)?.has(digest);
    if (bytes && there) committed(model, repository, digest, bytes, answer);
    else begun(model, repository, answer);
  },
);

const any = (model: m.Model) => model.sessions.length > 0;
const common = { node: nodes, pick: fc.nat(7), seed: seeds, length: lengths, chunked: fc.boolean() };
const ranges = fc.constantFrom<"none" | "right" | "start" | "length" | "malformed">(
  "none",
  "none",
  "right",
  "right",
  "start",
  "length",
  "malformed",
);

const commands = [
  start,
  whole,
  mount,
  steps("append", { ...common, range: ranges }, continuing.append, any),
  steps("append", { ...common, range: fc.constantFrom("none", "right") }, continuing.append, any),
  steps("cut", { ...common, named: fc.boolean(), keep: fc.nat(1000), reset: fc.boolean(), wait: fc.boolean() }, continuing.cut, any),
  steps("status", { node: nodes, pick: fc.nat(7), method: fc.constantFrom("GET", "HEAD") }, continuing.status, any),
  steps("cancel", { node: nodes, pick: fc.nat(7) }, cancelling, any),
  steps(
    "finish",
    {
      ...common,
      range: ranges,
      algorithm: algorithms,
      digest: fc.constantFrom("right", "right", "right", "wrong", "malformed", "missing"),
    },
    finishing,
    any,
  ),
  steps("again", { ...common, other: fc.boolean() }, repeating, (model) => model.sessions.some((one) => one.committed !== undefined)),
  steps(
    "stranger",
    { node: nodes, pick: fc.nat(7), method: fc.constantFrom("GET", "PATCH", "PUT", "DELETE"), id: fc.boolean() },
    strangers,
    any,
  ),
  steps("race", { pick: fc.nat(7), length: fc.integer({ min: 1, max: 90_000 }) }, racing, any),
];

/** How the two handlers are put on ports, which the test's own support does. */
export type Listening = (listener: RequestListener) => Promise<{ readonly port: number }>;

/** Random uploads over a store, the same for two processes that share it. */
export async function modelledUploads(blobs: () => BlobStore, listening: Listening, numRuns: number): Promise<void> {
  // Two servers for all runs: a run has a registry of its own, in a storage of its own.
  const current: { handlers: ReturnType<typeof nodeHandler>[] } = { handlers: [] };
  const at = (node: 0 | 1) => listening((request, response) => current.handlers[node]?.(request, response));
  const ports = [(await at(0)).port, (await at(1)).port] as const;
  const property = fc.asyncProperty(fc.commands(commands, { maxCommands: 25, size: "max" }), async (sequence) => {
    const storage: Storage = { blobs: blobs(), metadata: memoryStorage().metadata };
    const processes = [0, 1].map(() => m.counting(localRegistry({ storage, name: "model" })));
    await processes[0]?.registry.ready();
    current.handlers = processes.map(({ registry }) => nodeHandler(registry, { anonymousWrites: true }));
    const world: m.World = { ports, busy: () => processes.reduce((sum, { busy }) => sum + busy(), 0) };
    const model = m.emptyModel();
    await fc.asyncModelRun(() => ({ model, real: world }), sequence);
    await m.quiet(world);
    await m.expectOnlyCommitted(world, model, repositories);
    for (const handler of current.handlers) await handler.close({ deadline: "0s" });
  });
  await fc.assert(property, { numRuns });
}
