import { once } from "node:events";
import { connect } from "node:net";
import { orThrow, remoteRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { type FakeUpstreamOptions, type Fault, fakeUpstream } from "oci-manifold/testing";
import { expect, onTestFinished, test } from "vitest";
import { bytesOf } from "../fixtures/read.js";

const content = Buffer.from("the quick brown fox jumps over the lazy dog".repeat(100));
const digest = digestOf(content);

async function upstreamWith(fault?: Fault, options: FakeUpstreamOptions = {}) {
  const upstream = await fakeUpstream(options);
  onTestFinished(() => upstream.close());
  upstream.addBlob("app", content);
  upstream.addImage("app", "1");
  upstream.intercept = () => fault;
  const blob = (init?: RequestInit) => fetch(`${upstream.url}/v2/app/blobs/${digest}`, { redirect: "manual", ...init });
  const manifest = (init?: RequestInit) => fetch(`${upstream.url}/v2/app/manifests/1`, { redirect: "manual", ...init });
  return { upstream, blob, manifest };
}

const bodyOf = async (response: Response) => Buffer.from(await response.arrayBuffer());

test("without a fault it answers as the specification wants it", async () => {
  const { upstream, blob, manifest } = await upstreamWith();
  const whole = await blob();
  expect([whole.status, whole.headers.get("content-length"), whole.headers.get("docker-content-digest")]).toEqual([
    200,
    String(content.byteLength),
    digest,
  ]);
  expect((await bodyOf(whole)).equals(content)).toBe(true);
  const part = await blob({ headers: { range: "bytes=4-8" } });
  expect([part.status, part.headers.get("content-range"), await part.text()]).toEqual([206, `bytes 4-8/${content.byteLength}`, "quick"]);
  expect((await blob({ headers: { range: "bytes=100000-" } })).status).toBe(416);
  expect((await manifest({ method: "HEAD" })).headers.get("content-type")).toBe("application/vnd.oci.image.manifest.v1+json");
  const listed = async (path: string) => (await fetch(upstream.url + path)).json();
  expect(await listed("/v2/app/tags/list")).toEqual({ name: "app", tags: ["1"] });
  expect(await listed("/v2/_catalog")).toEqual({ repositories: ["app"] });
  expect((await fetch(`${upstream.url}/v2/app/manifests/2`)).status).toBe(404);
});

test("requests are recorded in order, with what they sent", async () => {
  const { upstream, blob, manifest } = await upstreamWith();
  await (await manifest({ method: "HEAD", headers: { accept: "application/json" } })).text();
  await (await blob({ headers: { range: "bytes=0-1" } })).text();
  await (await fetch(`${upstream.url}/v2/_catalog?n=5`)).text();
  expect(upstream.requests.map(({ method, url }) => `${method} ${url}`)).toEqual([
    "HEAD /v2/app/manifests/1",
    `GET /v2/app/blobs/${digest}`,
    "GET /v2/_catalog?n=5",
  ]);
  expect(upstream.requests[0]?.headers.accept).toBe("application/json");
  expect(upstream.requests[1]?.headers.range).toBe("bytes=0-1");
  upstream.requests.length = 0;
  await (await blob()).text();
  expect(upstream.requests).toHaveLength(1);
});

test.each([401, 403, 404, 429, 500, 502, 503])("%i with headers of the test's", async (status) => {
  const { blob } = await upstreamWith({ status, headers: { "retry-after": "7" } });
  const response = await blob();
  expect([response.status, response.headers.get("retry-after"), await response.text()]).toEqual([status, "7", ""]);
});

test("429 with Retry-After is what a remote makes of it", async () => {
  const { upstream } = await upstreamWith({ status: 429, headers: { "retry-after": "7" }, body: "slow down" });
  const remote = remoteRegistry(upstream.url, { retries: 0 });
  onTestFinished(() => remote.close());
  const lookup = await remote.getManifest("app", "1");
  expect(lookup).toMatchObject({ kind: "unavailable", error: { code: "TOOMANYREQUESTS", retryAfter: 7 } });
});

test("a fault hits the requests that the test chooses, once or as often as it likes", async () => {
  const { upstream, blob, manifest } = await upstreamWith();
  let failures = 2;
  upstream.intercept = async ({ url }) => (url.includes("/blobs/") && failures-- > 0 ? { status: 503 } : undefined);
  const statuses = [await blob(), await manifest(), await blob(), await blob()].map(({ status }) => status);
  expect(statuses).toEqual([503, 200, 503, 200]);
});

test("a delay, and an intercept that waits, hold the answer back", async () => {
  const { upstream, blob } = await upstreamWith({ delay: 30 });
  const begun = performance.now();
  await (await blob()).text();
  // A lower bound only: load makes it longer, never shorter.
  expect(performance.now() - begun).toBeGreaterThan(25);
  let go = () => {};
  const opened = new Promise<undefined>((resolve) => {
    go = () => resolve(undefined);
  });
  upstream.intercept = () => opened;
  let answered = false;
  const asking = blob().then((response) => {
    answered = true;
    return response.text();
  });
  await expect.poll(() => upstream.requests.length).toBe(2);
  expect(answered).toBe(false);
  go();
  expect(await asking).toBe(content.toString());
});

test("slow bytes come in pieces, after the headers", async () => {
  const { blob } = await upstreamWith({ slowBytesPerSecond: 50_000 });
  const response = await blob();
  const pieces: Uint8Array[] = [];
  for await (const piece of response.body ?? []) pieces.push(piece);
  expect(pieces.length).toBeGreaterThan(2);
  expect(Buffer.concat(pieces).equals(content)).toBe(true);
});

test("a truncated body has its whole length declared, and ends in a broken connection", async () => {
  const { upstream } = await upstreamWith({ truncateAfter: 100 });
  const socket = connect(Number(new URL(upstream.url).port), "127.0.0.1");
  socket.write(`GET /v2/app/blobs/${digest} HTTP/1.1\r\nHost: fake\r\n\r\n`);
  const received: Buffer[] = [];
  socket.on("data", (data: Buffer) => received.push(data)).on("error", () => {});
  await once(socket, "close");
  const [head = "", body = ""] = Buffer.concat(received).toString().split("\r\n\r\n");
  expect(head.toLowerCase()).toContain(`content-length: ${content.byteLength}`);
  expect(body).toBe(content.subarray(0, 100).toString());
});

test("a corrupt body has one wrong byte, its last", async () => {
  const { blob } = await upstreamWith({ corrupt: true });
  const bytes = await bodyOf(await blob());
  expect(bytes.byteLength).toBe(content.byteLength);
  expect(bytes.subarray(0, -1).equals(content.subarray(0, -1))).toBe(true);
  expect(digestOf(bytes)).not.toBe(digest);
});

test("a redirect leads where the test says, by 307 or another status", async () => {
  const { upstream, blob } = await upstreamWith({ redirect: "http://127.0.0.1:1/elsewhere" });
  const response = await blob();
  expect([response.status, response.headers.get("location"), await response.text()]).toEqual([307, "http://127.0.0.1:1/elsewhere", ""]);
  upstream.intercept = () => ({ redirect: "/v2/", status: 302 });
  expect((await blob()).status).toBe(302);
});

test("a wrong or missing length, and a missing digest", async () => {
  const { upstream, blob, manifest } = await upstreamWith({ wrongContentLength: 7 });
  expect((await blob({ method: "HEAD" })).headers.get("content-length")).toBe("7");
  upstream.intercept = () => ({ dropContentLength: true });
  const chunked = await blob();
  expect([chunked.headers.get("content-length"), chunked.headers.get("transfer-encoding")]).toEqual([null, "chunked"]);
  expect((await bodyOf(chunked)).equals(content)).toBe(true);
  upstream.intercept = () => ({ dropDigestHeader: true });
  for (const ask of [blob, manifest]) expect((await ask()).headers.get("docker-content-digest")).toBeNull();
  upstream.intercept = () => ({ headers: { "content-type": undefined, "x-more": ["1", "2"] } });
  const response = await manifest();
  expect([response.headers.get("content-type"), response.headers.get("x-more")]).toEqual([null, "1, 2"]);
});

test("a hang-up comes before any header", async () => {
  const { blob } = await upstreamWith({ hangUp: true });
  await expect(blob()).rejects.toThrow();
});

test("an intercept that throws ends the connection, not the test", async () => {
  const { upstream, blob } = await upstreamWith();
  upstream.intercept = () => {
    throw new Error("a slip of the test");
  };
  await expect(blob()).rejects.toThrow();
  upstream.intercept = undefined;
  expect((await blob()).status).toBe(200);
});

test("Basic and Bearer challenge, and let in whoever answers", async () => {
  const { upstream, manifest } = await upstreamWith(undefined, { auth: { kind: "basic", username: "ann", password: "secret" } });
  expect((await manifest()).headers.get("www-authenticate")).toBe('Basic realm="fake upstream"');
  const authorization = `Basic ${Buffer.from("ann:secret").toString("base64")}`;
  expect((await manifest({ headers: { authorization } })).status).toBe(200);

  upstream.auth = { kind: "bearer", username: "ann", password: "secret" };
  const challenge = (await manifest()).headers.get("www-authenticate") ?? "";
  expect(challenge).toBe(`Bearer realm="${upstream.url}/token",service="fake-upstream",scope="repository:app:pull"`);
  const ask = (headers: Record<string, string>) => fetch(`${upstream.url}/token?scope=repository:app:pull`, { headers });
  expect((await ask({})).status).toBe(401);
  const { token } = (await (await ask({ authorization })).json()) as { token: string };
  const bearer = { authorization: `Bearer ${token}` };
  expect((await manifest({ headers: bearer })).status).toBe(200);
  expect((await fetch(`${upstream.url}/v2/other/manifests/1`, { headers: bearer })).status).toBe(401);
  expect(upstream.tokensIssued).toBe(1);
  upstream.revokeTokens();
  expect((await manifest({ headers: bearer })).status).toBe(401);
});

test("an identity token is taken by POST, where there is one", async () => {
  const { upstream } = await upstreamWith(undefined, { auth: { kind: "bearer", identityToken: "id", lifetime: 60 } });
  const post = (token: string) =>
    fetch(`${upstream.url}/token`, { method: "POST", body: new URLSearchParams({ refresh_token: token, scope: "repository:app:pull" }) });
  expect((await post("other")).status).toBe(401);
  expect(await (await post("id")).json()).toMatchObject({ access_token: expect.stringMatching(/^fake-/), expires_in: 60 });
  upstream.auth = { kind: "bearer" };
  expect((await post("id")).status).toBe(405);
});

test("a remote pulls through a token what was put in", async () => {
  const upstream = await fakeUpstream({ auth: { kind: "bearer" }, pageSize: 2 });
  const remote = remoteRegistry(upstream.url);
  onTestFinished(async () => {
    await remote.close();
    await upstream.close();
  });
  const image = upstream.addImage("app", "a", { layers: [100_000] });
  for (const tag of ["b", "c", "d"]) upstream.repository("app").tags.set(tag, image.digest);
  const index = upstream.addIndex("app", "all", [image.descriptor]);
  const signature = upstream.addImage("app", undefined, { subject: image.descriptor, artifactType: "application/vnd.example.signature" });
  expect(Buffer.from(orThrow(await remote.getManifest("app", "a")).bytes).equals(Buffer.from(image.bytes))).toBe(true);
  expect(orThrow(await remote.resolveManifest("app", "all")).digest).toBe(index.digest);
  const [layer] = image.layers;
  expect((await bytesOf(await remote.getBlob("app", layer?.digest ?? ""))).byteLength).toBe(100_000);
  expect(orThrow(await remote.listTags("app", { limit: 10 })).items).toEqual(["a", "all", "b", "c", "d"]);
  expect(orThrow(await remote.listReferrers("app", image.digest, { limit: 10 })).items.map((item) => item.digest)).toEqual([
    signature.digest,
  ]);
});

test("an upstream without referrers and catalog says 404, pushes are 405, and close may be called twice", async () => {
  const upstream = await fakeUpstream({ referrers: false, catalog: false });
  upstream.addImage("app", "1");
  expect((await fetch(`${upstream.url}/v2/app/referrers/${digest}`)).status).toBe(404);
  expect((await fetch(`${upstream.url}/v2/_catalog`)).status).toBe(404);
  expect((await fetch(`${upstream.url}/v2/app/blobs/uploads/`, { method: "POST" })).status).toBe(405);
  await upstream.close();
  await upstream.close();
  await expect(fetch(`${upstream.url}/v2/`)).rejects.toThrow();
});
