import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import type { Fault } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { type Image, makeImage, makeIndex } from "../fixtures/images.js";
import { codeOf, type Protocol, protocols, type Stack, stack } from "./stack.js";

/** What upstreams answer to any HEAD. */
const yes: Record<string, Fault> = {
  "a sign-in page": { status: 200, headers: { "content-type": "text/html; charset=utf-8", "content-length": "5120" } },
  "{}": { status: 200, body: "{}", headers: { "content-type": "application/json" } },
  "an index.html without its type": { status: 200, headers: { "content-type": undefined, "content-length": "1270" } },
  "Content-Length: 0": { status: 200, headers: { "content-type": "application/octet-stream", "content-length": "0" } },
  "no length": { status: 200, dropContentLength: true, headers: { "content-type": "application/octet-stream" } },
};
const toEveryHead = (fault: Fault) => (request: { method: string }) => (request.method === "HEAD" ? fault : undefined);

/** As docker, skopeo and others push: what HEAD says to be there is not sent. */
async function push(s: Stack, repository: string, tag: string, image: Image) {
  const skipped: string[] = [];
  for (const [digest, bytes] of image.blobs) {
    const head = await s.ask("HEAD", `/v2/${repository}/blobs/${digest}`);
    if (head.status === 200) skipped.push(digest);
    else expect((await s.putBlob(repository, bytes)).status).toBe(201);
  }
  return { answer: await s.putManifest(repository, tag, image.manifest), skipped };
}

/** Pushes, and once more when the first push is refused; then everything is pulled while the upstream does not answer. */
async function pushedWhole(s: Stack, repository: string, image: Image, again = s): Promise<void> {
  const { answer, skipped } = await push(s, repository, "1", image);
  if (answer.status !== 201) {
    expect([answer.status, codeOf(answer)]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
    for (const digest of skipped) expect((await again.ask("HEAD", `/v2/${repository}/blobs/${digest}`)).status).toBe(404);
    expect((await push(again, repository, "1", image)).answer.status).toBe(201);
  }
  for (const one of [s, again]) one.upstream.intercept = () => ({ hangUp: true });
  expect((await s.ask("GET", `/v2/${repository}/manifests/1`)).body).toEqual(Buffer.from(image.manifest));
  for (const [digest, bytes] of image.blobs)
    expect((await s.ask("GET", `/v2/${repository}/blobs/${digest}`)).body).toEqual(Buffer.from(bytes));
}

describe.each(protocols)("over %s", (protocol: Protocol) => {
  test.each(Object.entries(yes))("an upstream that answers every HEAD with %s costs a push no layer", async (_, fault) => {
    const s = await stack({ front: protocol });
    s.upstream.intercept = toEveryHead(fault);
    await pushedWhole(s, "prerelease/app", makeImage([0, 2, 1000, 200_000]));
  });

  test("an upstream whose HEAD agrees with a small config by chance costs a push no config", async () => {
    const s = await stack({ front: protocol });
    s.upstream.intercept = toEveryHead(yes["{}"] as Fault);
    const artifact = makeImage([1000]);
    const config = { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(Buffer.from("{}")), size: 2 };
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: artifact.layers }));
    const [, ...layers] = artifact.blobs;
    const blobs = new Map([[config.digest as string, Buffer.from("{}") as Uint8Array], ...layers]);
    await pushedWhole(s, "prerelease/app", { ...artifact, manifest, digest: digestOf(manifest), config, blobs });
  });

  test("after a refusal HEAD answers 404 and a mount 202, until a GET has verified the bytes", async () => {
    const s = await stack({ front: protocol, hub: { copyToLocal: "never" } });
    const image = makeImage([200_000]);
    const digest = image.layers[0]?.digest ?? "";
    for (const bytes of image.blobs.values()) s.upstream.addBlob("app", bytes);
    s.upstream.intercept = toEveryHead(yes["{}"] as Fault);
    const blob = `/v2/prerelease/app/blobs/${digest}`;
    const mount = () => s.ask("POST", `/v2/prerelease/app/blobs/uploads/?mount=${digest}&from=hub/app`);
    expect((await s.ask("HEAD", blob)).status).toBe(200);
    expect((await mount()).status).toBe(201);
    for (let tries = 0; tries < 2; tries++) {
      const refused = await s.putManifest("prerelease/app", "1", image.manifest);
      expect([refused.status, codeOf(refused)]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
      expect((await s.ask("HEAD", blob)).status).toBe(404);
      expect((await mount()).status).toBe(202);
      expect((await s.ask("POST", `/v2/prerelease/app/blobs/uploads/?mount=${digest}`)).status).toBe(202);
    }
    // Only of that repository.
    expect((await s.ask("HEAD", blob.replace("/app/", "/other/"))).status).toBe(200);
    expect(digestOf((await s.ask("GET", blob)).body)).toBe(digest);
    const head = await s.ask("HEAD", blob);
    expect([head.status, head.headers["content-length"]]).toEqual([200, "200000"]);
    expect((await mount()).status).toBe(201);
    for (const [one, bytes] of image.blobs) if (one !== digest) expect((await s.putBlob("prerelease/app", bytes)).status).toBe(201);
    expect((await s.putManifest("prerelease/app", "1", image.manifest)).status).toBe(201);
  });

  test("a client that was refused at one node finds out at another what it has to send", async () => {
    const first = await stack({ front: protocol });
    const second = await stack({ front: protocol, folder: first.folder });
    for (const { upstream } of [first, second]) upstream.intercept = toEveryHead(yes["{}"] as Fault);
    await pushedWhole(first, "prerelease/app", makeImage([5, 200_000]), second);
  });

  test("what a stored manifest relies on stays when another manifest contradicts it", async () => {
    const s = await stack({ front: protocol, hub: { copyToLocal: "never" } });
    const image = makeImage([200_000]);
    const [layer] = image.layers;
    for (const bytes of image.blobs.values()) s.upstream.addBlob("app", bytes);
    expect((await push(s, "prerelease/app", "1", image)).answer.status).toBe(201);
    const other = Buffer.from(JSON.stringify({ ...JSON.parse(image.manifest.toString()), layers: [{ ...layer, size: 199_999 }] }));
    const refused = await s.putManifest("prerelease/app", "2", other);
    expect([refused.status, codeOf(refused)]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
    expect((await s.ask("HEAD", `/v2/prerelease/app/blobs/${layer?.digest}`)).status).toBe(200);
    expect(digestOf((await s.ask("GET", `/v2/prerelease/app/blobs/${layer?.digest}`)).body)).toBe(layer?.digest);
    expect((await s.putManifest("prerelease/app", "3", image.manifest)).status).toBe(201);
  });

  test("a stored manifest whose layer was never there is healed by another push of it", async () => {
    const s = await stack({ front: protocol, hub: { copyToLocal: "never" } });
    // The upstream happens to state what the first push expects.
    const [image, broken] = [makeImage([200_000]), makeImage([200_000])];
    const [layer] = image.layers;
    s.upstream.intercept = toEveryHead({
      status: 200,
      headers: { "content-type": "application/octet-stream", "content-length": "199999" },
    });
    const config = [...broken.blobs].find(([digest]) => digest === broken.config.digest)?.[1] ?? Buffer.alloc(0);
    expect((await s.putBlob("prerelease/app", config)).status).toBe(201);
    const wrong = { ...JSON.parse(broken.manifest.toString()), layers: [{ ...layer, size: 199_999 }] };
    expect((await s.putManifest("prerelease/app", "0", JSON.stringify(wrong))).status).toBe(201);
    await pushedWhole(s, "prerelease/app", image);
  });

  test("an index whose child an upstream states but does not give is refused, and the client sends the child", async () => {
    const s = await stack({ front: protocol });
    const image = makeImage([10]);
    const index = makeIndex([image]);
    const headers = { "content-type": mediaTypes.ociManifest, "docker-content-digest": image.digest };
    s.upstream.intercept = ({ method, url }) =>
      method === "HEAD" && url.includes(image.digest) ? { status: 200, wrongContentLength: image.manifest.byteLength, headers } : undefined;
    const child = `/v2/prerelease/app/manifests/${image.digest}`;
    expect((await s.ask("HEAD", child)).status).toBe(200);
    const refused = await s.putManifest("prerelease/app", "all", index.bytes, mediaTypes.ociIndex);
    expect([refused.status, codeOf(refused)]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
    expect((await s.ask("HEAD", child)).status).toBe(404);
    expect((await push(s, "prerelease/app", image.digest, image)).answer.status).toBe(201);
    expect((await s.putManifest("prerelease/app", "all", index.bytes, mediaTypes.ociIndex)).status).toBe(201);
  });

  test("an upstream that says yes to every digest shows nobody what others have stored", async () => {
    const s = await stack({ front: protocol });
    const secret = randomBytes(100_000);
    const digest = digestOf(secret);
    expect((await s.putBlob("release/private", secret)).status).toBe(201);
    s.upstream.intercept = toEveryHead(yes["{}"] as Fault);
    expect((await s.ask("GET", `/v2/hub/app/blobs/${digest}`)).status).toBe(404);
    for (const from of ["hub/app", "prerelease/app"])
      await s.ask("POST", `/v2/prerelease/mine/blobs/uploads/?mount=${digest}&from=${from}`);
    for (const repository of ["mine", "app"]) expect((await s.ask("GET", `/v2/prerelease/${repository}/blobs/${digest}`)).status).toBe(404);
  });
});
