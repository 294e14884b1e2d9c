import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type Events, localRegistry, routes } from "oci-manifold";
import { nodeHandler } from "oci-manifold/node";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { eventually } from "../fixtures/read.js";

test("a handler given events tells every manifest GET, PUT and DELETE, every denial and every request", async () => {
  const told: { type: keyof Events; event: object }[] = [];
  const hub = localRegistry({ storage: memoryStorage(), name: "hub" });
  const image = await pushImage(hub, "library/app", "1");
  const images = nodeHandler(routes({ hub }, { namespaces: { "docker.io": hub } }), {
    caller: (request) => (request.headers["x-user"] ? { name: String(request.headers["x-user"]) } : undefined),
    authorize: ({ caller, action }) => action === "pull" || caller?.name === "ann",
    events: { emit: (type, event) => void told.push({ type, event }) },
  });
  const server = createServer(images).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const at = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v2`;
  const ask = async (method: string, path: string, user?: string, body?: Uint8Array) =>
    (await fetch(`${at}/${path}`, { method, ...(user && { headers: { "x-user": user } }), ...(body && { body }) })).status;

  expect(await ask("GET", "hub/library/app/manifests/1", "bob")).toBe(200);
  expect(await ask("GET", "library/app/manifests/1?ns=docker.io")).toBe(200);
  expect(await ask("PUT", "hub/library/app/manifests/2", undefined, image.manifest)).toBe(401);
  expect(await ask("PUT", "hub/library/app/manifests/2", "bob", image.manifest)).toBe(403);
  expect(await ask("PUT", "hub/library/app/manifests/2", "ann", image.manifest)).toBe(201);
  expect(await ask("DELETE", "hub/library/app/manifests/2", "ann")).toBe(202);
  await eventually(async () => told.filter(({ type }) => type === "request").length === 6, "there are six request events");
  await images.close();
  server.close();

  const of = (type: keyof Events) => told.filter((one) => one.type === type).map(({ event }) => event);
  const common = { time: expect.any(Number), address: "127.0.0.1" };
  expect(of("manifest.get")).toEqual([
    expect.objectContaining({
      ...common,
      repository: "hub/library/app",
      reference: "1",
      digest: image.digest,
      member: ["hub"],
      caller: { name: "bob" },
    }),
    expect.objectContaining({
      ...common,
      repository: "library/app",
      reference: "1",
      digest: image.digest,
      bytes: image.manifest.byteLength,
    }),
  ]);
  expect(of("denied")).toMatchObject([
    { action: "push", code: "UNAUTHORIZED", reference: "2" },
    { action: "push", code: "DENIED", reference: "2", caller: { name: "bob" } },
  ]);
  expect(of("manifest.put")).toMatchObject([{ reference: "2", digest: image.digest, outcome: "ok", caller: { name: "ann" } }]);
  expect(of("manifest.delete")).toMatchObject([{ reference: "2", outcome: "ok" }]);
  expect(of("request")).toMatchObject([
    { status: 200, member: ["hub"] },
    { status: 200 },
    { status: 401 },
    { status: 403 },
    { status: 201 },
    { status: 202 },
  ]);
});
