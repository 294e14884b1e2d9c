import { randomBytes } from "node:crypto";
import { localRegistry, type Storage } from "oci-manifold";
import { chunksOf, digestOf, parseDigest } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { recordPages } from "../../src/local/every-record.js";
import { makeImage, pushBlobs } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

const bytes = randomBytes(1000);
const digest = parseDigest(digestOf(bytes));
const link = (repository = "app") => recordKey.link("release", repository, digest);

/** A repository whose blob reference, and whose blob, is about to be removed. */
async function marked() {
  const clock = fakeClock();
  const storage = memoryStorage({ clock });
  const registry = localRegistry({ storage, name: "release", clock });
  await registry.putBlob("app", { digest }, chunksOf(bytes));
  const mark = async () => {
    const reference = await storage.metadata.get(link());
    const blob = await storage.metadata.get(recordKey.blob(digest));
    if (!reference || !blob) throw new Error("neither may be gone");
    await storage.metadata.commit(
      [],
      [
        { put: link(), value: { ...reference.value, condemned: true } },
        { put: recordKey.blob(digest), value: { ...blob.value, condemned: true } },
      ],
    );
  };
  await mark();
  await clock.advance(1000);
  const marks = async () => [
    (await storage.metadata.get(link()))?.value.condemned,
    (await storage.metadata.get(recordKey.blob(digest)))?.value.condemned,
  ];
  return { clock, storage, registry, marks, mark };
}

test("whoever is told that a marked blob is there finds no mark afterwards", async () => {
  const { registry, marks, mark, storage, clock } = await marked();
  const other = localRegistry({ storage, name: "other", clock });
  const lifts = {
    HEAD: () => registry.resolveBlob("app", digest),
    "HEAD in the background": () => registry.resolveBlob("app", digest, { priority: "background" }),
    GET: () => registry.getBlob("app", digest),
    push: () => registry.putBlob("app", { digest }, chunksOf(bytes)),
    "mount into it": () => registry.mountBlob("app", digest, { registry: other, repository: "theirs" }),
    link: () => registry.addBlobReference("app", { mediaType: "x/y", digest, size: bytes.byteLength }),
  };
  await other.putBlob("theirs", { digest }, chunksOf(bytes));
  for (const [how, lift] of Object.entries(lifts)) {
    await mark();
    await lift();
    expect(await marks(), how).toEqual([undefined, undefined]);
  }
});

test("a manifest unmarks what it refers to, whoever checks its references, and a mount makes a blob reference of its own", async () => {
  const { registry, storage, mark } = await marked();
  const image = makeImage([10]);
  await pushBlobs(registry, "app", image);
  const manifest = JSON.parse(Buffer.from(image.manifest).toString());
  manifest.layers.push({ mediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar", digest, size: bytes.byteLength });
  const content = { bytes: Buffer.from(JSON.stringify(manifest)) };
  for (const o of [{}, { references: "trust" as const }]) {
    await mark();
    await registry.putManifest("app", "1", content, o);
    expect((await storage.metadata.get(link()))?.value.condemned).toBeUndefined();
  }
  await mark();
  await registry.mountBlob("mounted", digest, { registry, repository: "app" });
  expect((await storage.metadata.get(link("mounted")))?.value.condemned).toBeUndefined();
  expect((await storage.metadata.get(recordKey.blob(digest)))?.value.condemned).toBeUndefined();
});

test("a manifest is not taken with a blob reference that was marked after it was looked at", async () => {
  const { registry, storage, clock } = await marked();
  const image = makeImage([10]);
  await pushBlobs(registry, "app", image);
  const key = recordKey.link("release", "app", image.config.digest);
  for (const o of [{}, { references: "trust" as const }]) {
    let raced = false;
    const metadata: Storage["metadata"] = {
      ...storage.metadata,
      async commit(conditions, changes) {
        const reference = await storage.metadata.get(key);
        if (!raced && reference) await storage.metadata.commit([], [{ put: key, value: { ...reference.value, condemned: true } }]);
        raced = true;
        return storage.metadata.commit(conditions, changes);
      },
    };
    const racing = localRegistry({ storage: { ...storage, metadata }, name: "release", clock });
    await racing.putManifest("app", "1", { bytes: image.manifest }, o);
    expect((await storage.metadata.get(key))?.value.condemned).toBeUndefined();
  }
});

test("a condition that fails shows what another process has written, at once", async () => {
  const folder = temporaryFolder();
  const [here, there] = [fileStorage(folder), fileStorage(folder)];
  const key = recordKey.repository("release", "app");
  await here.metadata.commit([], [{ put: key, value: { updatedAt: 1 } }]);
  for (let turn = 2; turn < 50; turn++) {
    const seen = await here.metadata.get(key);
    await there.metadata.commit([], [{ put: key, value: { updatedAt: turn } }]);
    const condition = { key, is: "version" as const, version: seen?.version ?? 0 };
    expect(await here.metadata.commit([condition], [{ put: key, value: { updatedAt: 0 } }])).toBe(false);
    expect((await here.metadata.get(key))?.value.updatedAt).toBe(turn);
  }
  await Promise.all([here, there].flatMap(({ metadata, blobs }) => [metadata.close(), blobs.close()]));
});

test("a committed file is as young as its commit", async () => {
  const clock = fakeClock(Date.now());
  const { blobs } = fileStorage(temporaryFolder(), { clock });
  const staged = await blobs.stage("0".repeat(32));
  await staged.append(chunksOf(bytes));
  await clock.advance(3_600_000);
  await staged.commit(digest);
  expect((await blobs.list({ limit: 1 })).items[0]?.modifiedAt).toBeCloseTo(clock.now(), -1);
});

test("every record is walked once, whatever the keys have in common", async () => {
  const { metadata } = memoryStorage();
  const leases = [
    ...Array.from({ length: 2500 }, (_, index) => ["many", `${index}`]),
    ...Array.from({ length: 1100 }, (_, index) => ["many", "7", `${index}`]),
    ...Array.from({ length: 1500 }, (_, index) => [`one ${index}`]),
    ["many"],
  ];
  for (let from = 0; from < leases.length; from += 500) {
    const some = leases.slice(from, from + 500);
    await metadata.commit(
      [],
      some.map(([purpose = "", ...what]) => ({ put: recordKey.lease(purpose, ...what), value: { holder: "", expiresAt: 0 } })),
    );
  }
  const seen: string[] = [];
  for await (const page of recordPages(metadata, "lease", [])) {
    expect(page.length).toBeLessThanOrEqual(1000);
    for (const { key } of page) seen.push(key.parts.join("\u0001"));
  }
  expect(seen).toEqual(leases.map((parts) => parts.join("\u0001")).sort());
});
