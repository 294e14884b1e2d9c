import { randomBytes } from "node:crypto";
import { type Lookup, localRegistry, orThrow, RegistryError, type Storage } from "oci-manifold";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { partBlobStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { type NodesOptions, nodesOf } from "./nodes.js";
import { arrived, cacheBefore, during, gate, scriptedSource } from "./scripted-source.js";
import { settled } from "./support.js";

const bytes = randomBytes(300_000);

/** Two nodes; the first transfer stops in the middle until it may go on. */
function two(o: NodesOptions & { readonly size?: number } = {}) {
  const blob = bytes.subarray(0, o.size ?? bytes.byteLength);
  const { open, passed } = gate();
  let gets = 0;
  const scripted = scriptedSource(blob, () => (gets++ === 0 ? { holdAt: Math.floor(blob.byteLength / 3), until: passed } : {}));
  const all = nodesOf(scripted.source, 2, o);
  const [a, b] = all.nodes;
  if (!a || !b) throw new Error("no nodes");
  const { digest } = scripted;
  const get = (node: typeof a, repository = "app", call = {}) => node.hub.getBlob(repository, digest, call);
  return { ...all, ...scripted, blob, open, a, b, get };
}

const overOne = (make: () => Storage) => () => {
  const storage = make();
  return () => storage;
};
const storages: [string, () => (index: number) => Storage][] = [
  ["memory", overOne(() => memoryStorage())],
  ["an object store", overOne(() => ({ blobs: partBlobStore(), metadata: memoryStorage().metadata }))],
  [
    "a folder that each opens for itself",
    () => {
      const folder = temporaryFolder();
      return () => fileStorage(folder);
    },
  ],
];

describe.each(storages)("two nodes over %s", (_, storage) => {
  test.each([1000, 300_000])("cost one transfer of %i bytes: who comes second waits and has them from the store", async (size) => {
    const { a, b, get, clock, requests, open, blob, leases, storage: shared } = two({ size, storage: storage() });
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    const second = [get(b), get(b, "app", { range: { start: 10, end: 19 } }), get(b)];
    await eventually(async () => requests.length === 2, "asked by the second");
    await during(clock, clock.sleep(10_000));
    expect(requests).toEqual(["GET", "HEAD"]);
    open();
    expect((await during(clock, first)).equals(blob)).toBe(true);
    const [whole, part, again] = await during(clock, Promise.all(second.map((lookup) => lookup.then(bytesOf))));
    expect(whole?.equals(blob)).toBe(true);
    expect(part?.equals(blob.subarray(10, 20))).toBe(true);
    expect(again?.equals(blob)).toBe(true);
    expect(requests).toEqual(["GET", "HEAD"]);
    expect((await shared.blobs.list({ limit: 9 })).items).toHaveLength(1);
    expect((await shared.blobs.listStaged({ limit: 9 })).items).toEqual([]);
    expect(await leases()).toBe(0);
    expect(await b.hub.status()).toMatchObject({ fills: { running: 0 }, bytes: size });
    await Promise.all([a.hub.close(), b.hub.close()]);
  });
});

describe("the holder", () => {
  test("that was killed is succeeded when its lease is over: one more transfer", async () => {
    const { a, b, get, clock, requests, blob, copies } = two();
    void get(a).then(arrived);
    await eventually(async () => requests.length === 1, "begun");
    await clock.advance(7000);
    a.kill();
    const since = clock.now();
    const got = await during(clock, get(b).then(bytesOf));
    expect(got.equals(blob)).toBe(true);
    expect(clock.now() - since).toBeGreaterThan(9000);
    expect(clock.now() - since).toBeLessThan(18_000);
    expect(requests).toEqual(["GET", "HEAD", "GET"]);
    expect(copies).toMatchObject({ begun: 2, most: 1 });
    await b.hub.close();
  });

  test.each([-3_600_000, 3_600_000])("whose clock is %i ms ahead and that was killed is succeeded too", async (skew) => {
    const { a, b, get, clock, requests, blob } = two({ skews: [skew, 0] });
    void get(a).then(arrived);
    await eventually(async () => requests.length === 1, "begun");
    a.kill();
    const since = clock.now();
    expect((await during(clock, get(b).then(bytesOf))).equals(blob)).toBe(true);
    expect(clock.now() - since).toBeLessThan(18_000);
    await b.hub.close();
  });

  test("whose clock is seconds away from ours keeps its lease", async () => {
    for (const skews of [
      [4000, 0],
      [0, 4000],
    ]) {
      const { a, b, get, clock, requests, open, copies } = two({ skews });
      const first = get(a).then(bytesOf);
      await eventually(async () => requests.length === 1, "begun");
      const second = get(b).then(bytesOf);
      await during(clock, clock.sleep(25_000));
      open();
      await during(clock, Promise.all([first, second]));
      expect(copies.begun).toBe(1);
      await Promise.all([a.hub.close(), b.hub.close()]);
    }
  });

  test("whose source fails gives its lease back: who waits asks at once, and has the bytes", async () => {
    const { open, passed } = gate();
    let gets = 0;
    const { source, digest, requests } = scriptedSource(bytes, () => {
      gets++;
      if (gets === 1) return { holdAt: 100_000, until: passed, cutAt: 100_000 };
      return gets <= 3 ? { throws: new RegistryError("UNAVAILABLE", "down") } : {};
    });
    const { nodes, clock } = nodesOf(source, 2);
    const first = nodes[0]?.hub.getBlob("app", digest).then(arrived);
    await eventually(async () => requests.length === 1, "begun");
    const second = nodes[1]?.hub.getBlob("app", digest);
    await during(clock, clock.sleep(3000));
    open();
    const { error } = (await during(clock, first ?? Promise.reject())) ?? {};
    const failedAt = clock.now();
    expect(error).toMatchObject({ code: "UNAVAILABLE" });
    expect((await during(clock, (second ?? Promise.reject()).then(bytesOf))).equals(bytes)).toBe(true);
    expect(clock.now() - failedAt).toBeLessThan(2500);
    expect(requests).toEqual(["GET", "HEAD", "GET 100000-", "GET 100000-", "GET"]);
  });

  test("that is paused, succeeded, and goes on does no harm", async () => {
    const { a, b, get, clock, requests, open, blob, leases, storage } = two();
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    a.pause();
    expect((await during(clock, get(b).then(bytesOf))).equals(blob)).toBe(true);
    expect(requests).toEqual(["GET", "HEAD", "GET"]);
    a.resume();
    open();
    expect((await during(clock, first)).equals(blob)).toBe(true);
    await during(clock, clock.sleep(30_000));
    expect((await storage.blobs.list({ limit: 9 })).items).toHaveLength(1);
    expect((await storage.blobs.listStaged({ limit: 9 })).items).toEqual([]);
    expect(await leases()).toBe(0);
    expect((await get(a).then(bytesOf)).equals(blob)).toBe(true);
  });

  test("that renews late, and was not succeeded, is the holder still", async () => {
    const { a, b, get, clock, requests, open, copies } = two();
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    a.pause();
    await clock.advance(20_000);
    a.resume();
    await clock.advance(1000);
    const second = get(b).then(bytesOf);
    await during(clock, clock.sleep(20_000));
    open();
    await during(clock, Promise.all([first, second]));
    expect(copies.begun).toBe(1);
  });

  test("gives its lease back when it is closed", async () => {
    const { a, get, clock, requests, leases } = two();
    const first = get(a).then(arrived);
    await eventually(async () => requests.length === 1, "begun");
    expect(await leases()).toBe(1);
    await during(clock, a.hub.close({ deadline: "1s" }));
    expect((await first).error).toMatchObject({ code: "UNAVAILABLE" });
    expect(await leases()).toBe(0);
  });

  test("that finds the blob too large to be kept gives it back too", async () => {
    const { a, b, get, clock, requests, blob, leases } = two({ maxBlobBytes: "100KiB", size: 200_000 });
    const got = await during(
      clock,
      Promise.all([get(a).then(bytesOf), get(b).then(bytesOf)]).catch(() => []),
    );
    expect(got.every((one) => one.equals(blob))).toBe(true);
    expect(requests.filter((question) => question === "GET").length).toBeGreaterThanOrEqual(2);
    expect(await leases()).toBe(0);
  });
});

describe("who waits for another node", () => {
  test("for half a minute has it from the source then, whole and verified, and nothing is stored twice", async () => {
    const { a, b, get, clock, requests, open, blob, storage } = two();
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    const since = clock.now();
    const waiting = [get(b), get(b), get(b, "app", { range: { start: 5, end: 9 } })].map((lookup) => lookup.then(bytesOf));
    const got = await during(clock, Promise.all(waiting));
    expect(clock.now() - since).toBeGreaterThanOrEqual(30_000);
    expect(clock.now() - since).toBeLessThan(32_000);
    // Past the store a range is ignored, as HTTP permits.
    for (const one of got) expect(one.equals(blob)).toBe(true);
    expect(requests).toEqual(["GET", "HEAD", "GET", "GET", "GET"]);
    expect((await storage.blobs.list({ limit: 9 })).items).toEqual([]);
    expect(await b.hub.status()).toMatchObject({ fills: { running: 0 } });
    open();
    expect((await during(clock, first)).equals(blob)).toBe(true);
    expect((await get(b).then(bytesOf)).equals(blob)).toBe(true);
    expect(requests).toHaveLength(5);
  });

  test("may leave; the others go on waiting", async () => {
    const { a, b, get, clock, requests, open, blob } = two();
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    const leaving = new AbortController();
    const left = get(b, "app", { signal: leaving.signal });
    const second = get(b).then(bytesOf);
    await clock.advance(1000);
    const reason = new Error("enough");
    leaving.abort(reason);
    await expect(left).rejects.toBe(reason);
    open();
    await during(clock, Promise.all([first, second]));
    expect((await second).equals(blob)).toBe(true);
    expect(requests).toEqual(["GET", "HEAD"]);
  });

  test("and was the last stops the waiting, where that is wanted", async () => {
    const { a, b, get, clock, requests } = two({ onAbandoned: "stop" });
    void get(a).then(arrived);
    await eventually(async () => requests.length === 1, "begun");
    const leaving = new AbortController();
    const left = get(b, "app", { signal: leaving.signal });
    await clock.advance(1000);
    expect(await b.hub.status()).toMatchObject({ fills: { running: 1 } });
    leaving.abort(new Error("enough"));
    await expect(left).rejects.toThrow("enough");
    await clock.advance(1500);
    await eventually(async () => (await b.hub.status()).fills.running === 0, "stopped");
    expect(requests).toEqual(["GET", "HEAD"]);
    a.kill();
  });

  test("is told at once when its node closes, and the other goes on", async () => {
    const { a, b, get, clock, requests, open, blob } = two();
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    const second = get(b);
    await clock.advance(1000);
    const closing = b.hub.close({ deadline: "1h" });
    expect(await second).toMatchObject({ kind: "unavailable", error: { code: "UNAVAILABLE", retryAfter: 1 } });
    await closing;
    open();
    expect((await during(clock, first)).equals(blob)).toBe(true);
    expect(requests).toEqual(["GET", "HEAD"]);
  });

  test("in a repository that has not the blob hears so at once, before and after another node has stored it", async () => {
    const { a, b, get, clock, requests, open } = two();
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    expect(await get(b, "secret")).toEqual({ kind: "absent" });
    const second = get(b).then(bytesOf);
    await clock.advance(1000);
    expect(await get(b, "secret")).toEqual({ kind: "absent" });
    open();
    await during(clock, Promise.all([first, second]));
    expect(await get(b, "secret")).toEqual({ kind: "absent" });
    expect(await get(a, "secret")).toEqual({ kind: "absent" });
  });

  test("finds it gone again: evicted as soon as it was stored, it is brought once more", async () => {
    const { a, b, get, clock, requests, open, blob, storage, digest } = two();
    const first = get(a).then(bytesOf);
    await eventually(async () => requests.length === 1, "begun");
    const second = get(b).then(bytesOf);
    await clock.advance(1000);
    b.pause();
    open();
    await during(clock, first);
    const record = await storage.metadata.get({ kind: "blob", parts: [digest] });
    await storage.metadata.commit([], [{ remove: { kind: "blob", parts: [digest] } }]);
    await storage.blobs.delete(record?.value.location ?? "");
    b.resume();
    expect((await during(clock, second)).equals(blob)).toBe(true);
    expect(requests).toEqual(["GET", "HEAD", "GET"]);
  });

  test("in the background gives up without a fault, and `warm` waits for as long as it takes", async () => {
    const { open, passed } = gate();
    const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
    const image = await pushImage(origin, "app", "1", makeImage([200_000]));
    const layer = image.layers[0]?.digest;
    const faults: object[] = [];
    let held = true;
    const source: typeof origin = {
      ...origin,
      getBlob: async (repository, digest, o): Promise<Lookup<never>> => {
        if (digest === layer && held) await passed;
        return (await origin.getBlob(repository, digest, o)) as Lookup<never>;
      },
    };
    const events = { emit: (type: string, event: object) => void (type === "fault" && faults.push(event)) };
    const { nodes, clock } = nodesOf(source, 2, { events });
    const [a, b] = nodes;
    orThrow((await a?.hub.getManifest("app", "1")) ?? { kind: "absent" });
    await eventually(async () => (await a?.hub.status())?.fills.running === 1, "begun");
    orThrow((await b?.hub.getManifest("app", "1")) ?? { kind: "absent" });
    const warm = b?.hub.warm("app", "1");
    await during(clock, clock.sleep(100_000));
    expect(faults).toEqual([]);
    held = false;
    open();
    expect(await during(clock, warm ?? Promise.reject())).toMatchObject({ complete: true });
    expect(faults).toEqual([]);
  });
});

describe("questions that have passed aggregates", () => {
  const via = ["AAAAAAAAAAAAAAAAAAAAAA"];

  /** The source of the first node does not answer before it may. */
  function unanswered() {
    const { open, passed } = gate();
    const middle = gate();
    const scripted = scriptedSource(bytes, ({ attempt }) => (attempt === 0 ? { holdAt: 100_000, until: middle.passed } : {}));
    let gets = 0;
    const source: typeof scripted.source = {
      ...scripted.source,
      getBlob: async (repository, digest, o) => {
        if (gets++ === 0) await passed;
        return scripted.getBlob(repository, digest, o);
      },
    };
    const { nodes, clock } = nodesOf(source, 2);
    const [a, b] = nodes;
    if (!a || !b) throw new Error("no nodes");
    return { a, b, open, goOn: middle.open, clock, requests: scripted.requests, digest: scripted.digest, begun: () => gets === 1 };
  }

  test("never wait for one that passed fewer and has no answer yet: it may be waiting for them", async () => {
    const { a, b, open, goOn, clock, digest, begun } = unanswered();
    goOn();
    const first = a.hub.getBlob("app", digest).then(bytesOf);
    await eventually(async () => begun(), "asked");
    // The clock stands still: who waits would hang.
    expect((await b.hub.getBlob("app", digest, { via, knownVia: via }).then(bytesOf)).equals(bytes)).toBe(true);
    open();
    await during(clock, first);
  });

  test("wait for one that passed as many, and for any that has its answer", async () => {
    for (const [theirs, ours, answered] of [
      [via, via, false],
      [undefined, via, true],
    ] as const) {
      const { a, b, open, goOn, clock, digest, begun, requests } = unanswered();
      const first = a.hub.getBlob("app", digest, theirs && { via: theirs, knownVia: theirs }).then(bytesOf);
      await eventually(async () => begun(), "asked");
      if (answered) {
        open();
        const { content } = orThrow(await a.hub.getBlob("app", digest));
        expect(content.kind).toBe("stream");
        await settled();
      }
      const second = b.hub.getBlob("app", digest, { via: ours, knownVia: ours }).then(bytesOf);
      await clock.advance(5000);
      open();
      goOn();
      const got = await during(clock, Promise.all([first, second]));
      expect(got.every((one) => one.equals(bytes))).toBe(true);
      expect(requests.filter((question) => question.startsWith("GET"))).toHaveLength(1);
    }
  });
});

describe("a store", () => {
  test.each([
    ["is full", () => new RegistryError("INSUFFICIENT_STORAGE", "the disk is full")],
    ["fails", () => new Error("the database is gone")],
  ])("whose leases cannot be written because it %s is filled all the same", async (_, error) => {
    const { source, digest, requests } = scriptedSource(bytes);
    const { blobs, metadata } = memoryStorage();
    const failing = {
      ...metadata,
      commit: async (...[conditions, changes]: Parameters<typeof metadata.commit>) => {
        if (changes.some((change) => "put" in change && change.put.kind === "lease")) throw error();
        return metadata.commit(conditions, changes);
      },
    };
    const { hub, clock } = cacheBefore(source, { storage: { blobs, metadata: failing } });
    expect((await during(clock, hub.getBlob("app", digest).then(bytesOf))).equals(bytes)).toBe(true);
    expect(requests).toEqual(["GET"]);
    expect(await hub.resolveBlob("app", digest)).toMatchObject({ served: { cache: "hit" } });
    await hub.close();
  });

  test("that takes no record at all passes the blob on", async () => {
    const { source, digest } = scriptedSource(bytes);
    const { blobs, metadata } = memoryStorage();
    const full = { ...metadata, commit: () => Promise.reject(new RegistryError("INSUFFICIENT_STORAGE", "the disk is full")) };
    const { hub, clock } = cacheBefore(source, { storage: { blobs, metadata: full } });
    expect((await during(clock, hub.getBlob("app", digest).then(bytesOf))).equals(bytes)).toBe(true);
    await hub.close();
  });

  test.each([
    ["of one chunk", 1000, 2],
    ["of more", 300_000, 3],
  ])("is written to for a blob %s as often as it must be", async (_, size, commits) => {
    const { source, digest } = scriptedSource(bytes.subarray(0, size));
    const { blobs, metadata } = memoryStorage();
    let counted = 0;
    const counting = {
      ...metadata,
      commit: (...args: Parameters<typeof metadata.commit>) => {
        counted++;
        return metadata.commit(...args);
      },
    };
    const { hub } = cacheBefore(source, { storage: { blobs, metadata: counting } });
    await hub.getBlob("app", digest).then(bytesOf);
    await hub.close();
    expect(counted).toBe(commits);
  });
});
