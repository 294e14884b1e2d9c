import { appendFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { localRegistry, mediaTypes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { exportLayout, importLayout } from "oci-manifold/layout";
import { fileStorage } from "oci-manifold/storage/files";
import { describe, expect } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { onLinux } from "../interop/requires.js";
import { local, named, pathOf, type TarEntry, tarBytes } from "../layout/support.js";
import { rejection } from "../maintenance/support.js";
import { growthDuring } from "./memory.js";
import { patterned, patternedDigest } from "./patterned.js";

const MiB = 1024 * 1024;
const mostGrowth = 150;

const fileRegistry = async (name: string) => {
  const registry = localRegistry({ storage: fileStorage(join(temporaryFolder(), name)), name });
  await registry.ready();
  return registry;
};

/** An image of one layer. */
async function pushOf(registry: Awaited<ReturnType<typeof fileRegistry>>, tag: string, mebibytes: number): Promise<void> {
  const layer = { mediaType: "application/vnd.oci.image.layer.v1.tar", digest: patternedDigest(mebibytes, 1), size: mebibytes * MiB };
  const source = async function* () {
    yield* patterned(mebibytes, 1);
  };
  await registry.putBlob("app", layer, source());
  const bytes = Buffer.from("{}");
  const config = { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(bytes), size: 2 };
  await registry.putBlob("app", config, chunksOf(bytes));
  const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [layer] };
  await registry.putManifest("app", tag, { bytes: Buffer.from(JSON.stringify(manifest)) });
}

describe.each(["folder", "archive"] as const)("a layer of 1 GiB by a %s", (format) => {
  onLinux("is exported and imported with flat memory", async () => {
    const source = await fileRegistry("source");
    const path = join(temporaryFolder(), "layout");
    // Until then code is still being loaded, and memory that is used again is not there yet.
    await pushOf(source, "warm", 32);
    await exportLayout(source, path, { repository: "app", format });
    await importLayout(local("warm"), path, { repository: "app" });
    rmSync(path, { recursive: true });

    await pushOf(source, "large", 1024);
    const options = { repository: "app", references: ["large"], format };
    const exporting = await growthDuring(process.pid, async () => {
      expect((await exportLayout(source, path, options)).bytes).toBe(1024 * MiB + 2);
    });
    const target = await fileRegistry("target");
    const importing = await growthDuring(process.pid, async () => {
      expect((await importLayout(target, path, { repository: "app" })).bytes).toBe(1024 * MiB + 2);
    });
    console.log(`growth in MB by ${format}: export ${exporting.toFixed()}, import ${importing.toFixed()}`);
    expect(exporting).toBeLessThan(mostGrowth);
    expect(importing).toBeLessThan(mostGrowth);
    await Promise.all([source.close(), target.close()]);
  });
});

describe("an archive of 200,000 blobs", () => {
  onLinux("is found through with bounded memory, and one image of it imported", async () => {
    const path = join(temporaryFolder(), "many.tar");
    for (let part = 0; part < 20; part++) {
      const entries = Array.from({ length: 10_000 }, (_, index): TarEntry => {
        const bytes = Buffer.from(`blob ${part} ${index}`);
        return [{ name: pathOf(digestOf(bytes)) }, bytes];
      });
      appendFileSync(path, (await tarBytes(entries)).subarray(0, -1024));
    }
    const config = Buffer.from("blob 0 0");
    const layers = [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest: digestOf(Buffer.from("blob 19 9999")), size: 12 }];
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        config: { mediaType: "application/x.config", digest: digestOf(config), size: config.byteLength },
        layers,
      }),
    );
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [named(manifest, "1")] }));
    appendFileSync(
      path,
      await tarBytes([
        [{ name: pathOf(digestOf(manifest)) }, manifest],
        [{ name: "index.json" }, index],
        [{ name: "oci-layout" }, Buffer.from('{"imageLayoutVersion":"1.0.0"}')],
      ]),
    );
    expect(statSync(path).size).toBeGreaterThan(190 * MiB);
    const growth = await growthDuring(process.pid, async () => {
      expect((await importLayout(local("release"), path, { repository: "app" })).items).toBe(4);
    });
    console.log(`growth in MB: ${growth.toFixed()}`);
    expect(growth).toBeLessThan(mostGrowth);
  });
});

describe("an archive of more than a million entries", () => {
  onLinux("is refused, with bounded memory", async () => {
    const path = join(temporaryFolder(), "absurd.tar");
    const header = (await tarBytes([[{ name: "empty" }]])).subarray(0, 512);
    const thousand = Buffer.concat(Array.from({ length: 1000 }, () => header));
    for (let part = 0; part < 1001; part++) appendFileSync(path, thousand);
    const growth = await growthDuring(process.pid, async () => {
      expect(await rejection(importLayout(local("release"), path, { repository: "app" }))).toMatchObject({
        code: "MANIFEST_INVALID",
        message: expect.stringContaining("more than 1000000 entries"),
      });
    });
    console.log(`growth in MB: ${growth.toFixed()}`);
    expect(growth).toBeLessThan(mostGrowth);
  });
});
