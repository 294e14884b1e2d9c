import { type Connector, filtered, localRegistry, orThrow, type Registry } from "oci-manifold";
import { contentChunks, digestOf, type StoringRegistry } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { spied } from "../fixtures/spy.js";
import { recorder, site } from "../http/support.js";
import { joined, store } from "./support.js";

const behindConnectors = async (local: StoringRegistry, repository: string, digests: Iterable<string>) => {
  let count = 0;
  for (const digest of digests) if ((await local.resolveBlob(repository, digest)).kind === "linked") count++;
  return count;
};

/** An image that is pushed to an aggregate without its bytes, which stay behind the connector. */
async function behindConnector(copyToLocal: Connector["copyToLocal"], source: Registry, local: StoringRegistry, events = recorder()) {
  const image = await pushImage(source, "app", "1", makeImage([70_000, 80_000]));
  const connector: Connector = { name: "source", source, copyToLocal: "never" };
  const first = joined([connector], { local });
  await first.putManifest("app", "mine", { bytes: image.manifest });
  expect(await behindConnectors(local, "app", image.blobs.keys())).toBe(image.blobs.size);
  const all = joined([copyToLocal ? { ...connector, copyToLocal } : { name: "source", source }], { local, events });
  return { image, all, events };
}

test("copying to local goes on after a crash, in the background, told by events", async () => {
  const [source, local] = [store("source"), localRegistry({ storage: memoryStorage(), name: "own" })];
  const { image, all, events } = await behindConnector("onPush", source, local);
  await pushImage(local, "other", "1");
  const { calls, registry } = spied(local);
  await joined([], { local: registry as StoringRegistry }).ready();
  expect(calls.filter((call) => call.startsWith("list"))).toEqual([]);
  await all.ready();
  await all.ready();
  await eventually(async () => (await behindConnectors(local, "app", image.blobs.keys())) === 0, "all is copied");
  expect(events.of("fault")).toEqual([]);
  expect(
    events
      .of("copied")
      .map(({ digest, member, bytes }) => [digest, member, bytes])
      .sort(),
  ).toEqual([...image.blobs].map(([digest, bytes]) => [digest, "source", bytes.byteLength]).sort());
  expect(events.of("copied").at(-1)?.waiting).toBe(0);
});

test("a child of an index whose layers were left behind is copied to local as well", async () => {
  const [source, local] = [store("source"), store("own")];
  const image = await pushImage(source, "app", "1");
  const connector: Connector = { name: "source", source, copyToLocal: "never" };
  const before = joined([connector], { local });
  await before.putManifest("app", image.digest, { bytes: image.manifest });
  await before.putManifest("app", "all", { bytes: makeIndex([image]).bytes });
  await before.close();
  const after = joined([{ name: "source", source }], { local });
  await after.ready();
  await eventually(async () => (await behindConnectors(local, "app", image.blobs.keys())) === 0, "all is copied");
});

test("closing breaks off what is being copied to local; two copies run at a time at most", async () => {
  const source = store("source");
  let running = 0;
  let most = 0;
  const slow: Registry = {
    ...source,
    async getBlob(repository, digest, o) {
      // The push looks at what is small.
      if (o?.priority !== "background") return source.getBlob(repository, digest, o);
      running++;
      most = Math.max(most, running);
      return new Promise((_, reject) => {
        o?.signal?.addEventListener("abort", () => {
          running--;
          reject(o.signal?.reason);
        });
      });
    },
  };
  const { all, events } = await behindConnector("onPush", slow, store("own"));
  await all.ready();
  await eventually(async () => running === 2, "two copies run");
  await all.close({ deadline: "1ms" });
  expect([running, most, events.of("fault"), events.of("copied")]).toEqual([0, 2, [], []]);
});

test("onPull copies what is pulled through a blob reference, once, and not what is pushed", async () => {
  const { registry: source, calls } = spied(store("source"));
  const local = store("own");
  const { image, all, events } = await behindConnector("onPull", source, local);
  await all.ready();
  await all.putManifest("app", "again", { bytes: image.manifest });
  expect(await behindConnectors(local, "app", image.blobs.keys())).toBe(image.blobs.size);
  calls.length = 0;
  const digest = image.layers[0]?.digest ?? "";
  expect((await all.resolveBlob("app", digest)).kind).toBe("found");
  const pulled = await Promise.all([1, 2, 3].map(() => all.getBlob("app", digest)));
  for (const lookup of pulled) expect(digestOf(await bytesOf(lookup))).toBe(digest);
  await eventually(async () => (await behindConnectors(local, "app", [digest])) === 0, "the layer is copied");
  expect(calls.filter((call) => call.startsWith("getBlob"))).toHaveLength(4);
  expect(events.of("copied")).toMatchObject([{ digest, member: "source", bytes: 70_000, waiting: 0 }]);
  expect(await behindConnectors(local, "app", image.blobs.keys())).toBe(image.blobs.size - 1);
});

test("a layer that is lost upstream is BLOB_UNKNOWN and names connector and digest to those who may know", async () => {
  const [source, local] = [store("source"), store("own")];
  const { image, all, events } = await behindConnector("never", source, local);
  const { digest } = image.config;
  await source.deleteBlob("app", digest);
  const told = { kind: "absent", error: { code: "BLOB_UNKNOWN", message: `${digest} is lost: source gives it no more from app` } };
  expect(await all.getBlob("app", digest)).toMatchObject(told);
  expect(events.of("dangling")).toMatchObject([{ repository: "app", digest, origin: "source/app" }]);
  const open = await site(all, { showTopology: true });
  expect(await (await open.fetch(`/v2/app/blobs/${digest}`)).json()).toMatchObject({
    errors: [{ code: "BLOB_UNKNOWN", message: expect.stringContaining("source"), detail: { digest, members: [{ member: "source" }] } }],
  });
  const shut = await site(all, {});
  const response = await shut.fetch(`/v2/app/blobs/${digest}`);
  expect([response.status, await response.json()]).toEqual([
    404,
    { errors: [{ code: "BLOB_UNKNOWN", message: "not found", detail: { digest } }] },
  ]);
  await all.setConnectors([]);
  expect(await all.resolveBlob("app", digest)).toMatchObject({ error: { message: expect.stringContaining("was removed") } });
});

test("a filter in front of an aggregate cannot be walked around by another spelling that a connector knows", async () => {
  const source: Registry = { ...store("hub"), canonicalName: (name) => (name.includes("/") ? name : `library/${name}`) };
  const inner = joined([{ name: "hub", source }], { reserved: ["mine"] });
  await pushImage(source, "node", "1");
  expect([inner.canonicalName?.("node"), inner.canonicalName?.("mine")]).toEqual(["library/node", "mine"]);
  const outer = filtered(inner, { block: ["library/node"] });
  expect((await outer.getManifest("node", "1")).kind).toBe("absent");
  await inner.setConnectors([]);
  expect(inner.canonicalName?.("node")).toBe("node");
});

test("what is pushed through a filter on tags makes no hidden digest reachable, and no delete removes a hidden tag", async () => {
  const all = store("all");
  const secret = await pushImage(all, "app", "secret-1");
  const shown = filtered(all, { allow: ["app:open-*"] });
  const mine = makeImage();
  await pushBlobs(shown, "app", mine);
  await shown.putManifest("app", "open-1", { bytes: mine.manifest });
  expect((await shown.getManifest("app", secret.digest)).kind).toBe("absent");
  await expect(shown.putManifest("app", "open-2", { bytes: makeIndex([secret]).bytes })).rejects.toThrow();
  expect((await shown.getManifest("app", secret.digest)).kind).toBe("absent");
  await all.putManifest("app", "secret-2", { bytes: mine.manifest });
  await shown.deleteManifest("app", mine.digest).catch(() => {});
  expect((await all.resolveManifest("app", "secret-2")).kind).toBe("found");
  await shown.deleteManifest("app", secret.digest).catch(() => {});
  expect((await all.resolveManifest("app", "secret-1")).kind).toBe("found");
});

test("after a local delete what a connector has shows through, and the client is warned", async () => {
  const source = store("source");
  const behind = await pushImage(source, "app", "1");
  const all = joined([{ name: "source", source }], { sticky: "off" });
  await pushImage(all, "app", "1");
  await pushImage(all, "app", "2");
  const { fetch } = await site(all, { anonymousWrites: true });
  const quiet = await fetch("/v2/app/manifests/2", { method: "DELETE" });
  expect([quiet.status, quiet.headers.get("warning")]).toEqual([202, null]);
  const warned = await fetch("/v2/app/manifests/1", { method: "DELETE" });
  expect([warned.status, warned.headers.get("warning")]).toEqual([202, expect.stringContaining(behind.digest)]);
  expect(orThrow(await all.resolveManifest("app", "1")).digest).toBe(behind.digest);
  const refused = await fetch("/v2/app/manifests/1", { method: "DELETE" });
  expect(refused.status).toBe(405);
  expect((await source.resolveManifest("app", "1")).kind).toBe("found");
  for await (const _ of contentChunks(orThrow(await all.getBlob("app", behind.config.digest)).content));
});
