import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { digestInLayout, type Layout, type LayoutImage, sampleLayout } from "./layouts.js";
import { type MainJob, startMainJob } from "./main-job.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

requires("skopeo")("release and prerelease", () => {
  let job: MainJob;
  let layout: Layout;
  let image: LayoutImage;
  let index: { digest: string };

  const pull = async (name: string): Promise<string> => {
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${job.host}/${name}`, `oci:${folder}:pulled`);
    return digestInLayout(folder);
  };
  const mount = (repository: string, digest: string, from: string) =>
    fetch(`${job.origin}/v2/${repository}/blobs/uploads/?mount=${digest}&from=${from}`, { method: "POST" });

  beforeAll(async () => {
    job = await startMainJob();
    ({ layout, image, index } = await sampleLayout(await temporaryFolder()));
    await skopeoCopy(layout.reference("image"), `docker://${job.host}/release/team/app:image`);
    await skopeoCopy(layout.reference("index"), `docker://${job.host}/release/team/app:index`);
  });

  test("what is in release is pulled from prerelease, by tag and by digest, with equal digests", async () => {
    for (const repository of ["release/team/app", "prerelease/team/app"]) {
      expect(await pull(`${repository}:image`)).toBe(image.digest);
      expect(await pull(`${repository}:index`)).toBe(index.digest);
      expect(await pull(`${repository}@${image.digest}`)).toBe(image.digest);
      expect(await pull(`${repository}@${index.digest}`)).toBe(index.digest);
    }
  });

  test("what is only in prerelease is 404 in release", async () => {
    await skopeoCopy(layout.reference("image"), `docker://${job.host}/prerelease/next/app:1`);
    expect(await pull("prerelease/next/app:1")).toBe(image.digest);
    const release = `${job.origin}/v2/release/next/app`;
    for (const path of ["manifests/1", `manifests/${image.digest}`]) {
      expect(await get(`${release}/${path}`)).toMatchObject({ status: 404, errorCode: "MANIFEST_UNKNOWN" });
    }
    for (const blob of [image.config, ...image.layers]) {
      expect(await get(`${release}/blobs/${blob.digest}`)).toMatchObject({ status: 404, errorCode: "BLOB_UNKNOWN" });
    }
  });

  test("a layer is mounted from another route's repository", async () => {
    const { digest } = image.config;
    const mounted = await mount("prerelease/mounted", digest, "release/team/app");
    expect(mounted.status).toBe(201);
    expect(mounted.headers.get("location")).toBe(`/v2/prerelease/mounted/blobs/${digest}`);
    expect(await get(`${job.origin}/v2/prerelease/mounted/blobs/${digest}`)).toMatchObject({ status: 200, bodyDigest: digest });
    const absent = await mount("prerelease/mounted", `sha256:${"0".repeat(64)}`, "release/team/app");
    expect(absent.status).toBe(202);
    expect(absent.headers.get("location")).toMatch(/^\/v2\/prerelease\/mounted\/blobs\/uploads\/.+/);
  });

  test("a layer of hub that cannot be had is uploaded instead of mounted", async () => {
    expect((await mount("prerelease/mounted", `sha256:${"1".repeat(64)}`, "hub/library/app")).status).toBe(202);
  });
});
