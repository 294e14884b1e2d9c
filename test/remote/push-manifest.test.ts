import type { IncomingMessage, ServerResponse } from "node:http";
import { describe, expect, it } from "vitest";
import { chunksOf } from "../../src/core/content.js";
import { digestOf } from "../../src/core/digest.js";
import { mediaTypes } from "../../src/core/media-types.js";
import { asked, config, errorFrom, type ManifoldUpstream, manifestOf, manifoldUpstream, pushServer } from "./pushing.js";
import { foundIn, remoteFor } from "./support.js";

const image = manifestOf();
const digest = digestOf(image);
const descriptor = { mediaType: mediaTypes.ociManifest, digest, size: image.byteLength };

async function pushing() {
  const upstream = await manifoldUpstream();
  await upstream.registry.putBlob("a", { digest: digestOf(config) }, chunksOf(config));
  return { upstream, registry: remoteFor(upstream, { readOnly: false }) };
}

/** As a registry from before distribution-spec 1.1: no tag parameters, no subjects, no referrers. */
function older(upstream: ManifoldUpstream): void {
  upstream.meddle = (request: IncomingMessage, response: ServerResponse) => {
    request.url = request.url?.replace(/\?tag=.*/, "");
    if (request.url?.includes("/referrers/")) {
      response.writeHead(404).end();
      return true;
    }
    const set = response.setHeader.bind(response);
    response.setHeader = (name, value) => (/^oci-/i.test(name) ? response : set(name, value));
    const write = response.writeHead.bind(response) as (status: number, headers?: object) => ServerResponse;
    response.writeHead = ((status: number, headers: object = {}) =>
      write(status, Object.fromEntries(Object.entries(headers).filter(([name]) => !/^oci-/i.test(name))))) as typeof response.writeHead;
    return false;
  };
}

describe("putManifest", () => {
  it("pushes by tag and by digest with tags, in one request each", async () => {
    const { upstream, registry } = await pushing();
    expect(await registry.putManifest("a", "1", { bytes: image })).toEqual(descriptor);
    expect(await registry.putManifest("a", digest, { bytes: image, mediaType: mediaTypes.ociManifest }, { tags: ["2", "3", "2"] })).toEqual(
      descriptor,
    );
    expect(asked(upstream)).toEqual(["PUT /v2/a/manifests/1", "PUT /v2/a/manifests/DIGEST?tag=2&tag=3"]);
    expect(upstream.requests[0]?.headers).toMatchObject({
      "content-type": mediaTypes.ociManifest,
      "content-length": String(image.byteLength),
    });
    expect(foundIn(await upstream.registry.listTags("a", { limit: 10 })).items).toEqual(["1", "2", "3"]);
  });

  it("pushes once more by each tag that an older registry did not take", async () => {
    const { upstream, registry } = await pushing();
    older(upstream);
    await registry.putManifest("a", digest, { bytes: image }, { tags: ["2", "3"] });
    expect(asked(upstream)).toEqual(["PUT /v2/a/manifests/DIGEST?tag=2&tag=3", "PUT /v2/a/manifests/2", "PUT /v2/a/manifests/3"]);
    expect(foundIn(await upstream.registry.listTags("a", { limit: 10 })).items).toEqual(["2", "3"]);
  });

  it("passes conditions on", async () => {
    const { upstream, registry } = await pushing();
    await registry.putManifest("a", "1", { bytes: image }, { ifNoneMatch: "*" });
    const next = manifestOf({ annotations: { a: "b" } });
    expect((await errorFrom(registry.putManifest("a", "1", { bytes: next }, { ifNoneMatch: "*" }))).code).toBe("PRECONDITION_FAILED");
    await registry.putManifest("a", "1", { bytes: next }, { ifMatch: digest });
    expect((await errorFrom(registry.putManifest("a", "1", { bytes: next }, { ifMatch: digest }))).code).toBe("PRECONDITION_FAILED");
    expect(upstream.requests.map(({ headers }) => headers["if-match"] ?? headers["if-none-match"])).toEqual([
      "*",
      "*",
      `"${digest}"`,
      `"${digest}"`,
    ]);
  });

  it("sends nothing that is no manifest, or not its digest", async () => {
    const { upstream, registry } = await pushing();
    const cases = [
      [digest, Buffer.from("[]"), "MANIFEST_INVALID"],
      [digest, manifestOf({ annotations: { a: "b" } }), "DIGEST_INVALID"],
      ["no tag", image, "MANIFEST_INVALID"],
    ] as const;
    for (const [reference, bytes, code] of cases)
      expect((await errorFrom(registry.putManifest("a", reference, { bytes }))).code).toBe(code);
    expect(upstream.requests).toEqual([]);
  });

  it("does not accept that the upstream stored something else", async () => {
    for (const stated of [digestOf(Buffer.from("x")), "sha256:short"]) {
      const upstream = await pushServer((_, response) => response.writeHead(201, { "docker-content-digest": stated }).end());
      expect((await errorFrom(remoteFor(upstream, { readOnly: false }).putManifest("a", "1", { bytes: image }))).code).toBe("UNAVAILABLE");
    }
    const sha512 = digestOf(image, "sha512");
    const upstream = await pushServer((_, response) => response.writeHead(201, { "docker-content-digest": sha512 }).end());
    const pushed = await remoteFor(upstream, { readOnly: false }).putManifest("a", "1", { bytes: image });
    expect(pushed.digest).toBe(sha512);
  });

  it("tells that a layer is missing, as the upstream does", async () => {
    const { registry } = await pushing();
    const error = await errorFrom(registry.putManifest("b", "1", { bytes: image }));
    expect(error).toMatchObject({
      code: "MANIFEST_BLOB_UNKNOWN",
      status: 400,
      message: expect.stringMatching(/^up: manifest 1 of b: answered 400: MANIFEST_BLOB_UNKNOWN: /),
    });
  });
});

describe("a manifest with a subject", () => {
  const referrer = (n: number) => manifestOf({ subject: descriptor, artifactType: "application/x.sig", annotations: { n: String(n) } });
  const listed = async (registry: ReturnType<typeof remoteFor>) =>
    foundIn(await registry.listReferrers("a", digest, { limit: 100 }))
      .items.map((item) => item.annotations?.n)
      .sort();

  it("needs nothing more where the upstream understands subjects", async () => {
    const { upstream, registry } = await pushing();
    const pushed = await registry.putManifest("a", digestOf(referrer(1)), { bytes: referrer(1) });
    expect(asked(upstream)).toEqual(["PUT /v2/a/manifests/DIGEST"]);
    upstream.requests.length = 0;
    await registry.deleteManifest("a", pushed.digest);
    expect(asked(upstream)).toEqual(["GET /v2/a/manifests/DIGEST", "GET /v2/a/referrers/DIGEST", "DELETE /v2/a/manifests/DIGEST"]);
  });

  it("is put into the referrers tag's index where it does not, once, and taken out when it is deleted", async () => {
    const { upstream, registry } = await pushing();
    older(upstream);
    for (const n of [1, 2, 2]) await registry.putManifest("a", digestOf(referrer(n)), { bytes: referrer(n) });
    const tag = digest.replace(":", "-");
    expect(asked(upstream).slice(0, 3)).toEqual(["PUT /v2/a/manifests/DIGEST", `GET /v2/a/manifests/${tag}`, `PUT /v2/a/manifests/${tag}`]);
    expect(upstream.requests[2]?.headers["if-none-match"]).toBe("*");
    expect(upstream.requests[5]?.headers["if-match"]).toMatch(/^"sha256:/);
    expect(upstream.requests).toHaveLength(8);
    expect(await listed(registry)).toEqual(["1", "2"]);
    const index = JSON.parse(Buffer.from(foundIn(await upstream.registry.getManifest("a", tag)).bytes).toString());
    expect(index).toMatchObject({ schemaVersion: 2, mediaType: mediaTypes.ociIndex });
    expect(index.manifests[0]).toEqual({
      mediaType: mediaTypes.ociManifest,
      digest: digestOf(referrer(1)),
      size: referrer(1).byteLength,
      artifactType: "application/x.sig",
      annotations: { n: "1" },
    });
    await registry.deleteManifest("a", digestOf(referrer(1)));
    expect(await listed(registry)).toEqual(["2"]);
  });

  it("loses no other one pushed at the same time, by this process or another", async () => {
    const { upstream, registry } = await pushing();
    older(upstream);
    const other = remoteFor(upstream, { readOnly: false });
    const pushes = [1, 2, 3, 4].map((n) => (n === 4 ? other : registry).putManifest("a", digestOf(referrer(n)), { bytes: referrer(n) }));
    await Promise.all(pushes);
    expect(await listed(registry)).toEqual(["1", "2", "3", "4"]);
  });

  it("does not overwrite an image under the referrers tag, and stays listed when its deletion is refused", async () => {
    const { upstream, registry } = await pushing();
    const tag = digest.replace(":", "-");
    await upstream.registry.putManifest("a", tag, { bytes: image });
    older(upstream);
    const error = await errorFrom(registry.putManifest("a", digestOf(referrer(1)), { bytes: referrer(1) }));
    expect(error.message).toBe(`up: the tag ${tag} of a, which lists referrers, holds something other than an index`);
    expect(foundIn(await upstream.registry.resolveManifest("a", tag)).digest).toBe(digest);
    await upstream.registry.deleteManifest("a", tag);
    await registry.putManifest("a", digestOf(referrer(1)), { bytes: referrer(1) });
    const before = upstream.meddle;
    upstream.meddle = (request, response) => {
      if (request.method !== "DELETE") return before?.(request, response) ?? false;
      response.writeHead(405).end();
      return true;
    };
    expect((await errorFrom(registry.deleteManifest("a", digestOf(referrer(1))))).code).toBe("UNSUPPORTED");
    expect(await listed(registry)).toEqual(["1"]);
  });
});

describe("deletes", () => {
  it("remove a tag, a manifest and a blob", async () => {
    const { upstream, registry } = await pushing();
    await upstream.registry.putManifest("a", "1", { bytes: image });
    await registry.deleteManifest("a", "1");
    expect((await upstream.registry.resolveManifest("a", digest)).kind).toBe("found");
    await registry.deleteManifest("a", digest);
    await registry.deleteBlob("a", digestOf(config));
    expect((await upstream.registry.resolveBlob("a", digestOf(config))).kind).toBe("absent");
    expect(asked(upstream)).toEqual([
      "DELETE /v2/a/manifests/1",
      "GET /v2/a/manifests/DIGEST",
      "DELETE /v2/a/manifests/DIGEST",
      "DELETE /v2/a/blobs/DIGEST",
    ]);
    expect((await errorFrom(registry.deleteManifest("a", "1"))).code).toBe("MANIFEST_UNKNOWN");
    expect((await errorFrom(registry.deleteBlob("a", digestOf(config)))).code).toBe("BLOB_UNKNOWN");
  });

  it("pass a condition on, and say so when the registry deletes no tags", async () => {
    const upstream = await pushServer((_, response) => response.writeHead(400).end('{"errors":[{"code":"DIGEST_INVALID"}]}'));
    const registry = remoteFor(upstream, { readOnly: false });
    expect((await errorFrom(registry.deleteManifest("a", "1", { ifMatch: digest }))).code).toBe("UNSUPPORTED");
    expect(upstream.requests[0]?.headers["if-match"]).toBe(`"${digest}"`);
    expect((await errorFrom(registry.deleteBlob("a", digest))).code).toBe("DIGEST_INVALID");
  });
});
