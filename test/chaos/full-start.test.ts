import { randomBytes } from "node:crypto";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { localRegistry, mediaTypes, type Registry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { findSqliteDriver } from "../../src/storage/files/sqlite-driver.js";
import { pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { onSmallDisks, SmallDisk } from "./small-disk.js";

const full = expect.objectContaining({ code: "INSUFFICIENT_STORAGE" });

/** As a process leaves the database that ends in order: without its log. */
function withoutLog(dir: string): void {
  const database = findSqliteDriver().open(join(dir, "metadata.sqlite"));
  database.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  database.close();
  for (const suffix of ["-wal", "-shm"]) rmSync(join(dir, `metadata.sqlite${suffix}`), { force: true });
}

async function filled(disk: SmallDisk) {
  const before = localRegistry({ storage: fileStorage(disk.dir), name: "release" });
  await before.ready();
  const layer = randomBytes(200_000);
  await before.putBlob("app", { digest: digestOf(layer) }, chunksOf(layer));
  return { before, layer };
}

const holds = async (registry: Registry, layer: Uint8Array) =>
  digestOf(await bytesOf(await registry.getBlob("app", digestOf(layer)))) === digestOf(layer);

onSmallDisks("a registry that is started on a full disk", () => {
  test.each(["in order", "by a crash"])("after it ended %s: it reads, and writes once there is space", async (how) => {
    const disk = new SmallDisk(8);
    const { before, layer } = await filled(disk);
    await before.close();
    if (how === "in order") withoutLog(disk.dir);
    disk.fill();
    const after = localRegistry({ storage: fileStorage(disk.dir), name: "release" });
    await after.ready();
    expect(await holds(after, layer)).toBe(true);
    // What was set aside may have room for some.
    disk.fill();
    await expect(after.putBlob("app", { digest: digestOf(new Uint8Array([1])) }, chunksOf(randomBytes(2_000_000)))).rejects.toEqual(full);
    disk.clear();
    await pushImage(after, "app", "latest");
    expect(await holds(after, layer)).toBe(true);
    await after.close();
  });

  test("by uploads that have expired: they are swept, which makes the space", async () => {
    const disk = new SmallDisk(8);
    const clock = fakeClock();
    const storage = fileStorage(disk.dir, { clock });
    const before = localRegistry({ storage, name: "release", clock });
    await before.ready();
    const upload = await before.startUpload("app");
    await upload.append(chunksOf(randomBytes(3_000_000)));
    disk.fill();
    await clock.advance(25 * 60 * 60 * 1000);
    const after = localRegistry({ storage, name: "release", clock });
    await after.ready();
    expect((await storage.blobs.listStaged({ limit: 10 })).items).toEqual([]);
    await pushImage(after, "app", "latest");
    await after.close();
    await before.close();
  });
});

onSmallDisks("a disk without room for another file", () => {
  test("refuses pushes as a full one, keeps what it has, and goes on once files were removed", async () => {
    const disk = new SmallDisk(32, 60);
    const { before: registry, layer } = await filled(disk);
    const upload = await registry.startUpload("app");
    await upload.append(chunksOf(layer.subarray(0, 1000)));
    const others: string[] = [];
    try {
      for (let index = 0; index < 100; index++) {
        writeFileSync(join(disk.dir, `other-${index}`), "");
        others.push(join(disk.dir, `other-${index}`));
      }
    } catch (error) {
      expect(error).toMatchObject({ code: "ENOSPC" });
    }
    const small = randomBytes(1000);
    await expect(registry.putBlob("app", { digest: digestOf(small) }, chunksOf(small))).rejects.toEqual(full);
    await expect(registry.startUpload("app")).rejects.toEqual(full);
    expect(await holds(registry, layer)).toBe(true);
    // What needs no new file goes on, until it needs a folder.
    await upload.append(chunksOf(small));
    const digest = digestOf(Buffer.concat([layer.subarray(0, 1000), small]));
    await expect(upload.commit(digest)).rejects.toEqual(full);
    for (const other of others) rmSync(other);
    await (await registry.resumeUpload("app", upload.id)).commit(digest);
    await registry.putBlob("app", { digest: digestOf(small) }, chunksOf(small));
    expect(await holds(registry, layer)).toBe(true);
    await registry.close();
  });
});

onSmallDisks("a database whose disk fills up", () => {
  test("refuses each commit that does not fit, and forgets none that it acknowledged", async () => {
    const disk = new SmallDisk(6);
    const storage = fileStorage(disk.dir);
    const registry = localRegistry({ storage, name: "release", sparse: true });
    await registry.ready();
    const acknowledged: string[] = [];
    const config = { mediaType: mediaTypes.octetStream, digest: digestOf(new Uint8Array()), size: 0 };
    const push = async (index: number): Promise<boolean> => {
      const manifest = Buffer.from(
        JSON.stringify({ schemaVersion: 2, config, layers: [], annotations: { big: "x".repeat(60_000), index: String(index) } }),
      );
      try {
        await registry.putManifest("app", `t${index}`, { bytes: manifest, mediaType: mediaTypes.ociManifest });
        acknowledged.push(`t${index}`);
        return true;
      } catch (error) {
        expect(error).toEqual(full);
        return false;
      }
    };
    let refused = 0;
    for (let index = 0; refused < 5 && index < 300; index++) if (!(await push(index))) refused++;
    expect([refused, acknowledged.length > 10]).toEqual([5, true]);
    const all = async (one: Registry) => {
      for (const tag of acknowledged) expect((await one.getManifest("app", tag)).kind).toBe("found");
    };
    await all(registry);
    await registry.close();
    const after = localRegistry({ storage: fileStorage(disk.dir), name: "release", sparse: true });
    await after.ready();
    await all(after);
    await after.close();
  });
});
