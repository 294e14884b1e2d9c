import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { skopeoCopy } from "./clients.js";
import { get, stalledPatch, startUpload, uploadOffset, uploadUrl, withDigest } from "./http.js";
import { digestInLayout, sampleLayout } from "./layouts.js";
import { startAgain, startMainJob } from "./main-job.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

requires("skopeo")("a main job that ends", () => {
  const pull = async (name: string): Promise<string> => {
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${name}`, `oci:${folder}:pulled`);
    return digestInLayout(folder);
  };

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    test(`by ${signal}, ends with 0 and has its data when it is started again`, async () => {
      const { layout, image, index } = await sampleLayout(await temporaryFolder());
      const first = await startMainJob();
      await skopeoCopy(layout.reference("image"), `docker://${first.host}/release/app:image`);
      await skopeoCopy(layout.reference("index"), `docker://${first.host}/prerelease/app:index`);
      expect(await first.process.stop(signal)).toBe(0);

      const second = await startAgain(first);
      expect(await pull(`${second.host}/release/app:image`)).toBe(image.digest);
      expect(await pull(`${second.host}/prerelease/app:index`)).toBe(index.digest);
    });
  }

  test("by kill -9 in the middle of a push, has what it acknowledged and takes the push anew", async () => {
    const first = await startMainJob();
    const { layout, image, index } = await sampleLayout(await temporaryFolder());
    await skopeoCopy(layout.reference("image"), `docker://${first.host}/release/app:before`);

    const layer = randomBytes(12_000_000);
    const begun = await startUpload(first.origin, "release/app");
    const upload = uploadUrl(first.origin, await fetch(begun, { method: "PATCH", body: layer.subarray(0, 5_000_000) }), 202);
    await stalledPatch(await startUpload(first.origin, "release/app"), layer.subarray(0, 7_000_000));
    const push = skopeoCopy(layout.reference("index"), `docker://${first.host}/release/app:index`).catch(() => "cut off");
    await Promise.all([first.process.stop("SIGKILL"), push]);

    const second = await startAgain(first);
    expect(await pull(`${second.host}/prerelease/app:before`)).toBe(image.digest);
    // An open upload may lose its tail, and then says so.
    const { offset, location } = await uploadOffset(second.origin, upload);
    expect(offset).toBeLessThanOrEqual(5_000_000);
    const rest = await fetch(location, { method: "PATCH", body: layer.subarray(offset) });
    const digest = digestOf(layer);
    const done = await fetch(withDigest(uploadUrl(second.origin, rest, 202), digest), { method: "PUT" });
    expect(done.status).toBe(201);
    expect(await get(`${second.origin}/v2/release/app/blobs/${digest}`)).toMatchObject({ status: 200, bodyDigest: digest });

    await skopeoCopy(layout.reference("index"), `docker://${second.host}/release/app:index`);
    expect(await pull(`${second.host}/prerelease/app:index`)).toBe(index.digest);
  });
});
