import { join } from "node:path";
import { filtered, localRegistry, mediaTypes } from "oci-manifold";
import { exportLayout } from "oci-manifold/layout";
import { collectGarbage, findDangling } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { makeImage, pushImage } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { joined } from "./support.js";

/** An image that was stored as something else, as was possible before a digest kept its type. */
async function stored(mediaType: string) {
  const clock = fakeClock();
  const storage = memoryStorage();
  const registry = localRegistry({ storage, name: "release", clock });
  const { config, layers, blobs } = makeImage([1000, 2000]);
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers }));
  const { digest } = await pushImage(registry, "app", "1", { ...makeImage(), config, layers, blobs, manifest }).then(async () => {
    const lookup = await registry.resolveManifest("app", "1");
    if (lookup.kind !== "found") throw new Error("it was not pushed");
    return lookup.value;
  });
  const key = recordKey.manifest("release", "app", digest);
  await storage.metadata.commit([], [{ put: key, value: { mediaType, pushedAt: clock.now() }, bytes: manifest }]);
  return { clock, storage, registry, digest, manifest, references: [config, ...layers] };
}

describe.each([mediaTypes.ociIndex, mediaTypes.dockerList, mediaTypes.ociArtifact])("an image that was stored as %s", (type) => {
  test("keeps its config and layers when garbage is collected", async () => {
    const { clock, storage, registry, references } = await stored(type);
    await clock.advance(48 * 60 * 60_000);
    await collectGarbage(storage, { clock });
    for (const { digest } of references) expect((await registry.resolveBlob("app", digest)).kind).toBe("found");
  });

  test("is audited with all that it refers to", async () => {
    const { registry, references } = await stored(type);
    expect(await findDangling(joined(registry, []))).toMatchObject({ manifests: 1, references: references.length, dangling: [] });
  });

  test("is exported with all that it refers to", async () => {
    const { registry, references } = await stored(type);
    const report = await exportLayout(registry, join(temporaryFolder(), "layout"), { repository: "app" });
    expect(report.items).toBe(references.length + 1);
  });

  test("is shown by a filter with all that it refers to, and hidden by what it refers to", async () => {
    const { registry, references } = await stored(type);
    const shown = filtered(registry, { allow: ["app:1"] });
    expect((await shown.getManifest("app", "1")).kind).toBe("found");
    for (const { digest } of references) expect((await shown.resolveBlob("app", digest)).kind).toBe("found");
    const arm = filtered(registry, { platforms: ["linux/arm64"] });
    expect((await arm.getManifest("app", "1")).kind).toBe("absent");
  });

  test("gets its own type when it is pushed again", async () => {
    const { registry, digest, manifest } = await stored(type);
    await registry.putManifest("app", "2", { bytes: manifest, mediaType: mediaTypes.ociManifest });
    expect(await registry.resolveManifest("app", digest)).toMatchObject({ value: { mediaType: mediaTypes.ociManifest } });
  });
});
