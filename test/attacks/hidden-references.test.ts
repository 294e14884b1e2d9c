import { randomBytes } from "node:crypto";
import { type Descriptor, filtered, mediaTypes, type Registry, renamed } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { prefixed } from "oci-manifold/names";
import { describe, expect, test } from "vitest";
import { type Image, makeImage } from "../fixtures/images.js";
import { codeOf, fronts, type Stack, type StackParts, stack } from "./stack.js";

const layerType = "application/vnd.oci.image.layer.v1.tar";
const nonDistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
const foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/** Views of what `release` stores, in which `team/app:secret` is hidden and `team/app:public` is not. */
const views: Readonly<Record<string, (parts: StackParts) => Registry>> = {
  "tag patterns": ({ release }) => filtered(release, { allow: ["team/app:public*"] }),
  "a blocked tag": ({ release }) => filtered(release, { block: ["**:secret"] }),
  "a rule of the host": ({ release }) => filtered(release, { permit: ({ reference }) => reference !== "secret" }),
  platforms: ({ release }) => filtered(release, { platforms: ["linux/amd64"] }),
  "a filter in a filter": ({ release }) => filtered(filtered(release, { block: ["**:secret"] }), { platforms: ["linux/*"] }),
  "a filter under other names": ({ release }) => renamed(filtered(release, { block: ["**:secret"] }), prefixed("here/")),
  "a filter around an aggregate": ({ prerelease }) => filtered(prerelease, { block: ["**:secret"] }),
};

/** An image for another processor. */
function foreignImage(): Image {
  const image = makeImage([500, 600]);
  const bytes = Buffer.from(JSON.stringify({ os: "linux", architecture: "s390x", id: randomBytes(8).toString("hex") }));
  const config = { mediaType: "application/vnd.oci.image.config.v1+json", digest: digestOf(bytes), size: bytes.byteLength };
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: image.layers }));
  const blobs = new Map(image.blobs);
  return { ...image, config, manifest, digest: digestOf(manifest), blobs: blobs.set(config.digest, bytes) };
}

/** The ways in which a manifest of one's own can name another's blob. */
const namings: Readonly<Record<string, (hidden: Descriptor, own: Image) => { readonly mediaType: string; readonly body: object }>> = {
  "a non-distributable layer": (hidden, own) => image(own, { layers: [...own.layers, { ...hidden, mediaType: nonDistributable }] }),
  "a foreign layer of a Docker image": (hidden, own) => ({
    mediaType: mediaTypes.dockerManifest,
    body: { config: own.config, layers: [{ ...hidden, mediaType: foreign, urls: ["https://layers.example/1"] }] },
  }),
  "a layer": (hidden, own) => image(own, { layers: [{ ...hidden, mediaType: layerType }] }),
  "a layer with its data": (hidden, own) => image(own, { layers: [{ ...hidden, mediaType: nonDistributable, data: "e30=" }] }),
  "a config of another kind": (hidden, own) =>
    image(own, { config: { ...hidden, mediaType: "application/vnd.oci.empty.v1+json", data: "e30=" }, artifactType: "application/x-a" }),
  "a non-distributable config": (hidden, own) => image(own, { config: { ...hidden, mediaType: nonDistributable } }),
  "a blob of an artifact": (hidden) => ({
    mediaType: mediaTypes.ociArtifact,
    body: { artifactType: "application/x-a", blobs: [{ ...hidden, mediaType: nonDistributable }] },
  }),
  "a child of an index": (hidden) => ({
    mediaType: mediaTypes.ociIndex,
    body: { manifests: [{ ...hidden, mediaType: nonDistributable, platform: { os: "linux", architecture: "amd64" } }] },
  }),
  "a child of a Docker list": (hidden) => ({
    mediaType: mediaTypes.dockerList,
    body: { manifests: [{ ...hidden, mediaType: layerType }] },
  }),
};

function image(own: Image, more: object): { readonly mediaType: string; readonly body: object } {
  return { mediaType: mediaTypes.ociManifest, body: { config: own.config, layers: own.layers, ...more } };
}

async function withView(front: (typeof fronts)[number], name: string): Promise<{ s: Stack; app: string; hidden: Image; own: Image }> {
  const make = views[name];
  if (!make) throw new Error(name);
  const s = await stack({ front, more: (parts) => ({ view: make(parts) }) });
  const hidden = foreignImage();
  await s.pushImage(name === "a filter around an aggregate" ? "prerelease/team/app" : "release/team/app", "secret", hidden);
  const app = name === "a filter under other names" ? "view/here/team/app" : "view/team/app";
  const own = makeImage([300]);
  for (const bytes of own.blobs.values()) expect((await s.putBlob(app, bytes)).status).toBe(201);
  return { s, app, hidden, own };
}

describe.each(fronts)("over %s", (front) => {
  test.each(Object.keys(views))("a push through %s makes no hidden blob visible, however its manifest names it", async (view) => {
    const { s, app, hidden, own } = await withView(front, view);
    for (const target of [hidden.layers[0], hidden.config]) {
      if (!target) throw new Error("an image has a layer");
      for (const [how, naming] of Object.entries(namings)) {
        const { mediaType, body } = naming(target, own);
        const bytes = JSON.stringify({ schemaVersion: 2, mediaType, ...body });
        for (const reference of ["public", digestOf(Buffer.from(bytes)), `${digestOf(Buffer.from(bytes))}?tag=public-2`]) {
          const pushed = await s.putManifest(app, reference, bytes, mediaType);
          expect([how, reference, pushed.status, codeOf(pushed)]).toEqual([how, reference, 400, "MANIFEST_BLOB_UNKNOWN"]);
          await s.ask("GET", `/v2/${app}/manifests/${reference.split("?")[0]}`);
        }
        for (const method of ["GET", "HEAD"]) {
          expect([how, (await s.ask(method, `/v2/${app}/blobs/${target.digest}`)).status]).toEqual([how, 404]);
        }
      }
    }
  });

  test("who has the bytes of a non-distributable layer pushes it through a filter and pulls it again", async () => {
    const { s, own } = await withView(front, "tag patterns");
    const bytes = randomBytes(400);
    const layer = { mediaType: nonDistributable, digest: digestOf(bytes), size: 400 };
    const { mediaType, body } = image(own, { layers: [layer] });
    const manifest = JSON.stringify({ schemaVersion: 2, mediaType, ...body });
    expect((await s.putManifest("view/team/app", "public", manifest)).status).toBe(400);
    expect((await s.putBlob("view/team/app", bytes)).status).toBe(201);
    expect((await s.putManifest("view/team/app", "public", manifest)).status).toBe(201);
    expect((await s.ask("GET", `/v2/view/team/app/blobs/${layer.digest}`)).status).toBe(200);
  });

  test("a non-distributable layer that was pushed past the filter is visible through a permitted tag", async () => {
    const { s, own } = await withView(front, "tag patterns");
    const bytes = randomBytes(400);
    const { mediaType, body } = image(own, { layers: [{ mediaType: nonDistributable, digest: digestOf(bytes), size: 400 }] });
    for (const blob of [bytes, ...own.blobs.values()]) await s.putBlob("release/team/app", blob);
    await s.putManifest("release/team/app", "public", JSON.stringify({ schemaVersion: 2, mediaType, ...body }), mediaType);
    expect((await s.ask("GET", `/v2/view/team/app/blobs/${digestOf(bytes)}`)).status).toBe(404);
    expect((await s.ask("GET", "/v2/view/team/app/manifests/public")).status).toBe(200);
    expect((await s.ask("GET", `/v2/view/team/app/blobs/${digestOf(bytes)}`)).status).toBe(200);
  });

  test("a manifest of a hidden type is not shown because somebody offers its bytes as another type", async () => {
    const s = await stack({ front, more: ({ release }) => ({ view: filtered(release, { mediaTypes: ["application/vnd.oci.*"] }) }) });
    const { config, layers, blobs } = makeImage([100]);
    for (const bytes of blobs.values()) {
      await s.putBlob("release/team/app", bytes);
      await s.putBlob("view/team/app", bytes);
    }
    const bytes = JSON.stringify({ schemaVersion: 2, config, layers });
    expect((await s.putManifest("release/team/app", "1", bytes, mediaTypes.dockerManifest)).status).toBe(201);
    await s.putManifest("view/team/app", "mine", bytes, mediaTypes.ociManifest);
    await s.putManifest("release/team/app", "1", bytes, mediaTypes.dockerManifest);
    expect((await s.ask("GET", "/v2/view/team/app/manifests/1")).status).toBe(404);
  });
});
