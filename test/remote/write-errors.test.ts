import { describe, expect, it } from "vitest";
import { chunksOf } from "../../src/core/content.js";
import { digestOf } from "../../src/core/digest.js";
import { asked, chunked, errorFrom, type ManifoldUpstream, manifestOf, manifoldUpstream, pushServer } from "./pushing.js";
import { remoteFor } from "./support.js";

const blob = Buffer.from("a layer");
const digest = digestOf(blob);
const image = manifestOf();

describe("errors of writes", () => {
  it.each([
    [400, "MANIFEST_INVALID", undefined, "MANIFEST_INVALID", 400],
    [400, "NAME_INVALID", undefined, "NAME_INVALID", 400],
    [400, "TAG_INVALID", undefined, "MANIFEST_INVALID", 400],
    [404, "NAME_UNKNOWN", undefined, "NAME_UNKNOWN", 404],
    [404, "MANIFEST_BLOB_UNKNOWN", undefined, "MANIFEST_BLOB_UNKNOWN", 400],
    [404, undefined, undefined, "NAME_UNKNOWN", 404],
    [401, "UNAUTHORIZED", undefined, "DENIED", 403],
    [403, "DENIED", undefined, "DENIED", 403],
    [405, "UNSUPPORTED", undefined, "UNSUPPORTED", 405],
    [409, "CONFLICT", undefined, "MANIFEST_INVALID", 400],
    [412, undefined, undefined, "PRECONDITION_FAILED", 412],
    [413, "SIZE_INVALID", undefined, "MANIFEST_INVALID", 413],
    [429, "TOOMANYREQUESTS", 7, "TOOMANYREQUESTS", 429],
    [500, "UNKNOWN", undefined, "UNAVAILABLE", 503],
    [503, "UNAVAILABLE", 7, "UNAVAILABLE", 503],
    [507, undefined, undefined, "INSUFFICIENT_STORAGE", 507],
    [400, "constructor", undefined, "MANIFEST_INVALID", 400],
    [418, "UNKNOWN", undefined, "UNAVAILABLE", 503],
    [200.5, undefined, undefined, "UNAVAILABLE", 503],
  ])("%s %s of a manifest is %s %s", async (status, code, retryAfter, expected, expectedStatus) => {
    const upstream = await pushServer((request, response) => {
      if (status === 200.5) return void request.socket.destroy();
      const body = code === undefined ? "<html>" : JSON.stringify({ errors: [{ code, message: "because", detail: "s3cret" }] });
      response.writeHead(status, retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }).end(body);
    });
    const error = await errorFrom(remoteFor(upstream, { readOnly: false }).putManifest("a", "1", { bytes: image }));
    expect(error).toMatchObject({ code: expected, status: expectedStatus, retryAfter });
    expect(error.message).toMatch(/^up: manifest 1 of a: |^up: refused with 401/);
    if (code !== undefined && status !== 401) expect(error.message).toContain(`answered ${status}: ${code}: because`);
    expect(JSON.stringify([error.message, error.detail])).not.toContain("s3cret");
  });

  it.each([
    ["no JSON", "<html>"],
    ["another JSON", '{"errors":{"code":"DENIED"}}'],
    ["too long", JSON.stringify({ errors: [{ code: "NAME_INVALID", message: "x".repeat(70_000) }] })],
  ])("survive a body that is %s", async (_, body) => {
    const upstream = await pushServer((_request, response) => response.writeHead(400).end(body));
    const error = await errorFrom(remoteFor(upstream, { readOnly: false }).putManifest("a", "1", { bytes: image }));
    expect(error).toMatchObject({ code: "MANIFEST_INVALID", message: "up: manifest 1 of a: answered 400" });
  });

  it("are one short printable line without addresses or credentials", async () => {
    const message = `no\r\nway\u0000\u202e https://bucket.example/x?Signature=s3cret Authorization: Bearer s3cret ${"long ".repeat(200)}`;
    const upstream = await pushServer((_, response) =>
      response.writeHead(400).end(JSON.stringify({ errors: [{ code: "NAME_INVALID", message }] })),
    );
    const error = await errorFrom(remoteFor(upstream, { readOnly: false }).putManifest("a", "1", { bytes: image }));
    expect(error.message).toMatch(
      /^up: manifest 1 of a: answered 400: NAME_INVALID: no way \(URL\) Authorization: Bearer \(hidden\) long [ -~]*$/,
    );
    expect(error.message.length).toBeLessThanOrEqual(500);
  });

  it("say that a blob is too large with 413", async () => {
    const upstream = await pushServer((request, response) => {
      if (request.method === "POST") response.writeHead(202, { location: "/up/1" }).end();
      else request.resume().on("end", () => response.writeHead(413).end());
    });
    expect(await errorFrom(remoteFor(upstream, { readOnly: false }).putBlob("a", { digest }, chunksOf(blob)))).toMatchObject({
      code: "SIZE_INVALID",
      status: 413,
    });
  });
});

describe("redirects of writes", () => {
  const redirecting = (method: string, status: number, location: string) =>
    pushServer((request, response) => {
      request.resume().on("end", () => {
        if (request.method === method && !request.url?.includes("moved")) response.writeHead(status, { location }).end();
        else if (request.method === "POST") response.writeHead(202, { location: "/up/1" }).end();
        else response.writeHead(201).end();
      });
    });

  it.each([307, 308])("are followed with %i on the same origin", async (status) => {
    const upstream = await redirecting("PUT", status, "/moved");
    await remoteFor(upstream, { readOnly: false }).putManifest("a", "1", { bytes: image });
    expect(asked(upstream)).toEqual(["PUT /v2/a/manifests/1", "PUT /moved"]);
    expect(upstream.requests[1]?.headers["content-length"]).toBe(String(image.byteLength));
  });

  it.each([
    ["PUT", 307, "http://127.0.0.1:1/s3cret", "a write was redirected to another origin"],
    ["PUT", 302, "/moved", "a write was redirected with 302, which would drop its content"],
    ["PATCH", 307, "/moved", "a streamed body was redirected, and cannot be sent a second time"],
  ] as const)("of %s with %i are refused where they cannot be followed", async (method, status, to, message) => {
    const upstream = await redirecting(method, status, to);
    const registry = remoteFor(upstream, { readOnly: false });
    const work = method === "PUT" ? registry.putManifest("a", "1", { bytes: image }) : registry.putBlob("a", { digest }, chunksOf(blob));
    const error = await errorFrom(work);
    expect(error.code).toBe("UNAVAILABLE");
    expect(error.message).toMatch(new RegExp(`: ${message}$`));
    expect(asked(upstream)).not.toContain(`${method} /moved`);
  });
});

describe("tokens for writes", () => {
  const pushImage = async (upstream: ManifoldUpstream) => {
    const registry = remoteFor(upstream, { readOnly: false });
    const config = Buffer.from("{}");
    await registry.putBlob("a", { digest: digestOf(config) }, chunksOf(config));
    await registry.putManifest("a", "1", { bytes: image });
    return registry;
  };

  it("are asked for by what an operation needs, once each", async () => {
    const upstream = await manifoldUpstream({ tokens: true });
    const registry = await pushImage(upstream);
    expect(asked(upstream).map((request) => request.replace(/\?.*/, ""))).toEqual([
      "POST /v2/a/blobs/uploads/",
      "GET /token",
      "POST /v2/a/blobs/uploads/",
      "PATCH /v2/a/blobs/uploads/ID",
      "PUT /v2/a/blobs/uploads/ID",
      "PUT /v2/a/manifests/1",
    ]);
    await registry.getManifest("a", "1");
    await registry.mountBlob("b", digestOf(Buffer.from("{}")), { registry, repository: "a" });
    await registry.deleteManifest("a", "1");
    expect(upstream.scopes).toEqual([
      ["repository:a:pull,push"],
      ["repository:a:pull"],
      ["repository:b:pull,push", "repository:a:pull"],
      ["repository:b:pull"],
      // Exactly what was challenged: Quay refuses a token for more.
      ["repository:a:delete"],
    ]);
  });

  it("are asked for by our own scopes where a challenge names none", async () => {
    const scopes: string[][] = [];
    const upstream = await pushServer((request, response) => {
      const url = new URL(request.url ?? "", "http://up");
      if (url.pathname === "/token") {
        scopes.push(url.searchParams.getAll("scope"));
        return void response.end('{"token":"t"}');
      }
      const realm = `http://${request.headers.host}/token`;
      if (!request.headers.authorization) response.writeHead(401, { "www-authenticate": `Bearer realm="${realm}"` }).end();
      else response.writeHead(404).end();
    });
    const registry = remoteFor(upstream, { readOnly: false });
    await registry.mountBlob("a", digest, { registry, repository: "b" });
    await errorFrom(registry.startUpload("a"));
    await errorFrom(registry.deleteBlob("a", digest));
    expect(scopes).toEqual([["repository:a:pull,push", "repository:b:pull"], ["repository:a:pull,push"], ["repository:a:pull,delete"]]);
  });

  it("that end in the middle: a body at hand is sent again, a streamed one is not, and its session goes on", async () => {
    const upstream = await manifoldUpstream({ tokens: true });
    const registry = await pushImage(upstream);
    upstream.revoke();
    await registry.putManifest("a", "2", { bytes: image });
    const session = await registry.startUpload("a");
    upstream.requests.length = 0;
    upstream.meddle = ({ method }) => {
      if (method === "PATCH") upstream.revoke();
      return false;
    };
    const error = await errorFrom(session.append(chunksOf(blob), { length: blob.byteLength }));
    expect(error).toMatchObject({
      code: "UNAVAILABLE",
      retryAfter: 1,
      message: "up: upload to a: the authorization ended on the way; send again",
    });
    upstream.meddle = undefined;
    const again = await registry.resumeUpload("a", session.id);
    expect(again.offset).toBe(0);
    await again.append(chunksOf(blob), { start: 0, length: blob.byteLength });
    await again.commit(digest);
    expect(asked(upstream).filter((request) => request.startsWith("PATCH"))).toHaveLength(2);
    expect((await upstream.registry.resolveBlob("a", digest)).kind).toBe("found");
  });

  it.each<[string, (upstream: Awaited<ReturnType<typeof manifoldUpstream>>) => Promise<unknown>]>([
    [
      "a chunk",
      async (upstream) => {
        const registry = remoteFor(upstream, { readOnly: false });
        const session = await registry.startUpload("b");
        upstream.revoke();
        await session.append(chunksOf(blob), { length: blob.byteLength });
        return session.commit(digest);
      },
    ],
    [
      "a second chunk of unknown length",
      async (upstream) => {
        const registry = remoteFor(upstream, { readOnly: false });
        const session = await registry.startUpload("b");
        await session.append(chunked(blob.subarray(0, 2)), { length: 2 });
        upstream.revoke();
        await session.append(chunked(blob.subarray(2)));
        return session.commit(digest);
      },
    ],
  ])("are confirmed before %s is streamed, which cannot be sent again", async (_, push) => {
    const upstream = await manifoldUpstream({ tokens: true });
    await push(upstream);
    expect((await upstream.registry.resolveBlob("b", digest)).kind).toBe("found");
    expect(
      asked(upstream)
        .filter((request) => !request.includes("token") && !request.startsWith("PUT"))
        .slice(-3),
    ).toEqual(["GET /v2/b/blobs/uploads/ID", "GET /v2/b/blobs/uploads/ID", "PATCH /v2/b/blobs/uploads/ID"]);
  });

  it("are not confirmed where there are none", async () => {
    const upstream = await manifoldUpstream();
    await remoteFor(upstream, { readOnly: false }).putBlob("b", { digest, size: blob.byteLength }, chunksOf(blob));
    expect(asked(upstream).filter((request) => request.startsWith("GET"))).toEqual([]);
  });

  it("never come up in messages", async () => {
    const upstream = await manifoldUpstream({ tokens: true });
    const registry = await pushImage(upstream);
    upstream.meddle = (request, response) => {
      const said = { errors: [{ code: "DENIED", message: `no: ${request.headers.authorization}` }] };
      request.resume().on("end", () => response.writeHead(403).end(JSON.stringify(said)));
      return true;
    };
    const writes = [
      () => registry.putManifest("a", "1", { bytes: image }),
      () => registry.startUpload("a"),
      () => registry.deleteBlob("a", digest),
    ];
    for (const write of writes) {
      const error = await errorFrom(write());
      expect(error.code).toBe("DENIED");
      expect(error.message).not.toContain("t0ken");
    }
  });
});
