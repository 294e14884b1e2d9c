import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { expect } from "vitest";

export const repositories = ["app", "con", "nul.1", "a/b/con", "prn", "com1", "aux", "app/app", `${"a".repeat(100)}/${"b".repeat(100)}`];
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
/** What a file system, a database or a bucket may take for something else: each in the places where a client may write anything. */
const hostile = ["\0", "a\0b", "'; DROP TABLE records; --", "%", "_", "\\", '"', "..", "../../x", "\ud800", "\u{10ffff}", "a".repeat(4000)];

/** Pushes names that differ only in case and those that a system reserves, and reads all of them again, through the registry at the URL. */
export async function pushReservedNames(url: string): Promise<void> {
  const pushed = new Map<string, string>();
  for (const repository of repositories) {
    const config = await pushConfig(url, repository);
    const begun = await fetch(`${url}/v2/${repository}/blobs/uploads/`, { method: "POST" });
    await fetch(new URL(begun.headers.get("location") ?? "", url), { method: "PATCH", body: "begun" });
    for (const tag of tags) {
      const manifest = manifestOf({ config, annotations: { tag, repository } });
      expect([await pushManifest(url, `${repository}/manifests/${tag}`, manifest), tag]).toEqual([201, tag]);
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
}

/** Asks with hostile text wherever a request may have text: nothing fails, nothing is another's, and what may be stored comes back as it was. */
export async function askHostileNames(url: string): Promise<void> {
  const config = await pushConfig(url, "victim");
  const kept = manifestOf({ config });
  expect(await pushManifest(url, "victim/manifests/kept", kept)).toBe(201);
  const subject = { mediaType: mediaTypes.ociManifest, digest: digestOf(Buffer.from(kept)), size: Buffer.byteLength(kept) };
  for (const text of hostile) {
    // What is no Unicode is written as the three bytes that UTF-8 does not have.
    const encoded = text === "\ud800" ? "%ed%a0%80" : encodeURIComponent(text);
    for (const path of [
      `${encoded}/manifests/kept`,
      `victim/manifests/${encoded}`,
      `victim/blobs/sha256:${encoded}`,
      `victim/blobs/uploads/${encoded}`,
    ])
      expect([path, [400, 404, 414]], path).toEqual([path, expect.arrayContaining([await statusOf(`${url}/v2/${path}`)])]);
    for (const path of [
      `victim/tags/list?last=${encoded}`,
      `_catalog?last=${encoded}`,
      `victim/referrers/${subject.digest}?artifactType=${encoded}`,
    ])
      expect([path, [200, 400, 414]]).toEqual([path, expect.arrayContaining([await statusOf(`${url}/v2/${path}`)])]);
    const mount = `${url}/v2/victim/blobs/uploads/?mount=${config.digest}&from=${encoded}`;
    expect([202, 400, 414]).toContain(await statusOf(mount, { method: "POST" }));

    const annotated = manifestOf({ config, subject, artifactType: "application/x", annotations: { text, [`key ${text}`]: "value" } });
    expect(await pushManifest(url, `victim/manifests/${digestOf(Buffer.from(annotated))}`, annotated)).toBe(201);
    const { manifests } = (await (await fetch(`${url}/v2/victim/referrers/${subject.digest}`)).json()) as { manifests: object[] };
    expect(manifests).toContainEqual(expect.objectContaining({ annotations: { text, [`key ${text}`]: "value" } }));
  }
  expect(await (await fetch(`${url}/v2/victim/manifests/kept`)).text()).toBe(kept);
  expect(await (await fetch(`${url}/v2/victim/tags/list`)).json()).toEqual({ name: "victim", tags: ["kept"] });
}

async function pushConfig(url: string, repository: string) {
  const config = randomBytes(20);
  const query = new URLSearchParams({ digest: digestOf(config) });
  expect(await statusOf(`${url}/v2/${repository}/blobs/uploads/?${query}`, { method: "POST", body: config })).toBe(201);
  return { mediaType: mediaTypes.octetStream, digest: digestOf(config), size: config.byteLength };
}

const manifestOf = (fields: object) => JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, layers: [], ...fields });

const pushManifest = (url: string, path: string, body: string) =>
  statusOf(`${url}/v2/${path}`, { method: "PUT", body, headers: { "content-type": mediaTypes.ociManifest } });

async function statusOf(url: string, init?: RequestInit): Promise<number> {
  const response = await fetch(url, init);
  await response.arrayBuffer();
  return response.status;
}
