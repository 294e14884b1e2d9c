import { describe, expect, it } from "vitest";
import { redirectTarget } from "../../src/remote/transport.js";
import { errorOf, foundIn, readAll, remoteFor, upstreamFor } from "./support.js";

const login = { username: "robot", password: "s3cret" };

describe("redirects", () => {
  it("to another origin carry no credentials, and get none back on the way home", async () => {
    const upstream = await upstreamFor({ auth: { kind: "basic", ...login } });
    const cdn = await upstreamFor();
    const blob = upstream.addBlob("a", 500);
    upstream.intercept = ({ url, headers }) => {
      if (url === "/home") return { status: 200, body: upstream.repository("a").blobs.get(blob.digest) ?? "" };
      return headers.authorization ? { redirect: `${cdn.url}/signed?x=1`, headers: { "set-cookie": "session=1" } } : undefined;
    };
    cdn.intercept = () => ({ redirect: `${upstream.url}/home` });
    const { content } = foundIn(await remoteFor(upstream, { credentials: login }).getBlob("a", blob.digest, { verify: false }));
    expect(content.kind === "stream" && (await readAll(content.open())).byteLength).toBe(500);
    expect(cdn.requests.map(({ url }) => url)).toEqual(["/signed?x=1"]);
    expect(cdn.requests[0]?.headers).not.toHaveProperty("authorization");
    expect(cdn.requests[0]?.headers).not.toHaveProperty("cookie");
    expect(upstream.requests.map(({ headers }) => headers.authorization !== undefined)).toEqual([false, true, false]);
  });

  it("on the same origin keep the credentials, and a range", async () => {
    const upstream = await upstreamFor({ auth: { kind: "basic", ...login } });
    const blob = upstream.addBlob("a", 500);
    upstream.addBlob("b", upstream.repository("a").blobs.get(blob.digest) ?? 0);
    upstream.intercept = ({ url }) => (url.startsWith("/v2/a/") ? { redirect: `/v2/b/blobs/${blob.digest}` } : undefined);
    const registry = remoteFor(upstream, { credentials: login });
    const { range } = foundIn(await registry.getBlob("a", blob.digest, { range: { start: 400 }, verify: false }));
    expect(range).toEqual({ start: 400, end: 499, total: 500 });
  });

  it("are never answered to another origin's challenge", async () => {
    const upstream = await upstreamFor();
    const thief = await upstreamFor();
    upstream.intercept = () => ({ redirect: `${thief.url}/x` });
    thief.intercept = () => ({ status: 401, headers: { "www-authenticate": 'Basic realm="give"' } });
    const lookup = await remoteFor(upstream, { credentials: login }).getManifest("a", "1");
    expect(lookup.kind).toBe("denied");
    expect(thief.requests).toHaveLength(1);
    expect(thief.requests[0]?.headers).not.toHaveProperty("authorization");
  });

  it("end after ten", async () => {
    const upstream = await upstreamFor();
    upstream.intercept = () => ({ redirect: "/again" });
    const lookup = await remoteFor(upstream).getManifest("a", "1");
    expect(errorOf(lookup)).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("redirects") });
    expect(upstream.requests).toHaveLength(11);
  });

  it("go from https to https only, and to nothing that is not http", () => {
    const refused = (from: string, location: string | undefined) => "refused" in redirectTarget(new URL(from), location);
    expect(refused("https://a/x", "http://a/y")).toBe(true);
    expect(refused("https://a/x", "//b/y")).toBe(false);
    expect(refused("http://a/x", "https://b/y")).toBe(false);
    expect(refused("http://a/x", "http://b/y")).toBe(false);
    for (const bad of [undefined, "file:///etc/passwd", "data:,x", "http://[", "http://user:pass@b/"])
      expect(refused("http://a/x", bad)).toBe(true);
  });
});
