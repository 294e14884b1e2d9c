import { chunksOf, digestOf } from "oci-manifold/extend";
import { expect, test, vi } from "vitest";
import type { AccessQuestion } from "../../src/access/policy.js";
import { makeImage, pushImage } from "../fixtures/images.js";
import { emptyRegistry, errorCode, overriding, raw, recorder, site } from "../http/support.js";

const challenge = 'Bearer realm="https://auth.example/token",service="registry"';
const byHeader = (request: { headers: Record<string, unknown> }) =>
  typeof request.headers["x-user"] === "string" ? { name: request.headers["x-user"] } : undefined;

test("/v2/ challenges an anonymous client where there is a policy, and lets pulls through all the same", async () => {
  const { registry, fetch } = await site(undefined, {
    caller: byHeader,
    challenge,
    authorize: ({ action, caller }) => action === "pull" || caller?.name === "ci",
  });
  await pushImage(registry, "app", "latest");
  for (const method of ["GET", "HEAD"]) {
    const ping = await fetch("/v2/", { method });
    expect([ping.status, ping.headers.get("www-authenticate")]).toEqual([401, challenge]);
  }
  expect((await fetch("/v2/", { headers: { "X-User": "ci" } })).status).toBe(200);
  expect((await fetch("/v2/app/manifests/latest")).status).toBe(200);
});

test("401 with the challenge for the unknown, 403 for the known", async () => {
  const { fetch } = await site(undefined, { caller: byHeader, challenge, authorize: () => false });
  const digest = digestOf(Buffer.of(1));
  for (const [method, path] of [
    ["GET", "/v2/app/manifests/latest"],
    ["PUT", "/v2/app/manifests/latest"],
    ["DELETE", "/v2/app/manifests/latest"],
    ["GET", `/v2/app/blobs/${digest}`],
    ["DELETE", `/v2/app/blobs/${digest}`],
    ["POST", "/v2/app/blobs/uploads/"],
    ["PATCH", "/v2/app/blobs/uploads/abc"],
    ["PUT", "/v2/app/blobs/uploads/abc"],
    ["GET", "/v2/app/blobs/uploads/abc"],
    ["DELETE", "/v2/app/blobs/uploads/abc"],
    ["GET", "/v2/app/tags/list"],
    ["GET", `/v2/app/referrers/${digest}`],
    ["GET", "/v2/_catalog"],
  ] as const) {
    const unknown = await fetch(path, { method });
    expect([method, path, unknown.status, unknown.headers.get("www-authenticate"), await errorCode(unknown)]).toEqual([
      method,
      path,
      401,
      challenge,
      "UNAUTHORIZED",
    ]);
    const known = await fetch(path, { method, headers: { "X-User": "eve" } });
    expect([known.status, known.headers.get("www-authenticate"), await errorCode(known)]).toEqual([403, null, "DENIED"]);
  }
});

test("each request asks for what it does", async () => {
  const asked: AccessQuestion[] = [];
  const { fetch } = await site(undefined, {
    caller: byHeader,
    authorize: (question) => {
      asked.push(question);
      return true;
    },
  });
  const digest = digestOf(Buffer.of(1));
  const ask = async (method: string, path: string) => {
    asked.length = 0;
    await fetch(path, { method });
    return asked;
  };
  expect(await ask("HEAD", "/v2/app/manifests/v1")).toEqual([{ action: "pull", repository: "app", reference: "v1" }]);
  expect(await ask("GET", `/v2/app/blobs/${digest}?ns=docker.io`)).toEqual([
    { action: "pull", repository: "app", reference: digest, namespace: "docker.io" },
  ]);
  expect(await ask("PUT", "/v2/app/manifests/v1")).toEqual([{ action: "push", repository: "app", reference: "v1" }]);
  expect(await ask("DELETE", "/v2/app/manifests/v1")).toEqual([{ action: "delete", repository: "app", reference: "v1" }]);
  expect(await ask("GET", "/v2/app/tags/list")).toEqual([{ action: "pull", repository: "app" }]);
  expect(await ask("GET", "/v2/_catalog")).toEqual([{ action: "list" }]);
  expect(await ask("POST", "/v2/app/blobs/uploads/")).toEqual([{ action: "push", repository: "app" }]);
});

test("what is refused is refused before its body is read, and is an event for the host", async () => {
  const events = recorder();
  const base = emptyRegistry();
  const putManifest = vi.fn(base.putManifest);
  const { port } = await site(overriding(base, { putManifest }), { events });
  // The body never comes.
  const text = await raw(port, "PUT /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
  expect(text).toMatch(/^HTTP\/1\.1 401 /);
  expect(text).toContain('WWW-Authenticate: Basic realm="registry"');
  expect(putManifest).not.toHaveBeenCalled();
  expect(events.of("denied")).toMatchObject([
    { action: "push", repository: "app", reference: "latest", code: "UNAUTHORIZED", address: "127.0.0.1" },
  ]);
});

test("a policy that throws fails closed, and the host learns why", async () => {
  const events = recorder();
  const { fetch } = await site(undefined, {
    events,
    authorize: () => {
      throw new Error("ldap://secret is down");
    },
  });
  const got = await fetch("/v2/app/manifests/latest");
  expect([got.status, (await got.text()).includes("secret")]).toEqual([500, false]);
  expect(events.of("fault")).toMatchObject([{ message: expect.stringContaining("ldap") }]);
});

test("a mount is no way around a closed repository, and no oracle", async () => {
  const base = emptyRegistry();
  const secret = makeImage([100]);
  const [layer] = secret.layers;
  if (!layer) throw new Error("no layer");
  for (const [digest, bytes] of secret.blobs) await base.putBlob("closed", { digest }, chunksOf(bytes));
  const mountBlob = vi.fn(base.mountBlob);
  const { fetch } = await site(overriding(base, { mountBlob }), {
    caller: byHeader,
    authorize: ({ repository, caller }) => repository === "mine" || caller?.name === "root",
  });
  const mount = (query: string, user = "eve") => fetch(`/v2/mine/blobs/uploads/?${query}`, { method: "POST", headers: { "X-User": user } });
  const nothing = digestOf(Buffer.from("never pushed"));
  const shape = async (query: string) => {
    const { status, headers } = await mount(query);
    return [status, [...headers.keys()].sort()];
  };
  const closed = await shape(`mount=${layer.digest}&from=closed`);
  expect(closed).toEqual(await shape(`mount=${nothing}&from=closed`));
  expect(closed).toEqual(await shape(`mount=${layer.digest}`));
  expect(closed[0]).toBe(202);
  // Without a source the registry itself asks who may read what it found.
  expect(mountBlob).toHaveBeenCalledTimes(1);
  expect((await base.resolveBlob("mine", layer.digest)).kind).toBe("absent");
  expect((await mount(`mount=${layer.digest}&from=closed`, "root")).status).toBe(201);
  // Now it is in a repository that the caller may read.
  expect((await mount(`mount=${layer.digest}`)).status).toBe(201);
});
