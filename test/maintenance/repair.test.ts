import { localRegistry, type Storage } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { type RepairProgress, repair } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, expect, test } from "vitest";
import { type Image, makeImage, pushBlobs, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { corrupting, joined, put, rejection, store, switchable } from "./support.js";

let storage: Storage;
let local: StoringRegistry;
let hub: StoringRegistry;

beforeEach(() => {
  storage = memoryStorage();
  local = localRegistry({ storage, name: "prerelease" });
  hub = localRegistry({ storage: memoryStorage(), name: "hub" });
});

async function locationOf(digest: string): Promise<string> {
  const { items } = await storage.blobs.list({ limit: 1000 });
  const found = items.find(({ location }) => location.startsWith(digest.replace(":", "/")));
  if (!found) throw new Error(`${digest} is not stored`);
  return found.location;
}
const lose = async (digest: string) => storage.blobs.delete(await locationOf(digest));
const readable = async (repository: string, image: Image) => {
  for (const [digest, bytes] of image.blobs) expect(Buffer.compare(await bytesOf(await local.getBlob(repository, digest)), bytes)).toBe(0);
};

test("blobs whose bytes are gone are fetched from whoever has them, once for all repositories", async () => {
  const image = await pushImage(local, "app", "1");
  await pushImage(local, "copy", "1", image);
  await pushBlobs(hub, "app", image);
  for (const digest of image.blobs.keys()) await lose(digest);
  const report = await repair(joined(local, [{ name: "hub", source: hub }]));
  expect(report).toMatchObject({ checked: 6, repaired: 3, lost: [], unknown: [] });
  await readable("app", image);
  await readable("copy", image);
  expect(await repair(joined(local, []))).toMatchObject({ checked: 6, repaired: 0, bytes: 0, lost: [] });
  expect((await storage.blobs.list({ limit: 10 })).items).toHaveLength(3);
});

test("what nobody gives is told, and wrong bytes are not taken", async () => {
  const image = await pushImage(local, "app", "1");
  await pushBlobs(hub, "app", image);
  await lose(image.config.digest);
  const bad = corrupting(hub, new Set([image.config.digest as string]));
  const report = await repair(joined(local, [{ name: "hub", source: bad }]));
  expect(report).toMatchObject({ repaired: 0, lost: [{ repository: "app", blob: { digest: image.config.digest } }] });
  expect(report.lost[0]?.why).toMatch(/^it cannot be read: .*; hub: /);
  expect((await repair(joined(local, []))).lost[0]?.why).toContain("no connector may be asked");
  expect(
    await repair(
      joined(local, [
        { name: "bad", source: bad },
        { name: "hub", source: hub },
      ]),
    ),
  ).toMatchObject({ repaired: 1, lost: [] });
});

test("bytes that have changed in place are found by reading all of them", async () => {
  const image = await pushImage(local, "app", "1", makeImage([50_000]));
  await pushBlobs(hub, "app", image);
  const bad = await locationOf(image.layers[0]?.digest ?? "");
  const { read } = storage.blobs;
  storage.blobs.read = (location, o) => {
    const stream = read.call(storage.blobs, location, o);
    return location === bad ? stream.map((chunk: Buffer) => Buffer.alloc(chunk.byteLength, "x")) : stream;
  };
  const aggregate = joined(local, [{ name: "hub", source: hub }]);
  expect(await repair(aggregate)).toMatchObject({ repaired: 0, lost: [] });
  expect(await repair(aggregate, { check: "content" })).toMatchObject({ repaired: 1, lost: [] });
  await readable("app", image);
});

test("blob references whose origin no longer gives them; one that is down is not given up", async () => {
  const image = makeImage();
  await pushBlobs(hub, "app", image);
  for (const blob of [image.config, ...image.layers]) await local.addBlobReference("app", blob, { member: "origin", repository: "app" });
  await put(local, "app", "1", image.manifest);
  const origin = switchable(localRegistry({ storage: memoryStorage(), name: "origin" }));
  const aggregate = joined(local, [
    { name: "origin", source: origin.registry },
    { name: "hub", source: hub },
  ]);
  origin.down = true;
  expect(await repair(aggregate)).toMatchObject({ repaired: 0, lost: [], unknown: { length: 3 } });
  origin.down = false;
  expect(await repair(joined(local, []))).toMatchObject({ lost: { length: 3 } });
  expect(await repair(aggregate)).toMatchObject({ repaired: 3, lost: [], unknown: [] });
  await readable("app", image);
});

test("can be ended and goes on behind the last page", async () => {
  for (let i = 0; i < 3; i++) {
    const image = await pushImage(local, `app-${i}`, "1", makeImage([10]));
    await pushBlobs(hub, `app-${i}`, image);
    for (const digest of image.blobs.keys()) await lose(digest);
  }
  const aggregate = joined(local, [{ name: "hub", source: hub }]);
  const controller = new AbortController();
  const told: RepairProgress[] = [];
  const progress = (at: RepairProgress) => {
    if (told.push(at) === 2) controller.abort(new Error("enough"));
  };
  expect(await rejection(repair(aggregate, { signal: controller.signal, progress }))).toMatchObject({ message: "enough" });
  const after = told.at(-1)?.after ?? "";
  expect(told.at(-1)).toMatchObject({ repaired: 4 });
  expect(await repair(aggregate, { after })).toMatchObject({ checked: 2, repaired: 2 });
});

test("a blob of no bytes, and one whose record is gone", async () => {
  const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  await store(local, "app", empty, Buffer.alloc(0));
  const image = await pushImage(local, "app", "1");
  await pushBlobs(hub, "app", image);
  const record = { kind: "blob", parts: [image.config.digest] } as const;
  await storage.metadata.commit([], [{ remove: record }]);
  expect(await repair(joined(local, [{ name: "hub", source: hub }]))).toMatchObject({ checked: 4, repaired: 1, lost: [] });
  await readable("app", image);
});
