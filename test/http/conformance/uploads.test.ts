import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { setTimeout } from "node:timers/promises";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { type Answer, type Client, type Fields, locationOf } from "./client.js";
import { type Algorithm, absentDigest, algorithms, freshName, octets, zeroDigest } from "./content.js";
import { everywhere } from "./registries.js";

/** A body without Content-Length, in three pieces. */
async function* streamOf(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  const size = Math.ceil(bytes.length / 3) || 1;
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

function chunk(on: Client, method: string, location: string, bytes: Uint8Array, start: number, end: number): Promise<Answer> {
  const headers: Fields = { ...octets, "Content-Range": `${start}-${end}` };
  return on.send(method, location, headers, bytes.subarray(start, end + 1));
}

/** PATCHes the bytes as chunks of a third each; with `keep` the last one is left out and its first byte's position is answered. */
async function patched(
  on: Client,
  begun: string,
  bytes: Uint8Array,
  o: { keepLast: boolean },
): Promise<{ location: string; from: number }> {
  const size = Math.floor(bytes.length / 3) + 1;
  let location = begun;
  let from = 0;
  for (; from < bytes.length; from += size) {
    const end = Math.min(from + size, bytes.length) - 1;
    if (o.keepLast && end === bytes.length - 1) break;
    const got = await chunk(on, "PATCH", location, bytes, from, end);
    expect(got).toMatchObject({ status: 202, headers: { range: `0-${end}` } });
    location = locationOf(got);
  }
  return { location, from };
}

type Way = (on: Client, repository: string, bytes: Uint8Array, digest: string) => Promise<Answer>;

/** Each answers the response that ends the upload. */
const ways: Record<string, Way> = {
  "one POST": (on, repository, bytes, digest) => on.post(`/v2/${repository}/blobs/uploads/?digest=${digest}`, octets, bytes),
  "one POST without a length": (on, repository, bytes, digest) =>
    on.post(`/v2/${repository}/blobs/uploads/?digest=${encodeURIComponent(digest)}`, octets, streamOf(bytes)),
  "POST, PUT": async (on, repository, bytes, digest) => on.put(`${await on.begin(repository)}?digest=${digest}`, octets, bytes),
  "POST, PUT without a length": async (on, repository, bytes, digest) =>
    on.put(`${await on.begin(repository)}?digest=${encodeURIComponent(digest)}`, octets, streamOf(bytes)),
  "docker: POST, a streamed PATCH, an empty PUT": async (on, repository, bytes, digest) => {
    const got = await on.patch(await on.begin(repository), {}, streamOf(bytes));
    expect(got).toMatchObject({ status: 202, headers: { range: `0-${Math.max(0, bytes.length - 1)}` } });
    return on.put(`${locationOf(got)}?digest=${digest}`);
  },
  "POST, one PATCH of known length, an empty PUT": async (on, repository, bytes, digest) => {
    const got = await on.patch(await on.begin(repository), octets, bytes);
    return on.put(`${locationOf(got)}?digest=${digest}`, octets);
  },
};
const waysInChunks: Record<string, Way> = {
  "POST, chunks, an empty PUT": async (on, repository, bytes, digest) => {
    const { location } = await patched(on, await on.begin(repository), bytes, { keepLast: false });
    return on.put(`${location}?digest=${digest}`, octets);
  },
  "POST, chunks, the last one in the PUT": async (on, repository, bytes, digest) => {
    const { location, from } = await patched(on, await on.begin(repository), bytes, { keepLast: true });
    return chunk(on, "PUT", `${location}?digest=${digest}`, bytes, from, bytes.length - 1);
  },
  "POST, chunks, the last one in the PUT without a range": async (on, repository, bytes, digest) => {
    const { location, from } = await patched(on, await on.begin(repository), bytes, { keepLast: true });
    return on.put(`${location}?digest=${digest}`, octets, streamOf(bytes.subarray(from)));
  },
};

async function expectVisible(on: Client, repository: string, bytes: Uint8Array, algorithm: Algorithm): Promise<void> {
  const digest = digestOf(bytes, algorithm);
  const path = `/v2/${repository}/blobs/${digest}`;
  expect(await on.head(path)).toMatchObject({
    status: 200,
    headers: { "content-length": String(bytes.length), "docker-content-digest": digest },
  });
  expect((await on.get(path)).body.equals(bytes)).toBe(true);
}

async function expectUsable(on: Client, repository: string, location: string): Promise<void> {
  const bytes = randomBytes(20);
  expect((await on.put(`${location}?digest=${digestOf(bytes)}`, octets, bytes)).status).toBe(201);
  await expectVisible(on, repository, bytes, "sha256");
}

everywhere((on) => {
  describe.each(algorithms)("%s", (algorithm) => {
    const sizes = [
      ["3 bytes", randomBytes(3)],
      ["300,000 bytes", randomBytes(300_000)],
    ] as const;
    const table = [
      ...Object.entries(ways).flatMap(([way, send]) =>
        [...sizes, ["nothing", Buffer.alloc(0)] as const].map((size) => [way, ...size, send] as const),
      ),
      ...Object.entries(waysInChunks).flatMap(([way, send]) => sizes.map((size) => [way, ...size, send] as const)),
    ];

    test.each(table)("%s: %s", async (_, __, bytes, send) => {
      const repository = freshName();
      const digest = digestOf(bytes, algorithm);
      const path = `/v2/${repository}/blobs/${digest}`;
      expect(await send(on, repository, bytes, digest)).toMatchObject({
        status: 201,
        headers: { location: path, "docker-content-digest": digest, "content-length": "0" },
      });
      await expectVisible(on, repository, bytes, algorithm);
      expect((await on.delete(path)).status).toBe(202);
      expect((await on.head(path)).status).toBe(404);
    });

    test.each(Object.entries({ ...ways, ...waysInChunks }))(
      "bytes that are others than the digest says are DIGEST_INVALID: %s",
      async (_, send) => {
        const repository = freshName();
        const bytes = randomBytes(1000);
        const digest = absentDigest(algorithm);
        // crane would send everything again after BLOB_UPLOAD_INVALID.
        expect(await send(on, repository, bytes, digest)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
        for (const absent of [digest, digestOf(bytes, algorithm)])
          expect((await on.head(`/v2/${repository}/blobs/${absent}`)).status).toBe(404);
      },
    );

    test("the algorithm may be announced", async () => {
      const repository = freshName();
      const bytes = randomBytes(100);
      const location = await on.begin(repository, `?digest-algorithm=${algorithm}`);
      expect((await on.patch(location, octets, bytes)).status).toBe(202);
      expect((await on.put(`${location}?digest=${digestOf(bytes, algorithm)}`)).status).toBe(201);
      await expectVisible(on, repository, bytes, algorithm);
    });

    test("another algorithm than the announced one may end the upload", async () => {
      const repository = freshName();
      const bytes = randomBytes(100);
      const other = algorithm === "sha256" ? "sha512" : "sha256";
      const location = await on.begin(repository, `?digest-algorithm=${other}`);
      expect((await on.patch(location, octets, bytes)).status).toBe(202);
      expect((await on.put(`${location}?digest=${digestOf(bytes, algorithm)}`)).status).toBe(201);
      await expectVisible(on, repository, bytes, algorithm);
    });
  });

  describe("a session", () => {
    test.each(["/blobs/uploads/", "/blobs/uploads"])("begins with and without the trailing slash: %s", async (below) => {
      const repository = freshName();
      const got = await on.post(`/v2/${repository}${below}`);
      const id = got.headers["docker-upload-uuid"] ?? "";
      expect(got).toMatchObject({ status: 202, headers: { range: "0-0", "content-length": "0" } });
      expect(locationOf(got)).toBe(`/v2/${repository}/blobs/uploads/${encodeURIComponent(id)}`);
      await expectUsable(on, repository, locationOf(got));
    });

    test("has an id of its own, long enough not to be guessed", async () => {
      const locations = await Promise.all(Array.from({ length: 20 }, () => on.begin(freshName())));
      const ids = locations.map((location) => location.split("/").at(-1) ?? "");
      expect(new Set(ids).size).toBe(20);
      for (const id of ids) expect(id.length).toBeGreaterThanOrEqual(22);
    });

    test("tells how far it has come", async () => {
      const location = await on.begin(freshName());
      expect(await on.get(location)).toMatchObject({ status: 204, headers: { location, range: "0-0" } });
      await on.patch(location, octets, randomBytes(100));
      expect(await on.get(location)).toMatchObject({ status: 204, headers: { location, range: "0-99" } });
    });

    test("appends what has no Content-Range", async () => {
      const repository = freshName();
      const bytes = randomBytes(900);
      const location = await on.begin(repository);
      for (const [start, end] of [
        [0, 300],
        [300, 301],
        [301, 800],
      ]) {
        expect(await on.patch(location, octets, bytes.subarray(start, end))).toMatchObject({
          status: 202,
          headers: { range: `0-${Number(end) - 1}` },
        });
      }
      expect((await on.put(`${location}?digest=${digestOf(bytes)}`, octets, bytes.subarray(800))).status).toBe(201);
      await expectVisible(on, repository, bytes, "sha256");
    });

    test("takes a chunk with a range but without a length", async () => {
      const repository = freshName();
      const bytes = randomBytes(90);
      const location = await on.begin(repository);
      const got = await on.patch(location, { ...octets, "Content-Range": "0-89" }, streamOf(bytes));
      expect(got).toMatchObject({ status: 202, headers: { range: "0-89" } });
      expect((await on.put(`${location}?digest=${digestOf(bytes)}`)).status).toBe(201);
    });

    test("ends with DELETE", async () => {
      const location = await on.begin(freshName());
      await on.patch(location, octets, randomBytes(10));
      expect((await on.delete(location)).status).toBe(204);
      for (const method of ["GET", "PATCH", "DELETE"]) {
        expect(await on.send(method, location)).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
      }
      expect(await on.put(`${location}?digest=${zeroDigest()}`)).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
    });

    test("of another repository, and an unknown one, is 404", async () => {
      const [mine, theirs] = [freshName(), freshName()];
      const location = await on.begin(mine);
      const id = location.split("/").at(-1) ?? "";
      for (const foreign of [
        `/v2/${theirs}/blobs/uploads/${id}`,
        `/v2/${mine}/blobs/uploads/${"0".repeat(32)}`,
        `/v2/${mine}/blobs/uploads/x`,
        `${location}0`,
      ]) {
        expect(await on.get(foreign)).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
        expect(await on.patch(foreign, octets, "x")).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
        expect(await on.put(`${foreign}?digest=${digestOf(Buffer.from("x"))}`, octets, "x")).toMatchObject({
          status: 404,
          code: "BLOB_UPLOAD_UNKNOWN",
        });
        expect(await on.delete(foreign)).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
      }
      await expectUsable(on, mine, location);
    });

    test("that was closed answers the same PUT again, with and without its body", async () => {
      const repository = freshName();
      const bytes = randomBytes(100);
      const digest = digestOf(bytes);
      const location = await on.begin(repository);
      const path = `/v2/${repository}/blobs/${digest}`;
      for (const body of [bytes, bytes, undefined]) {
        const got = await on.put(`${location}?digest=${digest}`, octets, body);
        expect(got).toMatchObject({ status: 201, headers: { location: path, "docker-content-digest": digest } });
      }
      await expectVisible(on, repository, bytes, "sha256");
      expect((await on.put(`${location}?digest=${absentDigest()}`)).status).toBeGreaterThanOrEqual(400);
    });

    test("is not closed without a digest, with a malformed one, or with one of an unknown algorithm", async () => {
      const repository = freshName();
      const location = await on.begin(repository);
      for (const query of ["", "?digest=", "?digest=sha256:short", `?digest=md5:${"0".repeat(32)}`]) {
        expect(await on.put(location + query)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
      }
      await expectUsable(on, repository, location);
    });

    test("goes on from where the connection was cut", async () => {
      const repository = freshName();
      const bytes = Buffer.from(randomBytes(50).toString("hex"));
      const location = await on.begin(repository);
      const socket = connect(on.port, "127.0.0.1");
      socket.write(`PATCH ${location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n${bytes.subarray(0, 40)}`);
      await setTimeout(50);
      socket.destroy();
      await expect.poll(async () => (await on.get(location)).headers.range, { timeout: 5000 }).toBe("0-39");
      expect((await chunk(on, "PATCH", location, bytes, 40, 99)).status).toBe(202);
      expect((await on.put(`${location}?digest=${digestOf(bytes)}`)).status).toBe(201);
    });

    test("has one writer at a time: of two at once one is refused, and the bytes are one's alone", async () => {
      const repository = freshName();
      const location = await on.begin(repository);
      const both = [randomBytes(500_000), randomBytes(500_000)];
      const got = await Promise.all(both.map((bytes) => chunk(on, "PATCH", location, bytes, 0, bytes.length - 1)));
      const winner = got.findIndex(({ status }) => status === 202);
      expect([416, 503]).toContain(got[1 - winner]?.status);
      const bytes = both[winner] ?? Buffer.alloc(0);
      expect((await on.put(`${location}?digest=${digestOf(bytes)}`)).status).toBe(201);
      await expectVisible(on, repository, bytes, "sha256");
    });
  });

  describe("out of order", () => {
    /** 300 bytes of which the first 100 have arrived. */
    async function begun(): Promise<{ repository: string; bytes: Buffer; location: string; digest: string }> {
      const repository = freshName();
      const bytes = randomBytes(300);
      const location = await on.begin(repository);
      expect((await chunk(on, "PATCH", location, bytes, 0, 99)).status).toBe(202);
      return { repository, bytes, location, digest: digestOf(bytes) };
    }

    test.each([
      ["skips ahead", 200, 299],
      ["repeats the first", 0, 99],
      ["overlaps", 50, 149],
    ])("a chunk that %s is 416 in a PATCH and in a PUT, and the session goes on", async (_, start, end) => {
      const { repository, bytes, location, digest } = await begun();
      for (const [method, target] of [
        ["PATCH", location],
        ["PUT", `${location}?digest=${digest}`],
      ] as const) {
        const refused = await chunk(on, method, target, bytes, start, end);
        expect(refused).toMatchObject({ status: 416, code: "RANGE_INVALID", headers: { location, range: "0-99" } });
        expect(await on.get(locationOf(refused))).toMatchObject({ status: 204, headers: { range: "0-99" } });
      }
      expect((await chunk(on, "PATCH", location, bytes, 100, 199)).status).toBe(202);
      expect((await chunk(on, "PUT", `${location}?digest=${digest}`, bytes, 200, 299)).status).toBe(201);
      await expectVisible(on, repository, bytes, "sha256");
    });

    test("a first chunk that does not begin at 0 is 416", async () => {
      const location = await on.begin(freshName());
      const bytes = randomBytes(20);
      expect(await chunk(on, "PATCH", location, bytes, 10, 19)).toMatchObject({ status: 416, headers: { location, range: "0-0" } });
      expect((await chunk(on, "PATCH", location, bytes, 0, 19)).status).toBe(202);
    });

    test.each(["PATCH", "PUT"])("is decided before the body has come: %s", async (method) => {
      const { location, digest } = await begun();
      const target = method === "PUT" ? `${location}?digest=${digest}` : location;
      expect(await on.raw(method, target, ["Content-Range: 200-299", "Content-Length: 100"])).toMatchObject({
        status: 416,
        headers: { location },
      });
    });

    test.each(["bytes 100-199/300", "100-", "-100", "199-100", "a-b", "100-199/300"])(
      "Content-Range %s is refused, and nothing is appended",
      async (range) => {
        const { bytes, location } = await begun();
        const got = await on.patch(location, { ...octets, "Content-Range": range }, bytes.subarray(100, 200));
        expect([400, 416]).toContain(got.status);
        expect(await on.get(location)).toMatchObject({ status: 204, headers: { range: "0-99" } });
      },
    );

    test("a range of another length than its body is SIZE_INVALID", async () => {
      const { bytes, location } = await begun();
      const headers = { ...octets, "Content-Range": "100-199" };
      for (const body of [bytes.subarray(100, 150), bytes.subarray(100, 250)]) {
        expect(await on.patch(location, headers, body)).toMatchObject({ status: 400, code: "SIZE_INVALID" });
      }
      expect((await on.get(location)).headers.range).toBe("0-99");
      expect(await on.patch(location, headers, streamOf(bytes.subarray(100, 250)))).toMatchObject({ status: 400, code: "SIZE_INVALID" });
    });

    test.each([
      ["with Content-Length: 0", ["Content-Length: 0"], ""],
      ["chunked", ["Transfer-Encoding: chunked"], "0\r\n\r\n"],
    ])("an empty closing PUT may carry a stale Content-Range: %s", async (_, lines, body) => {
      const { repository, bytes, location } = await begun();
      const first = bytes.subarray(0, 100);
      const got = await on.raw("PUT", `${location}?digest=${digestOf(first)}`, ["Content-Range: 0-99", ...lines], body);
      expect(got).toMatchObject({ status: 201, headers: { "docker-content-digest": digestOf(first) } });
      await expectVisible(on, repository, first, "sha256");
    });
  });

  test.each(["md5", "SHA256", "", "sha-256"])("an unknown digest-algorithm is 400: %s", async (algorithm) => {
    expect(await on.post(`/v2/${freshName()}/blobs/uploads/?digest-algorithm=${algorithm}`)).toMatchObject({
      status: 400,
      code: "DIGEST_INVALID",
    });
  });

  test.each(["sha256:short", `md5:${"0".repeat(32)}`, ""])("one POST with a malformed digest is 400: %s", async (digest) => {
    expect(await on.post(`/v2/${freshName()}/blobs/uploads/?digest=${digest}`, octets, "x")).toMatchObject({
      status: 400,
      code: "DIGEST_INVALID",
    });
  });

  test("parallel uploads to one repository, of different blobs and of the same one", async () => {
    const repository = freshName();
    const same = randomBytes(100_000);
    const all = [...Array.from({ length: 8 }, (_, i) => randomBytes(50_000 + i)), same, same, same, same];
    const each = Object.values({ ...ways, ...waysInChunks });
    const done = await Promise.all(all.map((bytes, i) => each[i % each.length]?.(on, repository, bytes, digestOf(bytes))));
    expect(done.map((answer) => answer?.status)).toEqual(all.map(() => 201));
    for (const bytes of all) await expectVisible(on, repository, bytes, "sha256");
  });

  test("a blob that is there already may be pushed again", async () => {
    const repository = freshName();
    const bytes = randomBytes(1000);
    for (const send of Object.values({ ...ways, ...waysInChunks }))
      expect((await send(on, repository, bytes, digestOf(bytes))).status).toBe(201);
    await expectVisible(on, repository, bytes, "sha256");
  });
});

everywhere(
  (on) => {
    test("a session of another caller is 404", async () => {
      const [ann, bob] = [{ "X-User": "ann" }, { "X-User": "bob" }];
      const repository = freshName();
      const location = locationOf(await on.post(`/v2/${repository}/blobs/uploads/`, ann));
      for (const foreign of [bob, {}]) {
        expect(await on.get(location, foreign)).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
        expect(await on.patch(location, { ...foreign, ...octets }, "x")).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
        expect(await on.delete(location, foreign)).toMatchObject({ status: 404, code: "BLOB_UPLOAD_UNKNOWN" });
        expect(await on.put(`${location}?digest=${digestOf(Buffer.from("x"))}`, { ...foreign, ...octets }, "x")).toMatchObject({
          status: 404,
        });
      }
      expect((await on.put(`${location}?digest=${digestOf(Buffer.from("x"))}`, { ...ann, ...octets }, "x")).status).toBe(201);
    });
  },
  {
    handler: {
      anonymousWrites: true,
      caller: ({ headers }) => (typeof headers["x-user"] === "string" ? { name: headers["x-user"] } : undefined),
    },
  },
);

everywhere(
  (on) => {
    test("more sessions than may be open are 429, until one has ended", async () => {
      const repository = freshName();
      const open = [await on.begin(repository), await on.begin(repository)];
      const refused = await on.post(`/v2/${repository}/blobs/uploads/`);
      expect(refused).toMatchObject({ status: 429, code: "TOOMANYREQUESTS" });
      expect((await on.delete(open[0] ?? "")).status).toBe(204);
      open[0] = await on.begin(repository);
      await expectUsable(on, repository, open[1] ?? "");
      open[1] = await on.begin(repository);
      for (const location of open) expect((await on.delete(location)).status).toBe(204);
    });

    test("more bytes than uploads may hold are 507, and the session goes on once there is space", async () => {
      const repository = freshName();
      const bytes = randomBytes(60_000);
      const [first, second] = [await on.begin(repository), await on.begin(repository)];
      expect((await on.patch(first, octets, bytes)).status).toBe(202);
      expect(await on.patch(second, octets, bytes)).toMatchObject({ status: 507, code: "INSUFFICIENT_STORAGE" });
      expect((await on.delete(first)).status).toBe(204);
      const { range = "" } = (await on.get(second)).headers;
      // Of a session without bytes the range says 0-0 too.
      const held = range === "0-0" ? 0 : Number(range.slice(2)) + 1;
      expect((await on.patch(second, octets, bytes.subarray(held))).status).toBe(202);
      expect((await on.put(`${second}?digest=${digestOf(bytes)}`)).status).toBe(201);
      await expectVisible(on, repository, bytes, "sha256");
    });
  },
  { limits: { maxUploads: 2, maxUploadBytes: "100KiB" } },
);
