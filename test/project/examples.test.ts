import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { root } from "./support.js";

interface Example {
  start(port: number, dir: string): Promise<{ server: Server; close(): Promise<void> }>;
}

const password = "only for this test";
let dir = "";

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "manifold-example-"));
  vi.stubEnv("CI_PASSWORD", password);
});

afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(dir, { recursive: true, force: true });
});

async function started(name: string): Promise<{ url: string; close(): Promise<void> }> {
  const file = join(root, "examples/dist", `${name}.js`);
  expect(existsSync(file), "run `npm run build:examples` first").toBe(true);
  const example = (await import(/* @vite-ignore */ pathToFileURL(file).href)) as Example;
  const { server, close } = await example.start(0, join(dir, name));
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}

const digestOf = (bytes: Uint8Array) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

/** Pushes an image of one layer as a client does, pulls it back, and answers its digest. */
async function roundTrip(url: string, repository: string, headers: Record<string, string>): Promise<string> {
  const push = async (bytes: Uint8Array) => {
    const begun = await fetch(`${url}/v2/${repository}/blobs/uploads/`, { method: "POST", headers });
    expect(begun.status).toBe(202);
    const location = new URL(begun.headers.get("location") ?? "", url);
    location.searchParams.set("digest", digestOf(bytes));
    const ended = await fetch(location, {
      method: "PUT",
      headers: { ...headers, "content-type": "application/octet-stream" },
      body: bytes,
    });
    expect(ended.status).toBe(201);
    return { digest: digestOf(bytes), size: bytes.byteLength };
  };
  const layer = Buffer.from("a layer, as far as a registry can tell");
  const config = Buffer.from("{}");
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      config: { mediaType: "application/vnd.oci.image.config.v1+json", ...(await push(config)) },
      layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", ...(await push(layer)) }],
    }),
  );
  const address = `${url}/v2/${repository}/manifests/1.0`;
  const stored = await fetch(address, { method: "PUT", headers: { ...headers, "content-type": mediaType }, body: manifest });
  expect(stored.status).toBe(201);
  // Anonymous from here on.
  const pulled = await fetch(address);
  expect([pulled.status, Buffer.from(await pulled.arrayBuffer())]).toEqual([200, manifest]);
  const blob = await fetch(`${url}/v2/${repository}/blobs/${digestOf(layer)}`);
  expect([blob.status, Buffer.from(await blob.arrayBuffer())]).toEqual([200, layer]);
  return digestOf(manifest);
}

test("examples/express.ts serves its composition beside another route", async () => {
  const { url, close } = await started("express");
  try {
    expect(await (await fetch(url)).text()).toBe("beside the registry");
    const refused = await fetch(`${url}/v2/app/blobs/uploads/`, { method: "POST" });
    expect([refused.status, refused.headers.get("www-authenticate")]).toEqual([401, 'Basic realm="registry"']);
    await roundTrip(url, "app", { authorization: `Basic ${btoa(`ci:${password}`)}` });
  } finally {
    await close();
  }
});

test("examples/koa.ts serves its composition beside another route", async () => {
  const { url, close } = await started("koa");
  try {
    expect(await (await fetch(url)).text()).toBe("beside the registry");
    await roundTrip(url, "team/app", {});
    expect((await fetch(`${url}/v2/elsewhere/app/manifests/1.0`)).status).toBe(404);
  } finally {
    await close();
  }
});

test.each(["fastify", "hono"])("examples/%s.ts serves its composition beside another route", async (name) => {
  const { url, close } = await started(name);
  try {
    expect(await (await fetch(url)).text()).toBe("beside the registry");
    await roundTrip(url, "team/app", {});
    expect((await fetch(`${url}/elsewhere`)).status).toBe(404);
  } finally {
    await close();
  }
});

test("examples/aggregation.ts shows release and two upstreams in prerelease, and a part of them only", async () => {
  const closers: (() => Promise<void>)[] = [];
  const running = async (name: string) => {
    const { url, close } = await started(name);
    closers.unshift(close);
    return url;
  };
  try {
    // Other examples stand for the upstreams.
    const open = await running("fastify");
    const vendor = await running("express");
    const login = { authorization: `Basic ${btoa(`ci:${password}`)}` };
    for (const name of ["library/alpine", "library/other"]) await roundTrip(open, name, {});
    for (const name of ["team/app", "team/secret"]) await roundTrip(vendor, name, login);
    vi.stubEnv("UPSTREAM", open);
    vi.stubEnv("PRIVATE_UPSTREAM", vendor);
    vi.stubEnv("PRIVATE_USER", "ci");
    vi.stubEnv("PRIVATE_PASSWORD", password);
    const url = await running("aggregation");

    const digest = await roundTrip(url, "release/own/app", {});
    await roundTrip(url, "prerelease/own/next", {});
    for (const name of ["own/app", "library/alpine", "vendor/app"]) {
      const pulled = await fetch(`${url}/v2/prerelease/${name}/manifests/1.0`);
      expect([name, pulled.status, pulled.headers.get("docker-content-digest")]).toEqual([name, 200, digest]);
    }
    const hidden = [
      "release/own/next",
      "prerelease/library/other",
      "prerelease/team/app",
      "prerelease/vendor/secret",
      "hub/library/alpine",
    ];
    for (const name of hidden) expect([name, (await fetch(`${url}/v2/${name}/manifests/1.0`)).status]).toEqual([name, 404]);
  } finally {
    for (const close of closers) await close();
  }
});

test("examples/custom-resolver.ts lets versions through, also of what its own source makes", async () => {
  const { url, close } = await started("custom-resolver");
  try {
    await roundTrip(url, "team/app", {});
    const made = await fetch(`${url}/v2/time/manifests/1.0`);
    const manifest = (await made.json()) as { layers: { digest: string }[] };
    const layer = await fetch(`${url}/v2/time/blobs/${manifest.layers[0]?.digest}`);
    expect(await layer.text()).toMatch(/^\d{4}-\d\d-\d\dT/);
    expect((await fetch(`${url}/v2/time/manifests/latest`)).status).toBe(403);
    expect((await fetch(`${url}/v2/other/manifests/1.0`)).status).toBe(404);
  } finally {
    await close();
  }
});
