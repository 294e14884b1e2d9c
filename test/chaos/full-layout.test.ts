import { readdirSync } from "node:fs";
import { join } from "node:path";
import { localRegistry } from "oci-manifold";
import { exportLayout, importLayout } from "oci-manifold/layout";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { rejection } from "../maintenance/support.js";
import { onSmallDisks, SmallDisk } from "./small-disk.js";

const MiB = 1024 * 1024;

onSmallDisks("a full disk", () => {
  test.each(["folder", "archive"] as const)(
    "under an export into a %s: it says so, leaves nothing half, and goes on later",
    async (format) => {
      const registry = localRegistry({ storage: memoryStorage(), name: "release" });
      await pushImage(registry, "app", "1", makeImage([3 * MiB, 3 * MiB, 100]));
      const disk = new SmallDisk(16);
      const path = join(disk.dir, "app");
      for (const leaving of [0, 1000, 5000, 100_000, 4 * MiB]) {
        disk.fill(leaving);
        expect(await rejection(exportLayout(registry, path, { repository: "app", format }))).toMatchObject({
          code: "INSUFFICIENT_STORAGE",
        });
        const left = readdirSync(disk.dir, { recursive: true }).map(String);
        expect(left.filter((name) => /partial|index\.json|app$/.test(name))).toEqual(
          left.includes("app") && format === "folder" ? ["app"] : [],
        );
        disk.clear();
      }
      await exportLayout(registry, path, { repository: "app", format });
      await importLayout(localRegistry({ storage: memoryStorage(), name: "other" }), path, { repository: "app" });
    },
  );

  test("under an import: it says so, and goes on later", async () => {
    const staging = localRegistry({ storage: memoryStorage(), name: "staging" });
    const image = await pushImage(staging, "app", "1", makeImage([3 * MiB, 3 * MiB, 100]));
    const path = join(temporaryFolder(), "app.tar");
    await exportLayout(staging, path, { repository: "app" });
    const disk = new SmallDisk(24);
    const release = localRegistry({ storage: fileStorage(disk.dir), name: "release" });
    await release.ready();
    disk.fill(5 * MiB);
    expect(await rejection(importLayout(release, path, { repository: "app", concurrency: 1 }))).toMatchObject({
      code: "INSUFFICIENT_STORAGE",
    });
    expect((await release.resolveManifest("app", "1")).kind).toBe("absent");
    disk.clear();
    const report = await importLayout(release, path, { repository: "app" });
    expect(report.images).toEqual([{ repository: "app", tag: "1", digest: image.digest }]);
    expect(report.bytes).toBeLessThan(6 * MiB);
    await release.close();
  });
});
