import { type Digest, mediaTypes, RegistryError, remoteRegistry, routes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { fakeUpstream } from "oci-manifold/testing";
import { expect, onTestFinished, test } from "vitest";
import { found } from "../../src/core/lookup.js";
import { makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { emptyRegistry, errorCode, overriding, raw, site } from "./support.js";

const type = { "Content-Type": mediaTypes.ociManifest };

test("GET and HEAD answer the exact bytes and every header", async () => {
  const { registry, fetch } = await site();
  const image = await pushImage(registry, "app", "latest");
  for (const reference of ["latest", image.digest, image.digest.replace(":", "%3A")]) {
    const got = await fetch(`/v2/app/manifests/${reference}`);
    expect(got.status).toBe(200);
    expect(Buffer.from(await got.arrayBuffer()).equals(image.manifest)).toBe(true);
    const head = await fetch(`/v2/app/manifests/${reference}`, { method: "HEAD" });
    for (const { headers } of [got, head]) {
      expect(Object.fromEntries(headers)).toMatchObject({
        "docker-distribution-api-version": "registry/2.0",
        "cache-control": "no-transform",
        "content-type": mediaTypes.ociManifest,
        "content-length": String(image.manifest.byteLength),
        "docker-content-digest": image.digest,
        etag: `"${image.digest}"`,
      });
    }
  }
});

test("the stored type goes out whatever Accept says", async () => {
  const { registry, fetch } = await site();
  await pushImage(registry, "app", "latest");
  for (const Accept of ["*/*", mediaTypes.dockerManifest, `${mediaTypes.ociIndex}, ${mediaTypes.dockerList}`]) {
    const got = await fetch("/v2/app/manifests/latest", { headers: { Accept } });
    expect(got.headers.get("content-type")).toBe(mediaTypes.ociManifest);
  }
});

test("If-None-Match answers 304", async () => {
  const { registry, fetch } = await site();
  const { digest } = await pushImage(registry, "app", "latest");
  for (const value of [`"${digest}"`, `W/"${digest}"`, `"x", "${digest}"`, "*"]) {
    for (const method of ["GET", "HEAD"]) {
      const got = await fetch("/v2/app/manifests/latest", { method, headers: { "If-None-Match": value } });
      expect([value, got.status, got.headers.get("etag"), await got.text()]).toEqual([value, 304, `"${digest}"`, ""]);
    }
  }
  expect((await fetch("/v2/app/manifests/latest", { headers: { "If-None-Match": '"other"' } })).status).toBe(200);
});

test("every 404 says MANIFEST_UNKNOWN, and HEAD has no body", async () => {
  const { registry, fetch } = await site();
  await pushImage(registry, "app", "latest");
  const unknown = `sha256:${"0".repeat(64)}`;
  for (const path of ["app/manifests/nope", "nope/manifests/latest", `app/manifests/${unknown}`, "app/manifests/.INVALID"]) {
    const got = await fetch(`/v2/${path}`);
    expect(got.status).toBe(404);
    expect(got.headers.get("content-type")).toBe("application/json");
    expect(await errorCode(got)).toBe("MANIFEST_UNKNOWN");
    const head = await fetch(`/v2/${path}`, { method: "HEAD" });
    expect([head.status, await head.text()]).toEqual([404, ""]);
    expect(await errorCode(await fetch(`/v2/${path}`, { method: "DELETE" }))).toBe("MANIFEST_UNKNOWN");
  }
});

test("what has a colon must be a digest", async () => {
  const { fetch } = await site();
  for (const method of ["GET", "PUT", "DELETE"]) {
    const got = await fetch("/v2/app/manifests/sha256:abc", { method });
    expect([got.status, await errorCode(got)]).toEqual([400, "DIGEST_INVALID"]);
  }
});

test("PUT answers where the manifest is, and its subject", async () => {
  const { registry, fetch } = await site();
  const subject = await pushImage(registry, "app", "subject");
  const image = makeImage([10], { subject: { mediaType: mediaTypes.ociManifest, digest: subject.digest, size: 10 } });
  await pushBlobs(registry, "app", image);
  const put = await fetch("/v2/app/manifests/signed", { method: "PUT", headers: type, body: image.manifest });
  expect(put.status).toBe(201);
  expect(Object.fromEntries(put.headers)).toMatchObject({
    location: `/v2/app/manifests/${image.digest}`,
    "docker-content-digest": image.digest,
    "oci-subject": subject.digest,
    "content-length": "0",
  });
  expect((await fetch(put.headers.get("location") ?? "")).status).toBe(200);

  const plain = makeImage([10]);
  await pushBlobs(registry, "app", plain);
  const without = await fetch("/v2/app/manifests/plain", {
    method: "PUT",
    body: plain.manifest,
    headers: { "Content-Type": "" },
  });
  expect([without.status, without.headers.get("oci-subject")]).toEqual([201, null]);
});

test("PUT by digest takes tags, and names them", async () => {
  const { registry, fetch, port } = await site();
  const image = makeImage([10]);
  await pushBlobs(registry, "app", image);
  const tags = Array.from({ length: 12 }, (_, i) => `v1.${i}`);
  const body = image.manifest;
  const path = `/v2/app/manifests/${image.digest}`;
  const put = await fetch(`${path}?${tags.map((tag) => `tag=${tag}`).join("&")}`, { method: "PUT", headers: type, body });
  expect([put.status, put.headers.get("oci-tag")]).toEqual([201, tags.join(", ")]);
  for (const tag of tags) expect((await fetch(`/v2/app/manifests/${tag}`)).headers.get("docker-content-digest")).toBe(image.digest);
  // One line a tag.
  const text = await raw(
    port,
    `PUT ${path}?tag=a&tag=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${image.manifest.length}\r\n\r\n${Buffer.from(image.manifest)}`,
  );
  expect(text).toContain("OCI-Tag: a\r\nOCI-Tag: b\r\n");

  expect((await fetch(`${path}?tag=-bad`, { method: "PUT", headers: type, body })).status).toBe(400);
  expect((await fetch("/v2/app/manifests/latest?tag=v1", { method: "PUT", headers: type, body })).status).toBe(400);
  const many = `${path}?${Array.from({ length: 101 }, (_, i) => `tag=t${i}`).join("&")}`;
  expect((await fetch(many, { method: "PUT", headers: type, body })).status).toBe(414);
});

test("PUT refuses what is wrong, by its code", async () => {
  const { registry, fetch } = await site();
  const image = makeImage([10]);
  const put = (reference: string, body: Uint8Array, headers: Record<string, string> = type) =>
    fetch(`/v2/app/manifests/${reference}`, { method: "PUT", headers, body: body });
  const missing = await put("latest", image.manifest);
  expect([missing.status, await errorCode(missing)]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
  await pushBlobs(registry, "app", image);
  const other = await put("latest", image.manifest, { "Content-Type": mediaTypes.ociIndex });
  expect([other.status, await errorCode(other)]).toEqual([400, "MANIFEST_INVALID"]);
  expect((await put("latest", image.manifest, { "Content-Type": `${mediaTypes.ociManifest}; charset=utf-8` })).status).toBe(201);
  const wrong = await put(digestOf(Buffer.from("other")), image.manifest);
  expect([wrong.status, await errorCode(wrong)]).toEqual([400, "DIGEST_INVALID"]);
  const tag = await put("-bad", image.manifest);
  expect([tag.status, await errorCode(tag)]).toEqual([400, "MANIFEST_INVALID"]);
  expect((await put("latest", Buffer.from("no json"))).status).toBe(400);
});

test("more than 4 MiB is 413, announced or streamed, and the connection goes on", async () => {
  const { fetch, port } = await site();
  const large = Buffer.alloc(4 * 1024 * 1024 + 1, " ");
  const announced = await fetch("/v2/app/manifests/latest", { method: "PUT", headers: type, body: large });
  expect([announced.status, await errorCode(announced)]).toEqual([413, "MANIFEST_INVALID"]);
  const chunked = Buffer.concat([
    Buffer.from("PUT /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
    Buffer.from(`${(large.length + 100_000).toString(16)}\r\n`),
    Buffer.alloc(large.length + 100_000, " "),
    Buffer.from("\r\n0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
  ]);
  const text = await raw(port, chunked);
  expect(text).toMatch(/^HTTP\/1\.1 413 /);
  expect(text).toMatch(/HTTP\/1\.1 200 OK/);
});

test("a manifest arrives chunked, without a length", async () => {
  const { registry, port } = await site();
  const image = makeImage([10]);
  await pushBlobs(registry, "app", image);
  const body = Buffer.from(image.manifest).toString();
  const text = await raw(
    port,
    `PUT /v2/app/manifests/latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: ${mediaTypes.ociManifest}\r\nTransfer-Encoding: chunked\r\n\r\n` +
      `10\r\n${body.slice(0, 16)}\r\n${(body.length - 16).toString(16)}\r\n${body.slice(16)}\r\n0\r\n\r\n`,
  );
  expect(text).toMatch(/^HTTP\/1\.1 201 /);
});

test("preconditions are kept", async () => {
  const { registry, fetch } = await site();
  const [first, second] = [makeImage([10]), makeImage([11])];
  for (const image of [first, second]) await pushBlobs(registry, "app", image);
  const put = (image: typeof first, headers: Record<string, string>) =>
    fetch("/v2/app/manifests/latest", { method: "PUT", headers: { ...type, ...headers }, body: image.manifest });
  expect((await put(first, { "If-Match": "*" })).status).toBe(412);
  expect((await put(first, { "If-None-Match": "*" })).status).toBe(201);
  const again = await put(second, { "If-None-Match": "*" });
  expect([again.status, await errorCode(again)]).toEqual([412, "PRECONDITION_FAILED"]);
  expect((await put(second, { "If-Match": `"${second.digest}"` })).status).toBe(412);
  expect((await put(second, { "If-Match": `W/"${first.digest}"` })).status).toBe(412);
  expect((await put(second, { "If-Match": `"${first.digest}"` })).status).toBe(201);
  expect((await put(first, { "If-Match": `"sha256:0", "${second.digest}"` })).status).toBe(201);
  expect((await put(first, { "If-None-Match": `"${first.digest}"` })).status).toBe(400);
});

test("DELETE of a tag and of a digest", async () => {
  const { registry, fetch } = await site();
  const { digest } = await pushImage(registry, "app", "latest");
  const tag = await fetch("/v2/app/manifests/latest", { method: "DELETE" });
  expect([tag.status, tag.headers.get("content-length")]).toEqual([202, "0"]);
  expect((await fetch("/v2/app/manifests/latest")).status).toBe(404);
  expect((await fetch(`/v2/app/manifests/${digest}`)).status).toBe(200);
  expect((await fetch(`/v2/app/manifests/${digest}`, { method: "DELETE" })).status).toBe(202);
  expect((await fetch(`/v2/app/manifests/${digest}`)).status).toBe(404);
});

test("a stored type that is not a manifest's cannot reach a browser", async () => {
  const base = emptyRegistry();
  await pushImage(base, "app", "latest");
  const registry = overriding(base, {
    async getManifest(repository, reference, o) {
      const lookup = await base.getManifest(repository, reference, o);
      if (lookup.kind !== "found") return lookup;
      return { ...lookup, value: { ...lookup.value, descriptor: { ...lookup.value.descriptor, mediaType: "text/html" } } };
    },
  });
  const got = await (await site(registry)).fetch("/v2/app/manifests/latest");
  expect([got.headers.get("content-type"), got.headers.get("x-content-type-options")]).toEqual(["application/octet-stream", "nosniff"]);
});

test("look-ups fold into statuses", async () => {
  const base = emptyRegistry();
  const answers = {
    linked: {
      kind: "linked",
      descriptor: { mediaType: "a/b", digest: digestOf(Buffer.of(1)), size: 1 },
      origin: { member: "m", repository: "r" },
    },
    denied: { kind: "denied", error: new RegistryError("DENIED", "not for you") },
    down: { kind: "unavailable", error: new RegistryError("UNAVAILABLE", "the upstream is down", { retryAfter: 7 }) },
    busy: { kind: "unavailable", error: new RegistryError("TOOMANYREQUESTS", "slow down", { retryAfter: 60 }) },
  } as const;
  const registry = overriding(base, { getManifest: async (_, tag) => answers[tag as keyof typeof answers] ?? { kind: "absent" } });
  const { fetch } = await site(registry);
  const expected = {
    linked: [404, "MANIFEST_UNKNOWN", null],
    denied: [403, "DENIED", null],
    down: [503, "UNAVAILABLE", "7"],
    busy: [429, "TOOMANYREQUESTS", "60"],
  };
  for (const [tag, outcome] of Object.entries(expected)) {
    const got = await fetch(`/v2/app/manifests/${tag}`);
    expect([got.status, await errorCode(got), got.headers.get("retry-after")]).toEqual(outcome);
  }
});

test("a header of a large manifest that Node refuses is an error response, not the end of the process", async () => {
  const bytes = Buffer.alloc(100_000, " ");
  const descriptor = { mediaType: "application/vnd.oci.image.manifest.v1+json", digest: "sha256:\n" as Digest, size: bytes.byteLength };
  const broken = overriding(emptyRegistry(), {
    getManifest: async () => ({ kind: "found", value: { descriptor, bytes }, served: { member: [] } }),
  });
  const { fetch } = await site(broken);
  expect((await fetch("/v2/app/manifests/1")).status).toBe(500);
});

test.each([
  ["application/xhtml+xml", true],
  ["application/xml", true],
  ["application/javascript", true],
  ["image/svg+xml", true],
  ["application/vnd.example.thing", true],
  ["application/vnd.example.thing+json", false],
  [mediaTypes.ociIndex, false],
  [mediaTypes.dockerManifest, false],
])("of a manifest that is said to be %s a browser makes no page, and no program: %s", async (mediaType, isInert) => {
  const bytes = Buffer.from('{"schemaVersion":2}');
  const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
  const registry = overriding(emptyRegistry(), { getManifest: async () => found({ descriptor, bytes }, { member: ["up"] }) });
  const { fetch } = await site(registry);
  const { headers } = await fetch("/v2/app/manifests/1");
  const inert = isInert ? ["sandbox; default-src 'none'", "attachment"] : [null, null];
  expect([headers.get("content-security-policy"), headers.get("content-disposition")]).toEqual(inert);
  expect([headers.get("content-type"), headers.get("x-content-type-options")]).toEqual([
    mediaType.startsWith("application/") ? mediaType : mediaTypes.octetStream,
    "nosniff",
  ]);
});

test("a byte order mark in front of a manifest is refused", async () => {
  const { fetch } = await site();
  const put = await fetch("/v2/app/manifests/1", {
    method: "PUT",
    body: `\uFEFF${JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] })}`,
    headers: { "Content-Type": mediaTypes.ociIndex },
  });
  expect([put.status, await errorCode(put)]).toEqual([400, "MANIFEST_INVALID"]);
});

test("an upstream that is served directly is not named to those who may not know of it, whatever fails", async () => {
  const upstream = await fakeUpstream({ intercept: () => ({ status: 500 }) });
  onTestFinished(() => upstream.close());
  const remote = remoteRegistry(upstream.url, { readOnly: false, retries: 0 });
  const { host } = new URL(upstream.url);
  const messages = async (options: { showTopology: boolean }) => {
    const { fetch } = await site(routes({ hub: remote }), { anonymousWrites: true, ...options });
    const asked = ["manifests/1", `manifests/${digestOf(Buffer.of(1))}`, `blobs/${digestOf(Buffer.of(1))}`, "tags/list"].map((path) =>
      fetch(`/v2/hub/app/${path}`),
    );
    const answers = await Promise.all([...asked, fetch("/v2/hub/app/blobs/uploads/", { method: "POST" })]);
    return Promise.all(answers.map(async (answer) => [answer.status, await answer.text()] as const));
  };
  for (const [status, text] of await messages({ showTopology: false })) {
    expect([status, text.includes(host)]).toEqual([503, false]);
    expect(text).toContain("the upstream");
  }
  for (const [, text] of await messages({ showTopology: true })) expect(text).toContain(host);
});
