import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { chunksOf } from "../../src/core/content.js";
import { digestOf } from "../../src/core/digest.js";
import { mediaTypes } from "../../src/core/media-types.js";
import { asked, chunked, errorFrom, manifoldUpstream, pushServer } from "./pushing.js";
import { foundIn, readAll, remoteFor } from "./support.js";

const blob = randomBytes(300_000);
const digest = digestOf(blob);
const descriptor = { mediaType: mediaTypes.octetStream, digest, size: blob.byteLength };

async function stored(upstream: Awaited<ReturnType<typeof manifoldUpstream>>, repository: string) {
  const { content } = foundIn(await upstream.registry.getBlob(repository, digest));
  return content.kind === "stream" ? readAll(content.open()) : undefined;
}

describe("putBlob", () => {
  it.each([
    ["of known size", { size: blob.byteLength }, { "content-length": "300000" }],
    ["of unknown size", {}, { "transfer-encoding": "chunked" }],
  ])("pushes a blob %s with exactly these requests", async (_, size, headers) => {
    const upstream = await manifoldUpstream();
    const registry = remoteFor(upstream, { readOnly: false });
    const source = chunked(blob.subarray(0, 1), blob.subarray(1, 200_000), Buffer.alloc(0), blob.subarray(200_000));
    expect(await registry.putBlob("a/b", { digest, ...size }, source)).toEqual(descriptor);
    expect(asked(upstream)).toEqual([
      "POST /v2/a/b/blobs/uploads/",
      "PATCH /v2/a/b/blobs/uploads/ID",
      "PUT /v2/a/b/blobs/uploads/ID?digest=DIGEST",
    ]);
    expect(upstream.requests[1]?.headers).toMatchObject({ ...headers, "content-type": "application/octet-stream" });
    expect(upstream.requests[1]?.headers).not.toHaveProperty("content-range");
    expect(upstream.requests[2]?.headers["content-length"]).toBe("0");
    expect(await stored(upstream, "a/b")).toEqual(blob);
  });

  it("pushes an empty blob and one in sha512, which it announces", async () => {
    const upstream = await manifoldUpstream();
    const registry = remoteFor(upstream, { readOnly: false });
    for (const size of [{ size: 0 }, {}]) {
      const empty = digestOf(Buffer.alloc(0));
      expect(await registry.putBlob("a", { digest: empty, ...size }, chunked())).toMatchObject({ digest: empty, size: 0 });
    }
    upstream.requests.length = 0;
    const sha512 = digestOf(blob, "sha512");
    expect(await registry.putBlob("a", { digest: sha512 }, chunksOf(blob))).toEqual({ ...descriptor, digest: sha512 });
    expect(asked(upstream)[0]).toBe("POST /v2/a/blobs/uploads/?digest-algorithm=sha512");
  });

  it.each([
    ["other bytes", { digest: digestOf(Buffer.from("other")), size: blob.byteLength }, "DIGEST_INVALID"],
    ["too few bytes", { digest, size: blob.byteLength + 1 }, "SIZE_INVALID"],
    ["too many bytes", { digest, size: blob.byteLength - 1 }, "SIZE_INVALID"],
    ["bytes where none were announced", { digest, size: 0 }, "SIZE_INVALID"],
  ])("refuses %s, and cancels the upload", async (_, expected, code) => {
    const upstream = await manifoldUpstream();
    const error = await errorFrom(remoteFor(upstream, { readOnly: false }).putBlob("a", expected, chunksOf(blob)));
    expect(error.code).toBe(code);
    expect(asked(upstream)).toContain("DELETE /v2/a/blobs/uploads/ID");
    expect(asked(upstream).filter((request) => request.startsWith("PUT"))).toEqual([]);
    expect((await upstream.registry.resolveBlob("a", digest)).kind).toBe("absent");
  });

  it("throws what the source throws, and the signal's reason", async () => {
    const upstream = await manifoldUpstream();
    const registry = remoteFor(upstream, { readOnly: false });
    const broken = new Error("the disk is gone");
    await expect(registry.putBlob("a", { digest }, chunked(blob, broken))).rejects.toBe(broken);
    const left = new AbortController();
    const reason = new Error("left");
    const never = new Promise(() => {});
    upstream.meddle = ({ method }) => {
      if (method === "PATCH") left.abort(reason);
      return false;
    };
    await expect(registry.putBlob("a", { digest }, chunked(blob, never), { signal: left.signal })).rejects.toBe(reason);
  });

  it("does not take an early success for the whole blob", async () => {
    let release = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const upstream = await pushServer((request, response) => {
      if (request.method === "POST") response.writeHead(202, { location: "/up/1" }).end();
      else if (request.method === "PATCH") {
        response.writeHead(202).end();
        setTimeout(release, 50);
      } else response.writeHead(201).end();
    });
    const source = chunked(blob.subarray(0, 10), blob.subarray(10, 20), gate, blob.subarray(20));
    const error = await errorFrom(remoteFor(upstream, { readOnly: false }).putBlob("a", { digest }, source));
    expect(error.code).toBe("UNAVAILABLE");
    expect(asked(upstream)).toEqual(["POST /v2/a/blobs/uploads/", "PATCH /up/1", "DELETE /up/1"]);
  });
});

describe("mountBlob", () => {
  it("mounts from another repository of this remote, and asks for its size", async () => {
    const upstream = await manifoldUpstream();
    await upstream.registry.putBlob("from", { digest }, chunksOf(blob));
    const registry = remoteFor(upstream, { readOnly: false });
    expect(await registry.mountBlob("to", digest, { registry, repository: "from" })).toEqual(descriptor);
    expect(asked(upstream)).toEqual(["POST /v2/to/blobs/uploads/?mount=DIGEST&from=from", "HEAD /v2/to/blobs/DIGEST"]);
    expect(await registry.mountBlob("third", digest)).toEqual(descriptor);
    expect(asked(upstream)[2]).toBe("POST /v2/third/blobs/uploads/?mount=DIGEST");
  });

  it("cancels the upload that comes instead, also when that fails", async () => {
    const upstream = await manifoldUpstream();
    const registry = remoteFor(upstream, { readOnly: false });
    expect(await registry.mountBlob("to", digest, { registry, repository: "from" })).toBeUndefined();
    expect(asked(upstream)).toEqual(["POST /v2/to/blobs/uploads/?mount=DIGEST&from=from", "DELETE /v2/to/blobs/uploads/ID"]);
    for (const location of ["/up/1?state=x", "https://elsewhere.example/up", undefined]) {
      const odd = await pushServer((request, response) => {
        if (request.method === "POST") response.writeHead(202, location === undefined ? {} : { location }).end();
        else request.socket.destroy();
      });
      expect(await remoteFor(odd, { readOnly: false }).mountBlob("to", digest)).toBeUndefined();
    }
  });

  it("asks nobody for another registry's blob, nor for a mount without source that a policy would have to decide", async () => {
    const upstream = await manifoldUpstream();
    const registry = remoteFor(upstream, { readOnly: false });
    const twin = remoteFor(upstream, { readOnly: false });
    expect(await registry.mountBlob("to", digest, { registry: twin, repository: "from" })).toBeUndefined();
    expect(await registry.mountBlob("to", digest, undefined, { permits: () => true })).toBeUndefined();
    expect(upstream.requests).toEqual([]);
  });

  it.each([
    [400, undefined],
    [401, undefined],
    [403, undefined],
    [404, undefined],
    [405, undefined],
    [429, "TOOMANYREQUESTS"],
    [500, "UNAVAILABLE"],
  ])("answers %i with %s", async (status, code) => {
    const upstream = await pushServer((_, response) => response.writeHead(status).end());
    const registry = remoteFor(upstream, { readOnly: false });
    if (code === undefined) expect(await registry.mountBlob("to", digest)).toBeUndefined();
    else expect((await errorFrom(registry.mountBlob("to", digest))).code).toBe(code);
  });
});
