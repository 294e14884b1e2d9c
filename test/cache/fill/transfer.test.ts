import { randomBytes } from "node:crypto";
import { type BlobContent, type ByteRange, type CallOptions, type Lookup, RegistryError, remoteRegistry } from "oci-manifold";
import { type Fault, fakeUpstream } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { bytesOf } from "../../fixtures/read.js";
import { cacheBefore, during, type Play, scriptedSource } from "../scripted-source.js";

const absent = { kind: "absent" } as const;
const KiB = 1024;
const bytes = randomBytes(300_000);
const size = bytes.byteLength;

const cutAfter = [0, 1, 64 * KiB - 1, 64 * KiB, 64 * KiB + 1, 128 * KiB, 192 * KiB, 256 * KiB, size - 1];

describe("a transfer that is cut is resumed where it ended", () => {
  test.each(cutAfter)("after %i bytes", async (cutAt) => {
    const { source, digest, requests } = scriptedSource(bytes, ({ attempt }) => (attempt === 0 ? { cutAt } : {}));
    const { hub, clock, fills } = cacheBefore(source);
    const got = await during(clock, hub.getBlob("app", digest).then(bytesOf));
    expect(got.equals(bytes)).toBe(true);
    expect(requests).toEqual(["GET", cutAt === 0 ? "GET" : `GET ${cutAt}-`]);
    expect(fills).toEqual([expect.objectContaining({ bytes: size })]);
    expect(fills[0]?.error).toBeUndefined();
  });

  test("again and again, as long as it gets on", async () => {
    const { source, digest, requests } = scriptedSource(bytes, ({ start }) => (start < 250_000 ? { cutAt: start + 10_000 } : {}));
    const { hub, clock } = cacheBefore(source);
    expect((await during(clock, hub.getBlob("app", digest).then(bytesOf))).equals(bytes)).toBe(true);
    expect(requests).toEqual(["GET", ...Array.from({ length: 25 }, (_, index) => `GET ${(index + 1) * 10_000}-`)]);
  });

  test("but not for ever: a source that gives a byte a time is given up", async () => {
    const { source, digest, requests } = scriptedSource(bytes, ({ start }) => ({ cutAt: start + 1 }));
    const { hub, clock, fills } = cacheBefore(source);
    await expect(during(clock, hub.getBlob("app", digest).then(bytesOf))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(requests).toHaveLength(31);
    expect(fills).toMatchObject([{ error: expect.any(String) }]);
  });

  test("three tries that bring no byte are enough", async () => {
    const { source, digest, requests } = scriptedSource(bytes, ({ start }) => ({ cutAt: start === 0 ? 100_000 : start }));
    const { hub, clock } = cacheBefore(source);
    await expect(during(clock, hub.getBlob("app", digest).then(bytesOf))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect(requests).toEqual(["GET", "GET 100000-", "GET 100000-"]);
  });

  test("after a pause that grows, or as long as the source asks for, up to ten seconds", async () => {
    const limited = new RegistryError("TOOMANYREQUESTS", "slow down", { retryAfter: 5 });
    const patience = new RegistryError("TOOMANYREQUESTS", "slow down", { retryAfter: 3600 });
    const refusals = [limited, patience];
    const { source, digest, requests } = scriptedSource(bytes, ({ attempt }) => {
      const error = refusals[attempt - 1];
      return attempt === 0 ? { cutAt: 100_000 } : error ? { answer: { kind: "unavailable", error } } : {};
    });
    const { hub, clock } = cacheBefore(source);
    const got = hub.getBlob("app", digest).then(bytesOf);
    got.catch(() => {});
    const reach = async (ms: number) => {
      await clock.advance(ms);
      await new Promise((resolve) => setTimeout(resolve, 20));
      return requests.length;
    };
    expect(await reach(0)).toBe(1);
    expect(await reach(99)).toBe(1);
    expect(await reach(201)).toBe(2);
    expect(await reach(4700)).toBe(2);
    expect(await reach(400)).toBe(3);
    // Two in vain and the cut make three.
    expect(await reach(10_000)).toBe(3);
    await expect(got).rejects.toMatchObject({ code: "TOOMANYREQUESTS" });
  });
});

describe("a source that answers a resumption", () => {
  const cut: Play = { cutAt: 100_000 };
  const resumed = async (play: Play, first = cut) => {
    const { source, digest, requests } = scriptedSource(bytes, ({ attempt }) => (attempt === 0 ? first : play));
    const { hub, clock } = cacheBefore(source);
    const outcome = await during(
      clock,
      hub
        .getBlob("app", digest)
        .then(bytesOf)
        .then(
          (got) => got.equals(bytes),
          (error: RegistryError) => error.code,
        ),
    );
    return { outcome, requests };
  };
  const twice = ["GET", "GET 100000-"];

  test("with the whole has its beginning thrown away", async () => {
    expect(await resumed({ whole: true })).toEqual({ outcome: true, requests: twice });
    expect(await resumed({ whole: true, unsized: true }, { ...cut, unsized: true })).toEqual({ outcome: true, requests: twice });
  });

  test("with a blob of another size, as absent or refused, or as outside, is not asked again", async () => {
    expect(await resumed({ size: size + 1 })).toEqual({ outcome: "UNAVAILABLE", requests: twice });
    expect(await resumed({ answer: absent })).toEqual({ outcome: "UNAVAILABLE", requests: twice });
    expect(await resumed({ answer: { kind: "denied", error: new RegistryError("DENIED", "no") } })).toEqual({
      outcome: "UNAVAILABLE",
      requests: twice,
    });
    const outside = new RegistryError("RANGE_INVALID", "outside", { detail: { total: 5 } });
    expect((await resumed({ throws: outside })).requests).toEqual(twice);
  });

  test("as outside the blob, when nobody had said where it ends: it was cut behind its last byte", async () => {
    const outside = new RegistryError("RANGE_INVALID", "outside", { detail: { total: size } });
    expect(await resumed({ throws: outside }, { cutAt: size, unsized: true })).toEqual({
      outcome: true,
      requests: ["GET", `GET ${size}-`],
    });
  });

  test("is not asked when what was cut is the end behind the last byte", async () => {
    expect(await resumed({}, { cutAt: size })).toEqual({ outcome: true, requests: ["GET"] });
  });

  test("with more than it should discards all of it", async () => {
    const { source, digest } = scriptedSource(bytes, () => ({ bytes: Buffer.concat([bytes, bytes]) }));
    const { hub, clock, storage } = cacheBefore(source);
    await expect(during(clock, hub.getBlob("app", digest).then(bytesOf))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect((await storage.blobs.list({ limit: 1 })).items).toEqual([]);
  });
});

describe("what the caller has beside the source", () => {
  const otherwise = (lookup: (range: ByteRange | undefined) => Promise<Lookup<BlobContent>>) => {
    const requests: string[] = [];
    return {
      requests,
      otherwise: (range: ByteRange | undefined, _: CallOptions) => {
        requests.push(range && "start" in range ? `${range.start}-` : "whole");
        return lookup(range);
      },
    };
  };

  test("goes on where the source breaks off for good", async () => {
    const first = scriptedSource(bytes, ({ start }) => ({ cutAt: start === 0 ? 70_000 : start }));
    const second = scriptedSource(bytes);
    const beside = otherwise((range) => second.getBlob("app", second.digest, range && { range }));
    const { hub, clock } = cacheBefore(first.source);
    const got = await during(clock, hub.getBlob("app", first.digest, beside).then(bytesOf));
    expect(got.equals(bytes)).toBe(true);
    expect(first.requests).toEqual(["GET", "GET 70000-", "GET 70000-"]);
    expect(beside.requests).toEqual(["70000-"]);
  });

  test("is asked at once where the source has it no more", async () => {
    const first = scriptedSource(bytes, ({ attempt }) => (attempt === 0 ? { cutAt: 70_000 } : { answer: absent }));
    const beside = otherwise((range) => scriptedSource(bytes).getBlob("app", first.digest, range && { range }));
    const { hub, clock } = cacheBefore(first.source);
    expect((await during(clock, hub.getBlob("app", first.digest, beside).then(bytesOf))).equals(bytes)).toBe(true);
    expect(first.requests).toEqual(["GET", "GET 70000-"]);
  });

  test("has its own three tries", async () => {
    const first = scriptedSource(bytes, ({ attempt }) => (attempt === 0 ? { cutAt: 70_000 } : { answer: absent }));
    const beside = otherwise(async () => ({ kind: "unavailable", error: new RegistryError("UNAVAILABLE", "also down") }));
    const { hub, clock } = cacheBefore(first.source);
    await expect(during(clock, hub.getBlob("app", first.digest, beside).then(bytesOf))).rejects.toMatchObject({ message: "also down" });
    expect(beside.requests).toEqual(["70000-", "70000-", "70000-"]);
  });

  test("is not asked when the source has no such blob or cannot be asked: that is for the aggregate to decide", async () => {
    for (const answer of [absent, { kind: "unavailable" as const, error: new RegistryError("UNAVAILABLE", "down") }]) {
      const first = scriptedSource(bytes, () => ({ answer }));
      const beside = otherwise(async () => absent);
      const { hub } = cacheBefore(first.source);
      expect(await hub.getBlob("app", first.digest, beside)).toEqual(answer);
      expect(beside.requests).toEqual([]);
    }
  });
});

describe("over HTTP", () => {
  const pulled = async (fault: (attempt: number) => Fault | undefined, blob: Uint8Array = bytes) => {
    const upstream = await fakeUpstream();
    const { digest } = upstream.addBlob("app", blob);
    let attempt = 0;
    upstream.intercept = ({ method }) => (method === "GET" ? fault(attempt++) : undefined);
    const { hub, clock } = cacheBefore(remoteRegistry(upstream.url, { retries: 0, breaker: false }));
    const outcome = await during(
      clock,
      hub
        .getBlob("app", digest)
        .then(bytesOf)
        .then(
          (got) => got.equals(blob),
          (error: RegistryError) => error.code,
        ),
    );
    const requests = upstream.requests.map(({ method, headers }) => (headers.range ? `${method} ${headers.range}` : method));
    await hub.close();
    await upstream.close();
    return { outcome, requests };
  };
  const cut = { truncateAfter: 200_000 };
  const second = (fault: Fault) => (attempt: number) => (attempt === 0 ? cut : attempt === 1 ? fault : undefined);

  test("a cut costs one request for the rest", async () => {
    const { outcome, requests } = await pulled((attempt) => (attempt === 0 ? cut : undefined));
    expect(outcome).toBe(true);
    expect(requests).toEqual(["GET", expect.stringMatching(/^GET bytes=\d+-$/)]);
    const from = Number(/\d+/.exec(requests[1] ?? "")?.[0]);
    // What the connection had delivered and nobody had read yet is lost with it.
    expect(from).toBeGreaterThan(0);
    expect(from).toBeLessThanOrEqual(200_000);
  });

  test("a resumption answered by 200 is used, by 500 tried again, by 404 or 401 given up", async () => {
    expect(
      await pulled((attempt) => (attempt === 0 ? cut : { status: 200, headers: { "content-range": undefined }, body: bytes })),
    ).toMatchObject({
      outcome: true,
      requests: ["GET", expect.stringContaining("bytes=")],
    });
    expect(await pulled(second({ status: 500 }))).toMatchObject({ outcome: true, requests: { length: 3 } });
    expect(await pulled(second({ status: 404 }))).toMatchObject({ outcome: "UNAVAILABLE", requests: { length: 2 } });
    expect(await pulled(second({ status: 401 }))).toMatchObject({ outcome: "UNAVAILABLE", requests: { length: 2 } });
  });

  test("a resumption answered by another total or by 416 is given up", async () => {
    const total = { "content-range": `bytes 131072-${size + 4}/${size + 5}` };
    expect((await pulled(second({ headers: total }))).outcome).not.toBe("INVALID");
    expect(await pulled(second({ status: 416, headers: { "content-range": "bytes */5" } }))).toMatchObject({ outcome: "UNAVAILABLE" });
  });

  test("a connection that ends before the headers is tried again", async () => {
    expect(await pulled(second({ hangUp: true }))).toMatchObject({ outcome: true, requests: { length: 3 } });
  });
});
