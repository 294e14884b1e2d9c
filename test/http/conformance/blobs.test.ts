import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { describe, expect, test } from "vitest";
import type { Answer } from "./client.js";
import { absentDigest, algorithms, freshName, octets } from "./content.js";
import { everywhere } from "./registries.js";

const immutable = /max-age=\d{6,}.*immutable|immutable.*max-age=\d{6,}/;

/** The parts of a multipart/byteranges body, as `[Content-Range, bytes]`. */
function partsOf({ headers, body }: Answer): [string | undefined, string][] {
  const boundary = /^multipart\/byteranges; ?boundary="?([^";]+)"?$/.exec(headers["content-type"] ?? "")?.[1];
  expect(boundary).toBeDefined();
  const pieces = `\r\n${body.toString("latin1")}`.split(`\r\n--${boundary}`);
  expect(pieces.at(-1)?.trimEnd()).toBe("--");
  return pieces.slice(1, -1).map((piece) => {
    const [head = "", content = ""] = piece.split("\r\n\r\n", 2);
    return [/^content-range: (.*)$/im.exec(head)?.[1]?.trim(), content];
  });
}

everywhere((on) => {
  function expectRange(got: Answer, digest: string, bytes: Uint8Array, start: number, end: number): void {
    const wanted = bytes.subarray(start, end + 1);
    expect(got).toMatchObject({
      status: 206,
      headers: { "content-length": String(wanted.length), "docker-content-digest": digest, "content-type": "application/octet-stream" },
    });
    expect(got.headers["content-range"]).toBe(`bytes ${start}-${end}/${bytes.length}`);
    expect(got.body.equals(wanted)).toBe(true);
  }

  describe.each(algorithms)("%s", (algorithm) => {
    test.each([
      ["one byte", Buffer.from("x")],
      ["{}", Buffer.from("{}")],
      ["nothing", Buffer.alloc(0)],
      ["many chunks", randomBytes(700_000)],
    ])("GET and HEAD answer the bytes and every header: %s", async (_, bytes) => {
      const repository = freshName();
      const digest = await on.pushBlob(repository, bytes, algorithm);
      const got = await on.get(`/v2/${repository}/blobs/${digest}`);
      expect(got.body.equals(bytes)).toBe(true);
      for (const answer of [got, await on.head(`/v2/${repository}/blobs/${digest}`)]) {
        expect(answer).toMatchObject({
          status: 200,
          headers: {
            "content-type": "application/octet-stream",
            "content-length": String(bytes.length),
            "docker-content-digest": digest,
            "accept-ranges": "bytes",
            etag: `"${digest}"`,
          },
        });
        expect(answer.headers["cache-control"]).toMatch(immutable);
      }
    });

    test("HEAD has a length and no body on the wire", async () => {
      const repository = freshName();
      const digest = await on.pushBlob(repository, randomBytes(500), algorithm);
      expect(await on.raw("HEAD", `/v2/${repository}/blobs/${digest}`)).toMatchObject({
        status: 200,
        headers: { "content-length": "500" },
      });
    });

    test.each([
      ["bytes=500-1499", 500, 1499],
      ["bytes=500-", 500, 2047],
      ["bytes=-500", 1548, 2047],
      ["bytes=2000-5000", 2000, 2047],
      ["bytes=0-0", 0, 0],
      ["bytes=0-", 0, 2047],
      ["bytes=2047-", 2047, 2047],
      ["bytes=-5000", 0, 2047],
    ])("Range %s is 206 with bytes %i to %i", async (range, start, end) => {
      const repository = freshName();
      const bytes = randomBytes(2048);
      const digest = await on.pushBlob(repository, bytes, algorithm);
      expectRange(await on.get(`/v2/${repository}/blobs/${digest}`, { Range: range }), digest, bytes, start, end);
    });

    test.each(["bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=-0"])("Range %s is 416 with the size", async (range) => {
      const repository = freshName();
      const digest = await on.pushBlob(repository, randomBytes(2048), algorithm);
      const got = await on.get(`/v2/${repository}/blobs/${digest}`, { Range: range });
      expect(got).toMatchObject({ status: 416, code: "RANGE_INVALID", headers: { "content-range": "bytes */2048" } });
    });

    test.each([
      ["bytes=0-1,4-5", ["bytes 0-1/10", "01"], ["bytes 4-5/10", "45"]],
      ["bytes=7-, 0-0 ,-2", ["bytes 7-9/10", "789"], ["bytes 0-0/10", "0"], ["bytes 8-9/10", "89"]],
      ["bytes=2-3,8-20,50-60", ["bytes 2-3/10", "23"], ["bytes 8-9/10", "89"]],
    ])("several ranges, %s, are several parts or the whole, never one part", async (range, ...parts) => {
      const repository = freshName();
      const digest = await on.pushBlob(repository, Buffer.from("0123456789"), algorithm);
      const got = await on.get(`/v2/${repository}/blobs/${digest}`, { Range: range });
      if (got.status === 200) expect(got.body.toString()).toBe("0123456789");
      else expect([got.status, got.headers["content-range"], partsOf(got)]).toEqual([206, undefined, parts]);
    });
  });

  test("several ranges none of which begins in the blob are 416", async () => {
    const repository = freshName();
    const digest = await on.pushBlob(repository, Buffer.from("0123456789"));
    const got = await on.get(`/v2/${repository}/blobs/${digest}`, { Range: "bytes=50-60,70-" });
    // The whole is an answer as well to a server that does not look into several ranges.
    if (got.status === 200) expect(got.body.toString()).toBe("0123456789");
    else expect(got).toMatchObject({ status: 416, headers: { "content-range": "bytes */10" } });
  });

  test("a hundred ranges over the same bytes do not multiply the answer", async () => {
    const repository = freshName();
    const digest = await on.pushBlob(repository, randomBytes(100_000));
    const got = await on.get(`/v2/${repository}/blobs/${digest}`, { Range: `bytes=${Array.from({ length: 100 }, () => "0-").join(",")}` });
    expect(got.body.length).toBeLessThan(210_000);
  });

  test.each(["bytes", "bytes=", "bytes=a-b", "items=0-1", "bytes=1", "bytes 0-1"])(
    "an illegible Range is as if there were none: %s",
    async (range) => {
      const repository = freshName();
      const digest = await on.pushBlob(repository, Buffer.from("0123456789"));
      expect(await on.get(`/v2/${repository}/blobs/${digest}`, { Range: range })).toMatchObject({
        status: 200,
        headers: { "content-length": "10" },
      });
    },
  );

  test("no range of an empty blob can be satisfied", async () => {
    const repository = freshName();
    const digest = await on.pushBlob(repository, Buffer.alloc(0));
    const got = await on.get(`/v2/${repository}/blobs/${digest}`, { Range: "bytes=0-" });
    expect(got).toMatchObject({ status: 416, headers: { "content-range": "bytes */0" } });
  });

  test("If-Range decides whether the range counts", async () => {
    const repository = freshName();
    const bytes = Buffer.from("0123456789");
    const digest = await on.pushBlob(repository, bytes);
    const ask = (tag: string) => on.get(`/v2/${repository}/blobs/${digest}`, { Range: "bytes=2-3", "If-Range": tag });
    expectRange(await ask(`"${digest}"`), digest, bytes, 2, 3);
    expect(await ask('"another"')).toMatchObject({ status: 200, headers: { "content-length": "10" } });
  });

  test("If-None-Match answers 304 to a holder of the blob, and 404 where the repository does not have it", async () => {
    const repository = freshName();
    const digest = await on.pushBlob(repository, Buffer.from("x"));
    for (const method of ["GET", "HEAD"]) {
      for (const tag of [`"${digest}"`, `W/"${digest}"`, `"other", "${digest}"`]) {
        const got = await on.send(method, `/v2/${repository}/blobs/${digest}`, { "If-None-Match": tag });
        expect(got).toMatchObject({ status: 304, headers: { etag: `"${digest}"` } });
      }
      expect((await on.send(method, `/v2/${repository}/blobs/${digest}`, { "If-None-Match": '"other"' })).status).toBe(200);
      expect((await on.send(method, `/v2/${freshName()}/blobs/${digest}`, { "If-None-Match": `"${digest}"` })).status).toBe(404);
    }
  });

  test("a blob is visible only in the repositories that were given it", async () => {
    const repository = freshName();
    const digest = await on.pushBlob(repository, randomBytes(10));
    const known = await on.get(`/v2/${freshName()}/blobs/${digest}`);
    const unknown = await on.get(`/v2/${freshName()}/blobs/${absentDigest()}`);
    // Byte for byte the same: the difference would tell what others have.
    expect([known.status, known.body.toString()]).toEqual([404, unknown.body.toString()]);
  });

  test.each(algorithms)("DELETE takes the blob from one repository and leaves it to the others (%s)", async (algorithm) => {
    const [mine, theirs] = [freshName(), freshName()];
    const bytes = randomBytes(1000);
    const digest = await on.pushBlob(mine, bytes, algorithm);
    await on.pushBlob(theirs, bytes, algorithm);
    expect(await on.delete(`/v2/${mine}/blobs/${digest}`)).toMatchObject({ status: 202, headers: { "content-length": "0" } });
    expect((await on.head(`/v2/${mine}/blobs/${digest}`)).status).toBe(404);
    expect(await on.get(`/v2/${mine}/blobs/${digest}`)).toMatchObject({ status: 404, code: "BLOB_UNKNOWN" });
    expect(await on.delete(`/v2/${mine}/blobs/${digest}`)).toMatchObject({ status: 404, code: "BLOB_UNKNOWN" });
    expect((await on.get(`/v2/${theirs}/blobs/${digest}`)).body.equals(bytes)).toBe(true);
    await on.pushBlob(mine, bytes, algorithm);
    expect((await on.get(`/v2/${mine}/blobs/${digest}`)).body.equals(bytes)).toBe(true);
  });

  test("containerd: parallel ranges to the end, cut midway, are nothing unusual", async () => {
    const repository = freshName();
    const bytes = randomBytes(2_000_000);
    const digest = await on.pushBlob(repository, bytes);
    const path = `/v2/${repository}/blobs/${digest}`;
    const cut = (start: number) =>
      new Promise<string>((resolve, reject) => {
        const socket = connect(on.port, "127.0.0.1", () =>
          socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nRange: bytes=${start}-\r\n\r\n`),
        );
        socket.once("data", (chunk) => {
          socket.destroy();
          resolve(chunk.toString("latin1").slice(0, 12));
        });
        socket.once("error", reject);
      });
    const answers = await Promise.all(Array.from({ length: 8 }, (_, i) => cut(i * 200_000)));
    expect(new Set(answers)).toEqual(new Set(["HTTP/1.1 206"]));
    const starts = [0, 500_000, 1_000_000, 1_500_000];
    const ranges = starts.map(async (start) => ({ start, answer: await on.get(path, { Range: `bytes=${start}-${start + 499_999}` }) }));
    for (const { start, answer } of await Promise.all(ranges)) expectRange(answer, digest, bytes, start, start + 499_999);
  });

  test("containerd: a manifest asked for as a blob is 404", async () => {
    const repository = freshName();
    await on.pushBlob(repository, Buffer.from("{}"));
    expect((await on.head(`/v2/${repository}/blobs/${absentDigest()}`, octets)).status).toBe(404);
  });
});
