import { mediaTypes, tagRules } from "oci-manifold";
import { expect, test } from "vitest";
import { makeImage } from "../fixtures/images.js";
import { codeOf, protocols, stack } from "./stack.js";

/** An image whose body does not say what it is. */
function untyped() {
  const image = makeImage([1000]);
  const { mediaType: _, ...body } = JSON.parse(Buffer.from(image.manifest).toString());
  return { ...image, manifest: Buffer.from(JSON.stringify(body)) };
}

const index = JSON.stringify({ schemaVersion: 2, manifests: [] });

test.each(protocols)("an image cannot be put again as an index, over %s", async (protocol) => {
  const { ask, pushImage, putManifest } = await stack({
    protocol,
    wrap: (_route, registry) => tagRules(registry, { immutable: { tags: ["a"] } }),
  });
  const image = await pushImage("release/app", "a", untyped());
  for (const type of [mediaTypes.ociIndex, mediaTypes.dockerList, mediaTypes.ociArtifact]) {
    const refused = await putManifest("release/app", "b", image.manifest, type);
    expect([refused.status, codeOf(refused)]).toEqual([400, "MANIFEST_INVALID"]);
  }
  const pulled = await ask("GET", "/v2/release/app/manifests/a");
  expect([pulled.status, pulled.headers["content-type"]]).toEqual([200, mediaTypes.ociManifest]);
  expect((await ask("HEAD", "/v2/release/app/manifests/b")).status).toBe(404);
});

test.each(protocols)("an index cannot be put again as an image, over %s", async (protocol) => {
  const { ask, pushImage, putManifest } = await stack({ protocol });
  const { config, digest, manifest } = await pushImage("release/app", "child");
  const child = { mediaType: mediaTypes.ociManifest, digest, size: manifest.byteLength };
  const body = JSON.stringify({ schemaVersion: 2, manifests: [child] });
  expect((await putManifest("release/app", "a", body, mediaTypes.ociIndex)).status).toBe(201);
  for (const [bytes, type] of [
    [body, mediaTypes.ociManifest],
    [JSON.stringify({ schemaVersion: 2, manifests: [child], config, layers: [] }), mediaTypes.ociManifest],
    [JSON.stringify({ schemaVersion: 2, manifests: [child], config, layers: [] }), mediaTypes.ociIndex],
  ] as const) {
    const refused = await putManifest("release/app", "b", bytes, type);
    expect([refused.status, codeOf(refused)]).toEqual([400, "MANIFEST_INVALID"]);
  }
  expect((await ask("GET", "/v2/release/app/manifests/a")).headers["content-type"]).toBe(mediaTypes.ociIndex);
});

test.each([
  ["an OCI image as a Docker image", untyped().manifest, mediaTypes.ociManifest, mediaTypes.dockerManifest],
  ["a Docker list as an OCI index", index, mediaTypes.dockerList, mediaTypes.ociIndex],
  ["an OCI index as a Docker list", index, mediaTypes.ociIndex, mediaTypes.dockerList],
])("a digest keeps the type that it was stored with: %s", async (_, bytes, first, second) => {
  const { ask, putManifest, putBlob } = await stack();
  const { config, layers } = JSON.parse(bytes.toString());
  const image = config && makeImage([1000]);
  const body = config ? JSON.stringify({ schemaVersion: 2, config: image.config, layers: image.layers }) : bytes;
  if (config) for (const blob of image.blobs.values()) await putBlob("release/app", blob);
  expect(layers === undefined).toBe(config === undefined);
  expect((await putManifest("release/app", "a", body, first)).status).toBe(201);
  const refused = await putManifest("release/app", "b", body, second);
  expect([refused.status, codeOf(refused)]).toEqual([400, "MANIFEST_INVALID"]);
  const { headers } = await ask("GET", "/v2/release/app/manifests/a");
  expect(headers["content-type"]).toBe(first);
  // Once it is gone, nobody relies on its type.
  expect((await ask("DELETE", `/v2/release/app/manifests/${headers["docker-content-digest"]}`)).status).toBe(202);
  expect((await putManifest("release/app", "b", body, second)).status).toBe(201);
  expect((await ask("GET", "/v2/release/app/manifests/b")).headers["content-type"]).toBe(second);
});

test("of two types that are put at the same time one is stored, and the other is refused", async () => {
  const { ask, putManifest } = await stack();
  const types = [mediaTypes.ociIndex, mediaTypes.dockerList];
  for (let round = 0; round < 10; round++) {
    const body = JSON.stringify({ schemaVersion: 2, manifests: [], annotations: { round: String(round) } });
    const answers = await Promise.all(types.map((type, at) => putManifest("release/app", `${round}-${at}`, body, type)));
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 400]);
    const winner = answers.findIndex(({ status }) => status === 201);
    const digest = answers[winner]?.headers["docker-content-digest"];
    expect((await ask("GET", `/v2/release/app/manifests/${digest}`)).headers["content-type"]).toBe(types[winner]);
  }
});

test("an upstream that gives a stored digest another type does not change it", async () => {
  const { ask, upstream } = await stack({ cache: { tagTtl: "0s" } });
  const { digest } = upstream.addManifest("app", "1", Buffer.from(index), { mediaType: mediaTypes.ociIndex });
  expect((await ask("GET", "/v2/hub/app/manifests/1")).headers["content-type"]).toBe(mediaTypes.ociIndex);
  upstream.intercept = ({ url }) =>
    url.includes("/manifests/") ? { headers: { "content-type": mediaTypes.dockerList, "docker-content-digest": digest } } : undefined;
  for (const reference of ["1", digest]) {
    const { status, headers } = await ask("GET", `/v2/hub/app/manifests/${reference}`);
    expect([status, headers["content-type"]]).toEqual([200, mediaTypes.ociIndex]);
  }
});

test.each([
  [
    "annotations",
    (config: object) => ({ config, annotations: Object.fromEntries(Array.from({ length: 315_000 }, (_, i) => [`k${i}`, ""])) }),
  ],
  ["fields of their own", (config: object) => ({ config, ...Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`k${i}`, 1])) })],
  ["objects", (config: object) => ({ config, x: Array(60_000).fill({}) })],
])("a manifest with too many %s is refused", async (_, body) => {
  const { putManifest, putBlob } = await stack();
  const { config, blobs } = makeImage([]);
  for (const blob of blobs.values()) await putBlob("release/app", blob);
  const refused = await putManifest("release/app", "1", JSON.stringify({ schemaVersion: 2, layers: [], ...body(config) }));
  expect([refused.status, codeOf(refused)]).toEqual([400, "MANIFEST_INVALID"]);
});
