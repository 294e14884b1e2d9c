import { aggregate, cached, localRegistry, orThrow, remoteRegistry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeUpstream } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { bytesOf } from "../fixtures/read.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { site } from "../http/support.js";
import { whole } from "./support.js";

// Refuses connections.
const nowhere = "http://127.0.0.1:1";

test("an image that was pulled is served after a restart with the upstream unreachable", async () => {
  const folder = temporaryFolder();
  const upstream = await fakeUpstream();
  const image = upstream.addImage("library/app", "1", { layers: [100, 500_000] });
  const first = cached(remoteRegistry(upstream.url), { storage: fileStorage(folder), name: "hub", tagTtl: "0s" });
  await first.ready();
  orThrow(await first.getManifest("library/app", "1"));
  await whole(first, "library/app", "1");
  await first.close();
  await upstream.close();

  const again = cached(remoteRegistry(nowhere), { storage: fileStorage(folder), name: "hub", tagTtl: "0s" });
  const { fetch, handler } = await site(again, { cacheStatus: true });
  await handler.ready();
  const manifest = await fetch("/v2/library/app/manifests/1");
  expect(manifest.status).toBe(200);
  expect(manifest.headers.get("warning")).toBe('299 - "this may be outdated"');
  expect(manifest.headers.get("cache-status")).toMatch(/^"hub"; hit; ttl=-\d+$/);
  expect(digestOf(Buffer.from(await manifest.arrayBuffer()))).toBe(image.digest);
  const byDigest = await fetch(`/v2/library/app/manifests/${image.digest}`);
  expect([byDigest.status, byDigest.headers.get("warning"), byDigest.headers.get("cache-status")]).toEqual([200, null, '"hub"; hit']);
  for (const { digest, size } of [image.config, ...image.layers]) {
    expect((await fetch(`/v2/library/app/blobs/${digest}`, { method: "HEAD" })).status).toBe(200);
    const blob = await fetch(`/v2/library/app/blobs/${digest}`);
    expect([blob.status, (await blob.arrayBuffer()).byteLength]).toEqual([200, size]);
  }
  const tags = await fetch("/v2/library/app/tags/list");
  expect(await tags.json()).toEqual({ name: "library/app", tags: ["1"] });
  expect(tags.headers.get("warning")).toContain("only what is stored here");
  expect(await (await fetch("/v2/_catalog")).json()).toEqual({ repositories: ["library/app"] });
  const unknown = await fetch("/v2/library/app/manifests/2");
  expect([unknown.status, unknown.headers.get("retry-after")]).toEqual([503, expect.stringMatching(/^\d+$/)]);
  await again.close();
});

test("it starts with nothing stored and an upstream that cannot be reached, and is whole once it can", async () => {
  const upstream = await fakeUpstream();
  const image = upstream.addImage("app", "1", { layers: [1000] });
  upstream.intercept = () => ({ hangUp: true });
  const hub = cached(remoteRegistry(upstream.url), { storage: memoryStorage(), name: "hub" });
  const shown = aggregate({
    local: localRegistry({ storage: memoryStorage(), name: "local" }),
    connectors: [{ name: "hub", source: hub }],
  });
  await shown.ready();
  expect((await shown.getManifest("app", "1")).kind).toBe("unavailable");
  upstream.intercept = undefined;
  // The remote may leave an upstream that has failed alone for some seconds.
  await expect.poll(async () => (await shown.getManifest("app", "1")).kind, { timeout: 15_000 }).toBe("found");
  const layer = image.layers[0]?.digest ?? "";
  expect(digestOf(await bytesOf(await shown.getBlob("app", layer)))).toBe(layer);
  await shown.close();
  await upstream.close();
});

test("a status page works offline too", async () => {
  const hub = cached(remoteRegistry(nowhere), { storage: memoryStorage(), name: "hub" });
  await hub.ready();
  expect(await hub.status()).toMatchObject({ name: "hub", bytes: 0, fills: { running: 0, queued: 0 } });
  await hub.close();
});
