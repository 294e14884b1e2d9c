import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { Readable } from "node:stream";
import { localRegistry, type Registry, RegistryError } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test, vi } from "vitest";
import { found } from "../../src/core/lookup.js";
import { emptyRegistry, errorCode, overriding, recorder, site } from "./support.js";

async function withBlob(bytes: Uint8Array): Promise<{ registry: Registry; digest: string; path: string }> {
  const registry = emptyRegistry();
  const digest = digestOf(bytes);
  await registry.putBlob("app", { digest }, chunksOf(bytes));
  return { registry, digest, path: `/v2/app/blobs/${digest}` };
}

test("GET and HEAD with every header", async () => {
  for (const bytes of [randomBytes(300_000), Buffer.alloc(0)]) {
    const { registry, digest, path } = await withBlob(bytes);
    const { fetch } = await site(registry);
    const got = await fetch(path);
    expect(Buffer.from(await got.arrayBuffer()).equals(bytes)).toBe(true);
    const head = await fetch(path, { method: "HEAD" });
    for (const { status, headers } of [got, head]) {
      expect(status).toBe(200);
      expect(Object.fromEntries(headers)).toMatchObject({
        "docker-distribution-api-version": "registry/2.0",
        "cache-control": "max-age=31536000, immutable, no-transform",
        "content-type": "application/octet-stream",
        "content-length": String(bytes.byteLength),
        "docker-content-digest": digest,
        etag: `"${digest}"`,
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox",
      });
    }
  }
});

test("sha512 blobs", async () => {
  const registry = emptyRegistry();
  const digest = digestOf(Buffer.from("x"), "sha512");
  await registry.putBlob("app", { digest }, chunksOf(Buffer.from("x")));
  const got = await (await site(registry)).fetch(`/v2/app/blobs/${digest}`);
  expect([got.status, got.headers.get("docker-content-digest"), await got.text()]).toEqual([200, digest, "x"]);
});

test("ranges", async () => {
  const { registry, path, digest } = await withBlob(Buffer.from("0123456789"));
  const { fetch } = await site(registry);
  const ask = async (Range: string, more: Record<string, string> = {}) => {
    const got = await fetch(path, { headers: { Range, ...more } });
    return [got.status, got.headers.get("content-range"), got.headers.get("content-length"), await got.text()];
  };
  expect(await ask("bytes=2-4")).toEqual([206, "bytes 2-4/10", "3", "234"]);
  expect(await ask("bytes=7-")).toEqual([206, "bytes 7-9/10", "3", "789"]);
  expect(await ask("bytes=-2")).toEqual([206, "bytes 8-9/10", "2", "89"]);
  expect(await ask("bytes=-100")).toEqual([206, "bytes 0-9/10", "10", "0123456789"]);
  expect(await ask("bytes=5-100")).toEqual([206, "bytes 5-9/10", "5", "56789"]);
  expect(await ask("bytes=0-0")).toEqual([206, "bytes 0-0/10", "1", "0"]);
  expect(await ask("bytes=0-1,1-5")).toEqual([200, null, "10", "0123456789"]);
  expect(await ask("bytes=50-60,4-5")).toEqual([206, "bytes 4-5/10", "2", "45"]);
  expect(await ask("bytes=2-4", { "If-Range": `"${digest}"` })).toEqual([206, "bytes 2-4/10", "3", "234"]);
  expect(await ask("bytes=2-4", { "If-Range": '"other"' })).toEqual([200, null, "10", "0123456789"]);
  for (const range of ["bytes=10-", "bytes=50-60", "bytes=5-2", "bytes=-0"]) {
    const got = await fetch(path, { headers: { Range: range } });
    expect([range, got.status, got.headers.get("content-range"), await errorCode(got)]).toEqual([
      range,
      416,
      "bytes */10",
      "RANGE_INVALID",
    ]);
  }
});

test("1,024 ranges are one part each, in the order of the request; more are the whole", async () => {
  const bytes = randomBytes(2000);
  const { registry, path } = await withBlob(bytes);
  const { fetch } = await site(registry);
  // podman asks so for what it lacks of a layer in zstd:chunked. They lie side by side, and none are merged.
  const starts = Array.from({ length: 1024 }, (_, at) => 1023 - at);
  const asked = (more: string) =>
    fetch(path, { headers: { Range: `bytes=${starts.map((start) => `${start}-${start}`).join(",")}${more}` } });
  const got = await asked("");
  expect(got.status).toBe(206);
  const [, boundary = "?"] = /boundary=(.+)$/.exec(got.headers.get("content-type") ?? "") ?? [];
  const parts = Buffer.from(await got.arrayBuffer())
    .toString("latin1")
    .split(`--${boundary}`)
    .slice(1, -1);
  const told = parts.map((part) => /Content-Range: bytes (\d+)-\1\/2000\r\n\r\n([\s\S])\r\n$/.exec(part)?.slice(1, 3));
  expect(told).toEqual(starts.map((start) => [`${start}`, String.fromCharCode(bytes[start] ?? -1)]));
  expect((await asked(",1500-1500")).status).toBe(200);
});

test("several ranges are one multipart answer", async () => {
  const { registry, path } = await withBlob(Buffer.from("0123456789"));
  const { fetch } = await site(registry);
  const got = await fetch(path, { headers: { Range: "bytes=7-9,0-1, -1" } });
  expect(got.status).toBe(200); // the last byte twice
  const parts = await fetch(path, { headers: { Range: "bytes=7-9,99-, 0-1" } });
  const [, boundary = "?"] = /^multipart\/byteranges; boundary=(.+)$/.exec(parts.headers.get("content-type") ?? "") ?? [];
  const text = await parts.text();
  expect([parts.status, parts.headers.get("content-range"), parts.headers.get("content-length")]).toEqual([206, null, String(text.length)]);
  const part = (range: string, bytes: string) =>
    `\r\n--${boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes ${range}/10\r\n\r\n${bytes}`;
  expect(text).toBe(`${part("7-9", "789")}${part("0-1", "01")}\r\n--${boundary}--\r\n`);
  const none = await fetch(path, { headers: { Range: "bytes=10-,20-30" } });
  expect([none.status, none.headers.get("content-range")]).toEqual([416, "bytes */10"]);
  const many = await fetch(path, { headers: { Range: `bytes=${Array.from({ length: 17 }, () => "0-0").join(",")}` } });
  expect(many.status).toBe(200);
});

test("several ranges of a source that gives only whole blobs are the whole", async () => {
  const { registry, path } = await withBlob(Buffer.from("0123456789"));
  const whole = overriding(registry, { getBlob: (repository, digest) => registry.getBlob(repository, digest) });
  const { fetch } = await site(whole);
  const got = await fetch(path, { headers: { Range: "bytes=7-9,0-1" } });
  expect([got.status, got.headers.get("content-type"), await got.text()]).toEqual([200, "application/octet-stream", "0123456789"]);
});

test("a client is sent to the store only where the store presigns and the host allows it", async () => {
  const storage = memoryStorage();
  const presign = async (location: string, o: { expiresIn: number }) => `https://bucket.example/${location}?for=${o.expiresIn}`;
  storage.blobs.presign = presign;
  const registry = localRegistry({ storage, name: "test" });
  const digest = digestOf(Buffer.from("0123456789"));
  await registry.putBlob("app", { digest }, chunksOf(Buffer.from("0123456789")));
  const path = `/v2/app/blobs/${digest}`;
  const passing = await site(registry);
  expect((await passing.fetch(path)).status).toBe(200);
  const { fetch } = await site(registry, { redirects: true });
  const sent = await fetch(path, { headers: { Range: "bytes=0-1" } });
  expect([sent.status, sent.headers.get("location")]).toEqual([307, expect.stringMatching(/^https:\/\/bucket\.example\/.+\?for=900$/)]);
  expect((await fetch(path, { method: "HEAD" })).headers.get("content-length")).toBe("10");
  expect((await fetch(path, { headers: { Range: "bytes=0-1,4-5" } })).status).toBe(206);
});

test("If-None-Match, unknown blobs, and DELETE", async () => {
  const { registry, path, digest } = await withBlob(Buffer.from("x"));
  const { fetch } = await site(registry);
  for (const method of ["GET", "HEAD"]) {
    expect((await fetch(path, { method, headers: { "If-None-Match": `"${digest}"` } })).status).toBe(304);
  }
  const elsewhere = await fetch(path.replace("/app/", "/other/"), { headers: { "If-None-Match": `"${digest}"` } });
  expect([elsewhere.status, await errorCode(elsewhere)]).toEqual([404, "BLOB_UNKNOWN"]);
  expect((await fetch(path, { method: "DELETE" })).status).toBe(202);
  expect((await fetch(path, { method: "HEAD" })).status).toBe(404);
  const again = await fetch(path, { method: "DELETE" });
  expect([again.status, await errorCode(again)]).toEqual([404, "BLOB_UNKNOWN"]);
});

test("a redirect is passed on and not kept", async () => {
  const { registry, path, digest } = await withBlob(Buffer.from("x"));
  let url = "https://bucket.example/blob?signature=1";
  const redirecting = overriding(registry, {
    async getBlob(repository, blob, o) {
      const lookup = await registry.getBlob(repository, blob, o);
      return lookup.kind === "found" ? { ...lookup, value: { ...lookup.value, content: { kind: "redirect", url } } } : lookup;
    },
  });
  const one = await site(redirecting);
  const got = await one.fetch(path);
  expect([got.status, got.headers.get("location"), got.headers.get("docker-content-digest")]).toEqual([307, url, digest]);
  expect(got.headers.get("cache-control")).toContain("no-store");
  url = "https://bucket.example/\r\nX-Evil: 1";
  expect((await one.fetch(path)).status).toBe(500);
});

test("HEAD is never 503 for an upstream that is down, GET is", async () => {
  const error = new RegistryError("UNAVAILABLE", "down", { retryAfter: 3 });
  const { path, registry } = await withBlob(Buffer.from("x"));
  const down = overriding(registry, {
    resolveBlob: async () => ({ kind: "unavailable", error }),
    getBlob: async () => ({ kind: "unavailable", error }),
  });
  const one = await site(down);
  expect((await one.fetch(path, { method: "HEAD" })).status).toBe(404);
  const got = await one.fetch(path);
  expect([got.status, got.headers.get("retry-after")]).toEqual([503, "3"]);
  const throwing = await site(overriding(registry, { resolveBlob: () => Promise.reject(error) }));
  expect((await throwing.fetch(path, { method: "HEAD" })).status).toBe(404);
});

function streaming(registry: Registry, open: () => Readable, size: number): Registry {
  return overriding(registry, {
    getBlob: async (_, digest) =>
      found(
        { descriptor: { mediaType: "application/octet-stream", digest: digest as never, size }, content: { kind: "stream", open } },
        { member: ["fake"] },
      ),
  });
}

test("a source that fails before its first byte is an error response", async () => {
  const { registry, path } = await withBlob(Buffer.from("x"));
  const failing = () =>
    new Readable({
      read() {
        this.destroy(new RegistryError("UNAVAILABLE", "the source is gone", { retryAfter: 2 }));
      },
    });
  const got = await (await site(streaming(registry, failing, 10))).fetch(path);
  expect([got.status, await errorCode(got)]).toEqual([503, "UNAVAILABLE"]);
  const opening = () => {
    throw new Error("secret path /var/lib");
  };
  const thrown = await (await site(streaming(registry, opening, 10))).fetch(path);
  expect([thrown.status, (await thrown.text()).includes("secret")]).toEqual([500, false]);
});

test("a source that fails, ends early or gives too much later breaks the connection", async () => {
  const { registry, path } = await withBlob(Buffer.from("x"));
  const sources: (() => Readable)[] = [
    () =>
      Readable.from(
        (async function* () {
          yield Buffer.from("12345");
          await new Promise((resolve) => setTimeout(resolve, 20));
          throw new Error("lost");
        })(),
      ),
    () => Readable.from([Buffer.from("12345")]),
    () => Readable.from([Buffer.from("12345"), Buffer.from("1234567890")]),
  ];
  for (const open of sources) {
    const events = recorder();
    const one = await site(streaming(registry, open, 10), { events });
    await expect(one.fetch(path).then((got) => got.arrayBuffer())).rejects.toThrow();
    await vi.waitFor(() => expect(events.of("request")).toMatchObject([{ status: 200, aborted: true, bytes: 5 }]));
  }
});

test("a client that leaves in the middle ends the source and aborts the call", async () => {
  const { registry, path } = await withBlob(Buffer.from("x"));
  let source: Readable | undefined;
  let signal: AbortSignal | undefined;
  const endless = streaming(
    registry,
    () => {
      source = new Readable({
        read() {
          setImmediate(() => this.push(Buffer.alloc(64 * 1024)));
        },
      });
      return source;
    },
    2 ** 40,
  );
  const { getBlob } = endless;
  const events = recorder();
  const { port } = await site(
    overriding(endless, {
      getBlob(repository, digest, o) {
        signal = o?.signal;
        return getBlob(repository, digest, o);
      },
    }),
    { events },
  );
  const socket = connect(port, "127.0.0.1", () => socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`));
  await new Promise((resolve) => socket.once("data", resolve));
  expect(signal?.aborted).toBe(false);
  socket.destroy();
  await vi.waitFor(() => expect(source?.destroyed).toBe(true));
  expect(signal?.aborted).toBe(true);
  expect(events.of("request")).toMatchObject([{ status: 200, aborted: true }]);
});

test("a slow client holds the source back", async () => {
  const { registry, path } = await withBlob(Buffer.from("x"));
  let given = 0;
  const { port } = await site(
    streaming(
      registry,
      () =>
        new Readable({
          read() {
            given += 64 * 1024;
            this.push(Buffer.alloc(64 * 1024));
          },
        }),
      2 ** 40,
    ),
  );
  const socket = connect(port, "127.0.0.1", () => socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`));
  socket.pause();
  await new Promise((resolve) => setTimeout(resolve, 300));
  const before = given;
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(given).toBe(before);
  socket.destroy();
});
