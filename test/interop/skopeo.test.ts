import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { skopeo, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { digestInLayout, type Layout, type LayoutImage, sampleLayout } from "./layouts.js";
import { type MainJob, mountsIn, startMainJob } from "./main-job.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

requires("skopeo")("skopeo", () => {
  let job: MainJob;
  let layout: Layout;
  let image: LayoutImage;
  let platforms: readonly LayoutImage[];

  beforeAll(async () => {
    job = await startMainJob();
    ({ layout, image, platforms } = await sampleLayout(await temporaryFolder()));
  });

  test("pushes, inspects, lists, pulls to folders and deletes", async () => {
    const there = `docker://${job.host}/release/tools/app`;
    await skopeoCopy(layout.reference("image"), `${there}:v1`);
    await skopeoCopy(layout.reference("image"), `${there}:v2`);

    const seen: { Digest: string; Layers: string[] } = JSON.parse(await skopeo("inspect", "--tls-verify=false", `${there}:v1`));
    expect(seen.Digest).toBe(image.digest);
    expect(seen.Layers).toEqual(image.layers.map((layer) => layer.digest));
    const listed: { Tags: string[] } = JSON.parse(await skopeo("list-tags", "--tls-verify=false", there));
    expect(listed.Tags).toEqual(["v1", "v2"]);

    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`${there}@${image.digest}`, `oci:${folder}:v1`);
    expect(await digestInLayout(folder)).toBe(image.digest);
    await skopeoCopy(`${there}:v2`, `dir:${await temporaryFolder()}`);

    await skopeo("delete", "--tls-verify=false", `${there}:v1`);
    expect(await get(`${job.origin}/v2/release/tools/app/manifests/v2`)).toMatchObject({ status: 404, errorCode: "MANIFEST_UNKNOWN" });
  });

  test("copies an index of two platforms from one route to another by mounts", async () => {
    await skopeoCopy(layout.reference("index"), `docker://${job.host}/release/moved:1`);
    await skopeoCopy(`docker://${job.host}/release/moved:1`, `docker://${job.host}/prerelease/copied:1`);
    const mounts = mountsIn(job, "prerelease/copied", "release/moved");
    expect(mounts.map((line) => line.split(" ")[3])).toEqual(platforms.flatMap(({ layers }) => layers.map(() => "201")));
    const [from, to] = await Promise.all([
      get(`${job.origin}/v2/release/moved/manifests/1`),
      get(`${job.origin}/v2/prerelease/copied/manifests/1`),
    ]);
    expect(to).toMatchObject({ status: 200, digest: from.digest, bodyDigest: from.digest });
  });
});
