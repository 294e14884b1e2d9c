import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { mediaTypes, tagRules } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { exportLayout, importLayout } from "oci-manifold/layout";
import { promote } from "oci-manifold/maintenance";
import { expect, test } from "vitest";
import { makeImage } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { codeOf, fronts, type StackParts, stack } from "./stack.js";

/** An image whose body does not say what it is. */
function untyped() {
  const image = makeImage([1000]);
  const { mediaType: _, ...body } = JSON.parse(Buffer.from(image.manifest).toString());
  const manifest = Buffer.from(JSON.stringify(body));
  return { ...image, manifest, digest: digestOf(manifest) };
}

const index = JSON.stringify({ schemaVersion: 2, manifests: [] });

test.each(fronts)("an image cannot be put again as an index, over %s", async (front) => {
  const { ask, pushImage, putManifest } = await stack({
    front,
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

test.each(fronts)("an index cannot be put again as an image, over %s", async (front) => {
  const { ask, pushImage, putManifest } = await stack({ front });
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

test("an image that an upstream calls an index is kept as the image that it is", async () => {
  const { ask, upstream } = await stack();
  const image = upstream.addImage("app", undefined);
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, config: image.config, layers: image.layers }));
  upstream.addManifest("app", "1", bytes, { mediaType: mediaTypes.ociIndex });
  for (let pull = 0; pull < 2; pull++) {
    const { status, headers } = await ask("GET", "/v2/hub/app/manifests/1");
    expect([status, headers["content-type"]]).toEqual([200, mediaTypes.ociManifest]);
  }
  expect(upstream.requests.filter(({ method, url }) => method === "GET" && url.includes("/manifests/"))).toHaveLength(1);
});

test("a tag whose upstream gives a stored digest another type is kept, and not asked for again", async () => {
  const { ask, upstream } = await stack();
  const { digest } = upstream.addManifest("app", "1", Buffer.from(index), { mediaType: mediaTypes.ociIndex });
  expect((await ask("GET", "/v2/hub/app/manifests/1")).status).toBe(200);
  upstream.addManifest("app", "2", Buffer.from(index), { mediaType: mediaTypes.dockerList });
  for (let pull = 0; pull < 2; pull++) {
    const { headers } = await ask("GET", "/v2/hub/app/manifests/2");
    expect([headers["content-type"], headers["docker-content-digest"]]).toEqual([mediaTypes.ociIndex, digest]);
  }
  expect(upstream.requests.filter(({ url }) => url.endsWith("/manifests/2"))).toHaveLength(1);
});

test("of two types that an upstream gives one digest at the same time one is stored, and everybody is told that one", async () => {
  const { ask, upstream } = await stack();
  const { digest } = upstream.addManifest("app", "1", Buffer.from(index), { mediaType: mediaTypes.ociIndex });
  let asked = 0;
  let bothAsked = () => {};
  const both = new Promise<void>((resolve) => {
    bothAsked = resolve;
  });
  upstream.intercept = async ({ method, url }) => {
    if (method !== "GET" || !url.includes("/manifests/")) return undefined;
    const type = asked++ === 0 ? mediaTypes.ociIndex : mediaTypes.dockerList;
    if (asked === 2) bothAsked();
    await both;
    return { headers: { "content-type": type, "docker-content-digest": digest } };
  };
  const answers = await Promise.all(["1", digest].map((reference) => ask("GET", `/v2/hub/app/manifests/${reference}`)));
  expect(asked).toBe(2);
  const stored = (await ask("GET", `/v2/hub/app/manifests/${digest}`)).headers["content-type"];
  expect(answers.map(({ status, headers }) => [status, headers["content-type"]])).toEqual([
    [200, stored],
    [200, stored],
  ]);
  // The tag was kept, too.
  expect((await ask("GET", "/v2/hub/app/manifests/1")).headers["content-type"]).toBe(stored);
  expect(asked).toBe(2);
});

test("a push that names no type is of the type that the digest is stored with", async () => {
  const { ask, putManifest } = await stack();
  const { headers } = await putManifest("release/app", "a", index, mediaTypes.dockerList);
  expect((await ask("PUT", "/v2/release/app/manifests/b", { body: index })).status).toBe(201);
  for (const reference of ["a", "b", headers["docker-content-digest"]])
    expect((await ask("GET", `/v2/release/app/manifests/${reference}`)).headers["content-type"]).toBe(mediaTypes.dockerList);
});

/** The registry behind the route `release`, for what is not done over HTTP. */
async function withRelease() {
  const parts: StackParts[] = [];
  const all = await stack({
    more: (made) => {
      parts.push(made);
      return {};
    },
  });
  const [made] = parts;
  if (!made) throw new Error("nothing was composed");
  return { ...all, release: made.release };
}

test.each([mediaTypes.dockerManifest, mediaTypes.ociIndex])("an import does not make %s of a stored OCI image", async (type) => {
  const { ask, pushImage, release } = await withRelease();
  const { digest, manifest } = await pushImage("release/app", "a", untyped());
  const layout = join(temporaryFolder(), "layout");
  await exportLayout(release, layout, { repository: "app" });
  const annotations = { "org.opencontainers.image.ref.name": "b" };
  const manifests = [{ mediaType: type, digest, size: manifest.byteLength, annotations }];
  await writeFile(join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
  await expect(importLayout(release, layout, { repository: "app" })).rejects.toMatchObject({ code: "MANIFEST_INVALID" });
  expect((await ask("HEAD", "/v2/release/app/manifests/b")).status).toBe(404);
  expect((await ask("GET", "/v2/release/app/manifests/a")).headers["content-type"]).toBe(mediaTypes.ociManifest);
});

test("a promotion does not make a Docker image of a stored OCI image", async () => {
  const { ask, putBlob, putManifest, pushImage, release } = await withRelease();
  const { manifest, blobs } = await pushImage("release/app", "a", untyped());
  for (const blob of blobs.values()) await putBlob("release/staging", blob);
  expect((await putManifest("release/staging", "b", manifest, mediaTypes.dockerManifest)).status).toBe(201);
  const promotion = promote(release, release, { repository: { from: "staging", to: "app" }, tags: ["b"], by: "ana" });
  await expect(promotion).rejects.toMatchObject({ code: "MANIFEST_INVALID" });
  expect((await ask("HEAD", "/v2/release/app/manifests/b")).status).toBe(404);
  expect((await ask("GET", "/v2/release/app/manifests/a")).headers["content-type"]).toBe(mediaTypes.ociManifest);
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
