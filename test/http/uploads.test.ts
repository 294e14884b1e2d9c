import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { aggregate, localRegistry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test, vi } from "vitest";
import { emptyRegistry, errorCode, overriding, raw, recorder, type Site, site } from "./support.js";

const octets = { "Content-Type": "application/octet-stream" };

async function start(on: Site, query = ""): Promise<string> {
  const response = await on.fetch(`/v2/app/blobs/uploads/${query}`, { method: "POST" });
  expect(response.status).toBe(202);
  return response.headers.get("location") ?? "";
}

function facts(response: Response) {
  const { headers } = response;
  return [response.status, headers.get("range"), headers.get("location")];
}

test("POST starts a session, with and without the trailing slash", async () => {
  const on = await site();
  for (const path of ["/v2/app/blobs/uploads/", "/v2/app/blobs/uploads"]) {
    const response = await on.fetch(path, { method: "POST" });
    const { headers } = response;
    const id = headers.get("docker-upload-uuid");
    expect(response.status).toBe(202);
    expect(id).toBeTruthy();
    expect(headers.get("location")).toBe(`/v2/app/blobs/uploads/${id}`);
    expect([headers.get("range"), headers.get("content-length")]).toEqual(["0-0", "0"]);
  }
});

test("POST, PATCH, PATCH, PUT", async () => {
  const on = await site();
  const bytes = randomBytes(100);
  const location = await start(on);
  const first = await on.fetch(location, { method: "PATCH", headers: { ...octets, "Content-Range": "0-59" }, body: bytes.subarray(0, 60) });
  expect(facts(first)).toEqual([202, "0-59", location]);
  const status = await on.fetch(location);
  expect(facts(status)).toEqual([204, "0-59", location]);
  expect(status.headers.get("content-length")).toBeNull();
  const second = await on.fetch(location, { method: "PATCH", headers: octets, body: bytes.subarray(60, 80) });
  expect(facts(second)).toEqual([202, "0-79", location]);
  const digest = digestOf(bytes);
  const put = await on.fetch(`${location}?digest=${encodeURIComponent(digest)}`, {
    method: "PUT",
    headers: { ...octets, "Content-Range": "80-99" },
    body: bytes.subarray(80),
  });
  expect([put.status, put.headers.get("location"), put.headers.get("docker-content-digest")]).toEqual([
    201,
    `/v2/app/blobs/${digest}`,
    digest,
  ]);
  expect(Buffer.from(await (await on.fetch(`/v2/app/blobs/${digest}`)).arrayBuffer()).equals(bytes)).toBe(true);
  // The response was lost: the client closes again.
  expect((await on.fetch(`${location}?digest=${digest}`, { method: "PUT" })).status).toBe(201);
});

test("out of order is 416 before the body is read, and the session survives", async () => {
  const on = await site();
  const location = await start(on);
  await on.fetch(location, { method: "PATCH", headers: octets, body: Buffer.alloc(10) });
  for (const [method, query] of [
    ["PATCH", ""],
    ["PUT", `?digest=${digestOf(Buffer.alloc(10))}`],
  ] as const) {
    for (const range of ["20-29", "0-9", "bytes 10-19/20"]) {
      const response = await on.fetch(location + query, { method, headers: { ...octets, "Content-Range": range }, body: Buffer.alloc(10) });
      expect(facts(response)).toEqual([416, "0-9", location]);
      expect(await errorCode(response)).toBe("RANGE_INVALID");
    }
  }
  const late = await raw(on.port, `PATCH ${location} HTTP/1.1\r\nHost: x\r\nContent-Range: 20-29\r\nContent-Length: 10\r\n\r\n`);
  expect(late).toMatch(/^HTTP\/1\.1 416 /);
  const done = await on.fetch(`${location}?digest=${digestOf(Buffer.alloc(10))}`, { method: "PUT", headers: { "Content-Range": "0-9" } });
  expect(done.status).toBe(201);
});

test("a range of another length than the body is SIZE_INVALID", async () => {
  const on = await site();
  const location = await start(on);
  const wrong = await on.fetch(location, { method: "PATCH", headers: { ...octets, "Content-Range": "0-5" }, body: Buffer.alloc(10) });
  expect([wrong.status, await errorCode(wrong)]).toEqual([400, "SIZE_INVALID"]);
  const text = await raw(
    on.port,
    `PATCH ${location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Range: 0-5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n`,
  );
  expect(text).toMatch(/^HTTP\/1\.1 400 /);
  expect(text).toContain("SIZE_INVALID");
});

test("a chunk arrives without a length", async () => {
  const on = await site();
  const location = await start(on);
  const text = await raw(
    on.port,
    `PATCH ${location} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n`,
  );
  expect(text).toMatch(/^HTTP\/1\.1 202 /);
  expect(text).toContain("Range: 0-10\r\n");
  expect((await on.fetch(`${location}?digest=${digestOf(Buffer.from("hello world"))}`, { method: "PUT" })).status).toBe(201);
});

test("a client that breaks off keeps what arrived, and is no fault", async () => {
  const events = recorder();
  const on = await site(undefined, { anonymousWrites: true, events });
  const location = await start(on);
  const socket = connect(on.port, "127.0.0.1", () =>
    socket.write(`PATCH ${location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n${"x".repeat(40)}`),
  );
  await new Promise((resolve) => setTimeout(resolve, 100));
  socket.destroy();
  await vi.waitFor(async () => {
    const put = await on.fetch(`${location}?digest=${digestOf(Buffer.from("x".repeat(40)))}`, { method: "PUT" });
    expect(put.status).toBe(201);
  });
  expect(events.of("fault")).toEqual([]);
});

test("sha512, announced and not", async () => {
  const on = await site();
  const bytes = randomBytes(1000);
  const digest = digestOf(bytes, "sha512");
  for (const query of ["", "?digest-algorithm=sha512"]) {
    const location = await start(on, query);
    await on.fetch(location, { method: "PATCH", headers: octets, body: bytes });
    const put = await on.fetch(`${location}?digest=${digest}`, { method: "PUT" });
    expect([put.status, put.headers.get("docker-content-digest")]).toEqual([201, digest]);
  }
  const unknown = await on.fetch("/v2/app/blobs/uploads/?digest-algorithm=md5", { method: "POST" });
  expect([unknown.status, await errorCode(unknown)]).toEqual([400, "DIGEST_INVALID"]);
});

test("a whole blob in one POST", async () => {
  const on = await site();
  for (const bytes of [randomBytes(50), Buffer.alloc(0)]) {
    const digest = digestOf(bytes);
    const post = await on.fetch(`/v2/app/blobs/uploads/?digest=${digest}`, { method: "POST", headers: octets, body: bytes });
    expect([post.status, post.headers.get("location"), post.headers.get("docker-content-digest")]).toEqual([
      201,
      `/v2/app/blobs/${digest}`,
      digest,
    ]);
    expect((await on.fetch(`/v2/app/blobs/${digest}`, { method: "HEAD" })).status).toBe(200);
  }
  const wrong = await on.fetch(`/v2/app/blobs/uploads/?digest=${digestOf(Buffer.from("a"))}`, { method: "POST", body: "b" });
  expect([wrong.status, await errorCode(wrong)]).toEqual([400, "DIGEST_INVALID"]);
});

test("wrong and missing digests", async () => {
  const on = await site();
  const location = await start(on);
  const missing = await on.fetch(location, { method: "PUT" });
  expect([missing.status, await errorCode(missing)]).toEqual([400, "DIGEST_INVALID"]);
  expect((await on.fetch(`${location}?digest=sha256:abc`, { method: "PUT" })).status).toBe(400);
  const wrong = await on.fetch(`${location}?digest=${digestOf(Buffer.from("a"))}`, { method: "PUT", body: "b" });
  expect([wrong.status, await errorCode(wrong)]).toEqual([400, "DIGEST_INVALID"]);
});

test("DELETE ends the session; unknown and foreign ones are 404", async () => {
  const on = await site();
  const location = await start(on);
  expect((await on.fetch(location.replace("/app/", "/other/"))).status).toBe(404);
  expect((await on.fetch(location, { method: "DELETE" })).status).toBe(204);
  for (const method of ["GET", "PATCH", "PUT", "DELETE"]) {
    const query = method === "PUT" ? `?digest=${digestOf(Buffer.alloc(0))}` : "";
    const gone = await on.fetch(location + query, { method });
    expect([method, gone.status, await errorCode(gone)]).toEqual([method, 404, "BLOB_UPLOAD_UNKNOWN"]);
  }
});

test("mounts", async () => {
  const on = await site();
  const bytes = randomBytes(10);
  const digest = digestOf(bytes);
  await on.registry.putBlob("source", { digest }, chunksOf(bytes));
  const post = (query: string) => on.fetch(`/v2/app/blobs/uploads/?${query}`, { method: "POST" });
  for (const query of [
    `mount=${digest}&from=nowhere`,
    `mount=${digest}&from=NOT/valid`,
    `mount=${digestOf(Buffer.from("?"))}&from=source`,
    `mount=${digestOf(Buffer.from("?"))}`,
    "mount=sha256:abc&from=source",
  ]) {
    const response = await post(query);
    expect([query, response.status, response.headers.get("range")]).toEqual([query, 202, "0-0"]);
    expect((await on.fetch(response.headers.get("location") ?? "")).status).toBe(204);
  }
  const mounted = await post(`mount=${encodeURIComponent(digest)}&from=source`);
  expect([mounted.status, mounted.headers.get("location"), mounted.headers.get("docker-content-digest")]).toEqual([
    201,
    `/v2/app/blobs/${digest}`,
    digest,
  ]);
  expect((await on.fetch(`/v2/app/blobs/${digest}`)).status).toBe(200);
  expect((await post(`mount=${digest}`)).status).toBe(201);
  const anywhere = await on.fetch(`/v2/third/blobs/uploads/?mount=${digest}`, { method: "POST" });
  expect([anywhere.status, anywhere.headers.get("location")]).toEqual([201, `/v2/third/blobs/${digest}`]);
});

test("a mount names the registry that is served, and its failure is an upload", async () => {
  const base = emptyRegistry();
  const mountBlob = vi.fn(() => Promise.reject(new Error("a bug")));
  const registry = overriding(base, { mountBlob });
  const on = await site(registry);
  const post = () => on.fetch(`/v2/app/blobs/uploads/?mount=${digestOf(Buffer.alloc(0))}&from=source`, { method: "POST" });
  expect((await post()).status).toBe(500);
  expect(mountBlob.mock.lastCall?.slice(2, 3)).toEqual([{ registry, repository: "source" }]);
});

test("a whole push through an aggregate", async () => {
  const storage = memoryStorage();
  const on = await site(aggregate({ local: localRegistry({ storage, name: "local" }), connectors: [] }));
  const location = await start(on);
  await on.fetch(location, { method: "PATCH", headers: octets, body: "abc" });
  expect((await on.fetch(`${location}?digest=${digestOf(Buffer.from("abc"))}`, { method: "PUT" })).status).toBe(201);
});

test("a committed upload is over; the same PUT again, body and all, has the same answer", async () => {
  const { fetch } = await site();
  const bytes = randomBytes(1000);
  const begun = await fetch("/v2/app/blobs/uploads/", { method: "POST" });
  const location = begun.headers.get("location") ?? "";
  const put = () => fetch(`${location}?digest=${digestOf(bytes)}`, { method: "PUT", body: bytes, headers: octets });
  expect((await put()).status).toBe(201);
  expect((await put()).status).toBe(201);
  for (const method of ["GET", "DELETE"]) {
    const late = await fetch(location, { method });
    expect([late.status, await errorCode(late)]).toEqual([404, "BLOB_UPLOAD_UNKNOWN"]);
  }
  expect((await put()).status).toBe(201);
});

test("the same PUT again is no acknowledgement of what was deleted since", async () => {
  const on = await site();
  const bytes = randomBytes(100);
  const location = await start(on);
  const close = () => on.fetch(`${location}?digest=${digestOf(bytes)}`, { method: "PUT", body: bytes, headers: octets });
  expect((await close()).status).toBe(201);
  expect((await on.fetch(`/v2/app/blobs/${digestOf(bytes)}`, { method: "DELETE" })).status).toBe(202);
  const again = await close();
  expect([again.status, await errorCode(again)]).toEqual([404, "BLOB_UPLOAD_UNKNOWN"]);
});

test("tags as parameters are authorized one by one", async () => {
  const asked: unknown[] = [];
  const registry = localRegistry({ storage: memoryStorage(), name: "test", sparse: true });
  const { fetch } = await site(registry, {
    caller: () => ({ name: "ann" }),
    authorize: ({ reference }) => {
      asked.push(reference);
      return reference !== "release-1";
    },
  });
  const body = JSON.stringify({ schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [] });
  const digest = digestOf(Buffer.from(body));
  const push = (tags: string) => fetch(`/v2/app/manifests/${digest}?${tags}`, { method: "PUT", body: Buffer.from(body) });
  expect((await push("tag=dev&tag=release-1")).status).toBe(403);
  expect(asked).toEqual([digest, "dev", "release-1"]);
  expect((await registry.getManifest("app", "dev")).kind).toBe("absent");
  expect((await push("tag=dev")).status).toBe(201);
});
