import { randomBytes } from "node:crypto";
import type { RequestListener } from "node:http";
import { describe, expect, it } from "vitest";
import { chunksOf } from "../../src/core/content.js";
import { digestOf } from "../../src/core/digest.js";
import { fakeClock } from "../../src/testing/fake-clock.js";
import { asked, chunked, errorFrom, manifoldUpstream, pushServer } from "./pushing.js";
import { remoteFor } from "./support.js";

const blob = randomBytes(300_000);
const digest = digestOf(blob);
const half = blob.byteLength / 2;

async function pushing(options: Parameters<typeof remoteFor>[1] = {}) {
  const upstream = await manifoldUpstream();
  return { upstream, registry: remoteFor(upstream, { readOnly: false, ...options }) };
}

/** An upload whose location changes with every answer, as docker-registry's does. */
function stateful(o: { absolute?: string } = {}): RequestListener & { taken: Buffer } {
  let state = 0;
  const listener: RequestListener = (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => {
      const url = new URL(request.url ?? "", "http://up");
      if (request.method !== "POST" && url.searchParams.get("_state") !== `s+${state}`) return void response.writeHead(404).end();
      self.taken = Buffer.concat([self.taken, ...chunks]);
      const location = `${o.absolute ?? ""}/v2/a/blobs/uploads/u?_state=s%2B${++state}#fragment`;
      const range = `0-${Math.max(0, self.taken.byteLength - 1)}`;
      response.writeHead(request.method === "PUT" ? 201 : request.method === "GET" ? 204 : 202, { location, range }).end();
    });
  };
  const self = Object.assign(listener, { taken: Buffer.alloc(0) });
  return self;
}

describe("an upload session of a remote", () => {
  it("is not one caller's to take from others: each has a thousand, and what is committed does not count", async () => {
    const { registry } = await pushing();
    const ann = { caller: { name: "ann" } };
    const first = await registry.startUpload("a", ann);
    await first.append(chunksOf(blob));
    await first.commit(digest);
    const outcomes = await Promise.allSettled(Array.from({ length: 1010 }, () => registry.startUpload("a", ann)));
    const refused = outcomes.filter(({ status }) => status === "rejected");
    expect(refused).toHaveLength(10);
    for (const outcome of refused) expect(outcome).toMatchObject({ reason: { code: "TOOMANYREQUESTS", retryAfter: 30 } });
    const other = await registry.startUpload("a", { caller: { name: "bob" } });
    expect((await registry.resumeUpload("a", other.id, { caller: { name: "bob" } })).id).toBe(other.id);
    expect((await registry.resumeUpload("a", first.id, ann)).committed).toBe(digest);
    const [one] = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
    await one?.cancel();
    await registry.startUpload("a", ann);
  });

  it("is resumed by an id of our own, and sends chunks as they are", async () => {
    const { upstream, registry } = await pushing();
    const { id } = await registry.startUpload("a");
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    const session = await registry.resumeUpload("a", id);
    expect(await session.append(chunksOf(blob.subarray(0, half)), { start: 0, length: half })).toBe(half);
    expect(await (await registry.resumeUpload("a", id)).append(chunksOf(blob.subarray(half)))).toBe(blob.byteLength);
    expect(await session.append(chunked(), { length: 0 })).toBe(blob.byteLength);
    for (let twice = 0; twice < 2; twice++) expect(await session.commit(digest)).toMatchObject({ digest, size: blob.byteLength });
    expect((await registry.resumeUpload("a", id)).committed).toBe(digest);
    expect((await errorFrom(session.commit(digestOf(Buffer.from("x"))))).code).toBe("BLOB_UPLOAD_UNKNOWN");
    expect(asked(upstream)).toEqual([
      "POST /v2/a/blobs/uploads/",
      "PATCH /v2/a/blobs/uploads/ID",
      "PATCH /v2/a/blobs/uploads/ID",
      "PUT /v2/a/blobs/uploads/ID?digest=DIGEST",
    ]);
    expect(upstream.requests[1]?.url).not.toContain(id);
    expect(upstream.requests[1]?.headers).toMatchObject({ "content-length": String(half), "content-range": `0-${half - 1}` });
    expect(upstream.requests[2]?.headers).toMatchObject({ "transfer-encoding": "chunked" });
    expect(upstream.requests[2]?.headers).not.toHaveProperty("content-range");
  });

  it.each([false, true])("follows the upstream's newest location, whole URLs: %s", async (whole) => {
    const places: { absolute?: string } = {};
    const upload = stateful(places);
    const upstream = await pushServer(upload);
    if (whole) places.absolute = upstream.url;
    const session = await remoteFor(upstream, { readOnly: false }).startUpload("a");
    await session.append(chunksOf(blob.subarray(0, half)));
    await session.append(chunksOf(blob.subarray(half)));
    await session.commit(digest);
    expect(asked(upstream).map((request) => request.split("?")[1])).toEqual([
      undefined,
      "_state=s+1",
      "_state=s+2",
      "_state=s+3&digest=DIGEST",
    ]);
    expect(upload.taken).toEqual(blob);
  });

  it.each(["https://elsewhere.example/s3cret", "http://127.0.0.1:1/s3cret", "//u:s3cret@x/", "http://[s3cret", undefined])(
    "refuses the location %s, without repeating it",
    async (location) => {
      const upstream = await pushServer((_, response) => response.writeHead(202, location === undefined ? {} : { location }).end());
      const error = await errorFrom(remoteFor(upstream, { readOnly: false }).startUpload("a"));
      expect(error.code).toBe("UNAVAILABLE");
      expect(error.message).toMatch(/^up: upload to a: the upstream (sent the upload|did not say)/);
      expect(error.message).not.toMatch(/s3cret|elsewhere/);
    },
  );

  it("belongs to its repository and caller, for a day of rest", async () => {
    const clock = fakeClock();
    const { registry } = await pushing({ clock });
    const caller = { name: "ci" };
    const { id } = await registry.startUpload("a", { caller });
    for (const [repository, other, o] of [
      ["b", id, { caller }],
      ["a", id, {}],
      ["a", id, { caller: { name: "x" } }],
      ["a", "0".repeat(32), { caller }],
      ["a", "../x", { caller }],
    ] as const) {
      expect((await errorFrom(registry.resumeUpload(repository, other, o))).code).toBe("BLOB_UPLOAD_UNKNOWN");
    }
    await clock.advance(23 * 3_600_000);
    await (await registry.resumeUpload("a", id, { caller })).append(chunksOf(blob));
    await clock.advance(23 * 3_600_000);
    await (await registry.resumeUpload("a", id, { caller })).commit(digest);
    await clock.advance(9 * 60_000);
    expect((await registry.resumeUpload("a", id, { caller })).committed).toBe(digest);
    await clock.advance(2 * 60_000);
    expect((await errorFrom(registry.resumeUpload("a", id, { caller }))).code).toBe("BLOB_UPLOAD_UNKNOWN");
  });

  it("refuses a chunk that does not start at the offset, without sending it", async () => {
    const { upstream, registry } = await pushing();
    const session = await registry.startUpload("a");
    await session.append(chunksOf(blob.subarray(0, half)));
    upstream.requests.length = 0;
    const error = await errorFrom(session.append(chunksOf(blob), { start: 0 }));
    expect(error).toMatchObject({ code: "RANGE_INVALID", detail: { offset: half } });
    expect(upstream.requests).toEqual([]);
    await session.append(chunksOf(blob.subarray(half)), { start: half });
    await session.commit(digest);
  });

  it("has one writer at a time", async () => {
    const { registry } = await pushing();
    const session = await registry.startUpload("a");
    let release = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const first = session.append(chunked(blob.subarray(0, half), gate, blob.subarray(half)));
    for (const second of [
      session.append(chunksOf(blob)),
      session.commit(digest),
      (await registry.resumeUpload("a", session.id)).append(chunked()),
    ]) {
      expect(await errorFrom(second)).toMatchObject({ code: "UNAVAILABLE", retryAfter: 1 });
    }
    release();
    expect(await first).toBe(blob.byteLength);
    await session.commit(digest);
  });

  it("goes on at the upstream's offset after a source or a connection breaks off", async () => {
    const { upstream, registry } = await pushing();
    const session = await registry.startUpload("a");
    await session.append(chunksOf(blob.subarray(0, 1000)));
    const broken = new Error("the client left");
    await expect(
      session.append(chunked(blob.subarray(1000, half), new Promise((f) => setTimeout(f, 50)), broken), { length: blob.byteLength - 1000 }),
    ).rejects.toBe(broken);
    let cuts = 0;
    upstream.meddle = (request) => {
      if (request.method !== "PATCH" || cuts++ > 0) return false;
      request.once("data", () => request.socket.destroy());
      return true;
    };
    const again = await settled(registry, session.id);
    expect(again.offset).toBeGreaterThanOrEqual(1000);
    expect((await errorFrom(again.append(chunksOf(blob.subarray(again.offset))))).code).toBe("UNAVAILABLE");
    const last = await settled(registry, session.id);
    await last.append(chunksOf(blob.subarray(last.offset)), { start: last.offset });
    await last.commit(digest);
    expect(asked(upstream)).toContain("GET /v2/a/blobs/uploads/ID");
  });

  it.each([
    ["more", -1, half - 1],
    ["fewer", 1, undefined],
  ])("refuses a source with %s bytes than announced", async (_, difference, kept) => {
    const { registry } = await pushing();
    const session = await registry.startUpload("a");
    const error = await errorFrom(session.append(chunked(blob.subarray(0, 10), blob.subarray(10, half)), { length: half + difference }));
    expect(error.code).toBe("SIZE_INVALID");
    const again = await settled(registry, session.id);
    if (kept !== undefined) expect(again.offset).toBe(kept);
    await again.append(chunksOf(blob.subarray(again.offset)));
    await again.commit(digest);
  });

  it("learns the upstream's offset from a 416", async () => {
    const { upstream, registry } = await pushing();
    const session = await registry.startUpload("a");
    const refuse = (range: string) => {
      upstream.meddle = (request, response) => {
        if (request.method !== "PATCH") return false;
        request.resume().on("end", () => response.writeHead(416, { range }).end());
        return true;
      };
    };
    refuse("0-99");
    expect(await errorFrom(session.append(chunksOf(blob)))).toMatchObject({ code: "RANGE_INVALID", detail: { offset: 100 } });
    expect(session.offset).toBe(100);
    // One byte or none: the one that was not sent.
    refuse("0-0");
    await errorFrom(session.append(chunksOf(blob)));
    expect(session.offset).toBe(0);
    await errorFrom(session.append(chunksOf(blob)));
    expect(session.offset).toBe(1);
  });

  it("is unknown once the upstream has forgotten it", async () => {
    for (const use of ["append", "commit"] as const) {
      const { upstream, registry } = await pushing();
      const session = await registry.startUpload("a");
      upstream.meddle = (request, response) => {
        request.resume().on("end", () => response.writeHead(404).end('{"errors":[{"code":"NAME_UNKNOWN"}]}'));
        return true;
      };
      expect((await errorFrom(use === "append" ? session.append(chunksOf(blob)) : session.commit(digest))).code).toBe(
        "BLOB_UPLOAD_UNKNOWN",
      );
      upstream.requests.length = 0;
      expect((await errorFrom(session.append(chunksOf(blob)))).code).toBe("BLOB_UPLOAD_UNKNOWN");
      expect((await errorFrom(registry.resumeUpload("a", session.id))).code).toBe("BLOB_UPLOAD_UNKNOWN");
      expect(upstream.requests).toEqual([]);
    }
  });

  it("waits longer for its commit than for other answers: the upstream may read the whole blob again", async () => {
    const { upstream, registry } = await pushing({ timeouts: { headers: "200ms" } });
    const slow = (wanted: string) => {
      upstream.meddle = ({ method }, response) => {
        if (method === wanted) setTimeout(() => response.writeHead(201).end(), 1500);
        return method === wanted;
      };
    };
    const session = await registry.startUpload("a");
    await session.append(chunksOf(blob));
    slow("PUT");
    await session.commit(digest);
    slow("POST");
    expect((await errorFrom(registry.startUpload("a"))).message).toContain("UND_ERR_HEADERS_TIMEOUT");
  });

  it("ends with wrong bytes, and the upstream's word for it is passed on", async () => {
    const { upstream, registry } = await pushing();
    const session = await registry.startUpload("a");
    await session.append(chunksOf(Buffer.from("other")));
    expect((await errorFrom(session.commit(digest))).code).toBe("DIGEST_INVALID");
    expect((await errorFrom(registry.resumeUpload("a", session.id))).code).toBe("BLOB_UPLOAD_UNKNOWN");
    expect(asked(upstream).at(-1)).toBe("DELETE /v2/a/blobs/uploads/ID");
  });

  it.each([204, 404, 405])("is cancelled once, whether the upstream answers %i", async (status) => {
    const { upstream, registry } = await pushing();
    upstream.meddle = ({ method }, response) => {
      if (method === "DELETE") response.writeHead(status).end();
      return method === "DELETE";
    };
    const session = await registry.startUpload("a");
    await session.cancel();
    await session.cancel();
    expect(asked(upstream)).toEqual(["POST /v2/a/blobs/uploads/", "DELETE /v2/a/blobs/uploads/ID"]);
    expect((await errorFrom(session.append(chunksOf(blob)))).code).toBe("BLOB_UPLOAD_UNKNOWN");
  });

  it("needs nothing from the upstream to be cancelled after commit", async () => {
    const { upstream, registry } = await pushing();
    const session = await registry.startUpload("a");
    await session.append(chunksOf(blob));
    await session.commit(digest);
    await session.cancel();
    expect(asked(upstream).filter((request) => request.startsWith("DELETE"))).toEqual([]);
    expect((await upstream.registry.resolveBlob("a", digest)).kind).toBe("found");
  });

  it("throws the signal's reason, and can be resumed after it", async () => {
    const { upstream, registry } = await pushing();
    const session = await registry.startUpload("a");
    const left = new AbortController();
    const reason = new Error("left");
    upstream.meddle = ({ method }) => {
      if (method === "PATCH") setTimeout(() => left.abort(reason), 20);
      return false;
    };
    await expect(session.append(chunked(blob.subarray(0, 10), new Promise(() => {})), { signal: left.signal })).rejects.toBe(reason);
    upstream.meddle = undefined;
    const again = await settled(registry, session.id);
    await again.append(chunksOf(blob.subarray(again.offset)));
    await again.commit(digest);
  });
});

/** Once the upstream has noticed that the connection is gone. */
async function settled(registry: ReturnType<typeof remoteFor>, id: string) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  return registry.resumeUpload("a", id);
}
