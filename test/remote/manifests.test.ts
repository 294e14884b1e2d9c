import { describe, expect, it } from "vitest";
import { digestOf } from "../../src/core/digest.js";
import { mediaTypes } from "../../src/core/media-types.js";
import type { Fault } from "../../src/testing/fake-upstream.js";
import { errorOf, foundIn, remoteFor, seen, upstreamFor } from "./support.js";

async function imageFor() {
  const upstream = await upstreamFor();
  const image = upstream.addImage("team/app", "1");
  return { upstream, image, registry: remoteFor(upstream) };
}

/** A failure that no new attempt would change. */
const permanently = (why: string) => ({
  kind: "denied",
  permanent: true,
  error: { code: "UNSUPPORTED", status: 400, retryAfter: undefined, message: expect.stringContaining(why) },
});

describe("resolveManifest", () => {
  it("is one HEAD that accepts everything", async () => {
    const { upstream, image, registry } = await imageFor();
    const lookup = await registry.resolveManifest("team/app", "1");
    expect(lookup).toEqual({ kind: "found", value: image.descriptor, served: { member: ["up"] } });
    expect(seen(upstream)).toEqual(["HEAD /v2/team/app/manifests/1"]);
    const { accept, "accept-encoding": encoding, "user-agent": agent } = upstream.requests[0]?.headers ?? {};
    for (const type of [mediaTypes.ociIndex, mediaTypes.ociManifest, mediaTypes.dockerList, mediaTypes.dockerManifest])
      expect(accept).toContain(type);
    expect(accept).toMatch(/, \*\/\*$/);
    expect(encoding).toBe("identity");
    expect(agent).toBe("oci-manifold");
  });

  it.each<[string, Fault]>([
    ["misses the digest", { dropDigestHeader: true }],
    ["has a malformed digest", { headers: { "docker-content-digest": "sha256:ABC" } }],
    ["has no length", { dropContentLength: true }],
    ["has Content-Length: 0", { wrongContentLength: 0 }],
    ["is a web page", { headers: { "content-type": "text/html" } }],
    ["has a general type", { headers: { "content-type": "application/json" } }],
    ["is refused with 405", { status: 405 }],
    ["is redirected", { redirect: "http://127.0.0.1:1/signed-for-get" }],
  ])("asks by GET and hashes when the HEAD %s", async (_, fault) => {
    const { upstream, image, registry } = await imageFor();
    upstream.intercept = ({ method }) => (method === "HEAD" ? fault : undefined);
    expect(foundIn(await registry.resolveManifest("team/app", "1"))).toEqual(image.descriptor);
    expect(seen(upstream)).toEqual(["HEAD /v2/team/app/manifests/1", "GET /v2/team/app/manifests/1"]);
  });

  it("by digest does not believe another digest", async () => {
    const { upstream, image, registry } = await imageFor();
    upstream.intercept = () => ({ headers: { "docker-content-digest": digestOf(Buffer.from("other")) } });
    expect(foundIn(await registry.resolveManifest("team/app", image.digest)).digest).toBe(image.digest);
  });

  it("answers absent to 404", async () => {
    const { registry } = await imageFor();
    expect(await registry.resolveManifest("team/app", "2")).toEqual({ kind: "absent" });
    expect(await registry.resolveManifest("team/none", "1")).toEqual({ kind: "absent" });
  });
});

describe("getManifest", () => {
  it("gives the exact bytes", async () => {
    const { image, registry } = await imageFor();
    for (const reference of ["1", image.digest]) {
      const { descriptor, bytes } = foundIn(await registry.getManifest("team/app", reference));
      expect(descriptor).toEqual(image.descriptor);
      expect(Buffer.from(bytes).equals(Buffer.from(image.bytes))).toBe(true);
    }
  });

  it("hashes when the digest is not stated, and keeps the algorithm when it is", async () => {
    const { upstream, image, registry } = await imageFor();
    upstream.intercept = () => ({ dropDigestHeader: true });
    expect(foundIn(await registry.getManifest("team/app", "1")).descriptor.digest).toBe(image.digest);
    upstream.intercept = undefined;
    const { digest } = upstream.addManifest("team/app", "512", image.bytes, { algorithm: "sha512" });
    expect(foundIn(await registry.getManifest("team/app", "512")).descriptor.digest).toBe(digest);
    expect(foundIn(await registry.getManifest("team/app", digest)).descriptor.digest).toBe(digest);
  });

  it("refuses bytes that do not match, by tag and by digest", async () => {
    const { upstream, image, registry } = await imageFor();
    upstream.intercept = () => ({ corrupt: true });
    for (const reference of ["1", image.digest]) {
      expect(errorOf(await registry.getManifest("team/app", reference))).toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringContaining("do not match the digest"),
      });
    }
    upstream.intercept = () => ({ corrupt: true, dropDigestHeader: true });
    expect((await registry.getManifest("team/app", image.digest)).kind).toBe("unavailable");
  });

  it.each<[string, Fault]>([
    ["declared", { body: Buffer.alloc(4 * 1024 * 1024 + 1, " ") }],
    ["streamed", { body: Buffer.alloc(4 * 1024 * 1024 + 1, " "), dropContentLength: true }],
  ])("refuses a manifest over 4 MiB, %s", async (_, fault) => {
    const { upstream, registry } = await imageFor();
    upstream.intercept = () => fault;
    expect(await registry.getManifest("team/app", "1")).toMatchObject(permanently("larger than 4194304 bytes"));
    // It says nothing about the upstream's health.
    expect(registry.status().urls).toMatchObject([{ reachable: true, breaker: "closed" }]);
  });

  it("reads headers of 60 KiB; more than 64 are refused for good, and are no outage", async () => {
    const { upstream, image, registry } = await imageFor();
    let size = 60;
    upstream.intercept = () => ({ headers: { "x-signature": "s".repeat(size * 1024) } });
    expect(foundIn(await registry.getManifest("team/app", "1")).descriptor).toEqual(image.descriptor);
    size = 70;
    for (let tries = 0; tries < 10; tries++)
      expect(await registry.getManifest("team/app", "1")).toMatchObject(permanently("headers of the answer are larger than 64 KiB"));
    expect(registry.status().urls).toMatchObject([{ breaker: "closed" }]);
  });

  it.each<[string, Fault]>([
    ["signed", { body: '{"schemaVersion":1}', headers: { "content-type": "application/vnd.docker.distribution.manifest.v1+prettyjws" } }],
    ["unsigned", { body: '{"schemaVersion":1}', headers: { "content-type": "application/vnd.docker.distribution.manifest.v1+json" } }],
    ["sent as some JSON", { body: '{"schemaVersion":1,"fsLayers":[]}', headers: { "content-type": "application/vnd.other+json" } }],
  ])("refuses schema 1 for good: %s", async (_, fault) => {
    const { upstream, registry } = await imageFor();
    upstream.intercept = () => ({ ...fault, dropDigestHeader: true });
    expect(await registry.getManifest("team/app", "1")).toMatchObject(permanently("schema 1"));
    expect(await registry.resolveManifest("team/app", "1")).toMatchObject(permanently("schema 1"));
  });

  it.each<[string, string]>([
    ["application/xhtml+xml", "<html/>"],
    ["application/xml", "<?xml version='1.0'?><Error/>"],
    ["application/pdf", "%PDF-1.7"],
    ["application/problem+json", '{"title":"sign in"}'],
    ["application/problem+json", '["schemaVersion",2]'],
  ])("takes no %s for a manifest by tag, whatever HEAD says: %s", async (type, body) => {
    const { upstream, registry } = await imageFor();
    upstream.intercept = () => ({ body, headers: { "content-type": type }, dropDigestHeader: true });
    for (const lookup of [await registry.getManifest("team/app", "1"), await registry.resolveManifest("team/app", "1")])
      expect(errorOf(lookup)).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("no manifest") });
  });

  it("takes a manifest of a type that it does not know, by tag where it says schemaVersion 2", async () => {
    const { upstream, registry } = await imageFor();
    upstream.intercept = () => ({
      body: '{"schemaVersion":2}',
      headers: { "content-type": "application/vnd.example.thing.v1+json" },
      dropDigestHeader: true,
    });
    expect(foundIn(await registry.getManifest("team/app", "1")).descriptor.mediaType).toBe("application/vnd.example.thing.v1+json");
  });

  it.each<[string, Fault]>([
    ["truncated", { truncateAfter: 10 }],
    ["shorter than declared", { wrongContentLength: 100_000, truncateAfter: 50 }],
    ["a web page", { body: "<html>", headers: { "content-type": "text/html" }, dropDigestHeader: true }],
  ])("refuses an answer that is %s", async (_, fault) => {
    const { upstream, registry } = await imageFor();
    upstream.intercept = () => fault;
    expect((await registry.getManifest("team/app", "1")).kind).toBe("unavailable");
  });

  it("takes the type from Content-Type without parameters, else from the bytes", async () => {
    const { upstream, registry } = await imageFor();
    for (const type of [`${mediaTypes.ociManifest}; charset=utf-8`, undefined, "text/plain", "application/octet-stream"]) {
      upstream.intercept = () => ({ headers: { "content-type": type } });
      expect(foundIn(await registry.getManifest("team/app", "1")).descriptor.mediaType).toBe(mediaTypes.ociManifest);
    }
  });

  it("asks nothing for a malformed name, tag or digest", async () => {
    const { upstream, registry } = await imageFor();
    await expect(registry.getManifest("../a", "1")).rejects.toMatchObject({ code: "NAME_INVALID" });
    await expect(registry.getManifest("a", "-")).rejects.toMatchObject({ code: "MANIFEST_INVALID" });
    await expect(registry.getManifest("a", "sha256:x")).rejects.toMatchObject({ code: "DIGEST_INVALID" });
    await expect(registry.getBlob("a", "x/../..")).rejects.toMatchObject({ code: "DIGEST_INVALID" });
    expect(upstream.requests).toHaveLength(0);
  });
});
