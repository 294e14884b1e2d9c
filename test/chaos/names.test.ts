import { randomBytes } from "node:crypto";
import { readdirSync } from "node:fs";
import { localRegistry, mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { site } from "../http/support.js";

const repositories = ["app", "con", "nul.1", "a/b/con", "prn", "com1", "aux", "app/app", `${"a".repeat(100)}/${"b".repeat(100)}`];
const tags = [
  "V1",
  "v1",
  "Latest",
  "latest",
  "LATEST",
  "CON",
  "con",
  "NUL",
  "aux",
  "COM1",
  "_..",
  "_...",
  "a.",
  "a..",
  "a",
  "-x".slice(1),
  "A".repeat(128),
  "a".repeat(128),
];
const own =
  /^(?:metadata\.sqlite(?:-wal|-shm)?|reserve|identity|uploads|uploads\/[a-f0-9]{32}|blobs|blobs\/sha256|blobs\/sha256\/[a-f0-9]{2}|blobs\/sha256\/[a-f0-9]{2}\/[a-f0-9]{64}\.[a-f0-9]{16})$/;

test("names that differ only in case, and those that a system reserves, are records: they do not collide, and no file is named by a user", async () => {
  const folder = temporaryFolder();
  const { url, registry } = await site(localRegistry({ storage: fileStorage(folder), name: "release" }));
  const pushed = new Map<string, string>();
  for (const repository of repositories) {
    const config = randomBytes(20);
    const query = new URLSearchParams({ digest: digestOf(config) });
    const blob = await fetch(`${url}/v2/${repository}/blobs/uploads/?${query}`, { method: "POST", body: config });
    expect(blob.status).toBe(201);
    const begun = await fetch(`${url}/v2/${repository}/blobs/uploads/`, { method: "POST" });
    await fetch(new URL(begun.headers.get("location") ?? "", url), { method: "PATCH", body: config });
    for (const tag of tags) {
      const descriptor = { mediaType: mediaTypes.octetStream, digest: digestOf(config), size: config.byteLength };
      const annotations = { tag, repository };
      const manifest = JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: descriptor, layers: [], annotations });
      const headers = { "content-type": mediaTypes.ociManifest };
      const put = await fetch(`${url}/v2/${repository}/manifests/${tag}`, { method: "PUT", body: manifest, headers });
      expect([put.status, tag]).toEqual([201, tag]);
      pushed.set(`${repository}/manifests/${tag}`, manifest);
    }
  }
  for (const [path, manifest] of pushed) expect(await (await fetch(`${url}/v2/${path}`)).text()).toBe(manifest);
  for (const repository of repositories) {
    const listed = await (await fetch(`${url}/v2/${repository}/tags/list?n=100`)).json();
    expect(listed).toEqual({ name: repository, tags: [...new Set(tags)].sort() });
  }
  expect((await fetch(`${url}/v2/app/manifests/V1`, { method: "DELETE" })).status).toBe(202);
  expect((await fetch(`${url}/v2/app/manifests/v1`)).status).toBe(200);
  for (const id of ["..", "%2e%2e%2fmetadata.sqlite", "CON", "A".repeat(32)]) {
    expect([400, 404]).toContain((await fetch(`${url}/v2/app/blobs/uploads/${id}`)).status);
  }

  const files = readdirSync(folder, { recursive: true }).map(String);
  expect(files.filter((name) => !own.test(name))).toEqual([]);
  expect(files.length).toBeGreaterThan(2 * repositories.length);
  await registry.close();
});
