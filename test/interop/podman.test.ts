import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { podmanAndBuildah, type RunClient, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { sampleLayout } from "./layouts.js";
import { type MainJob, startMainJob } from "./main-job.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

const insecure = "--tls-verify=false";

requires(
  "podman",
  "buildah",
  "skopeo",
)("podman and buildah", () => {
  let job: MainJob;
  let podman: RunClient;
  let buildah: RunClient;

  beforeAll(async () => {
    job = await startMainJob();
    ({ podman, buildah } = await podmanAndBuildah());
  });

  const pushed = async (client: RunClient, image: string, to: string): Promise<string> => {
    const file = join(await temporaryFolder(), "digest");
    await client("push", insecure, "--digestfile", file, image, `docker://${to}`);
    return (await readFile(file, "utf8")).trim();
  };

  test("podman pushes to release and pulls through prerelease by tag and by digest", async () => {
    const { layout, image } = await sampleLayout(await temporaryFolder());
    const id = (await podman("pull", "--quiet", layout.reference("image"))).trim();
    expect(`sha256:${id}`).toBe(image.config.digest);
    const digest = await pushed(podman, id, `${job.host}/release/app:1`);
    await podman("rmi", "--all", "--force");

    const repository = `${job.host}/prerelease/app`;
    for (const name of [`${repository}:1`, `${repository}@${digest}`]) {
      expect((await podman("pull", "--quiet", insecure, name)).trim()).toBe(id);
      const [seen]: { Digest: string }[] = JSON.parse(await podman("image", "inspect", name));
      expect(seen?.Digest).toBe(digest);
      const mounted = (await podman("image", "mount", name)).trim();
      expect((await readFile(join(mounted, "layer-1"))).byteLength).toBe(3_000_000);
      await podman("image", "unmount", name);
      await podman("rmi", "--all", "--force");
    }
    // What podman asks of an image that is not there.
    await expect(podman("pull", insecure, `${repository}:absent`)).rejects.toThrow(/manifest unknown/);
  });

  test("buildah builds, pushes and pulls layers and a manifest list", async () => {
    const list = "localhost/both:1";
    await buildah("manifest", "create", list);
    const folder = await temporaryFolder();
    for (const architecture of ["amd64", "arm64"]) {
      let base = "scratch";
      for (const layer of ["first", "second"]) {
        await writeFile(join(folder, layer), `${architecture} ${layer}`);
        const container = (await buildah("from", "--arch", architecture, "--pull-never", base)).trim();
        await buildah("copy", container, join(folder, layer), `/${layer}`);
        base = `localhost/${architecture}-${layer}:1`;
        await buildah("commit", "--quiet", "--rm", container, base);
      }
      await buildah("manifest", "add", list, base);
    }
    await buildah("manifest", "push", "--all", insecure, list, `docker://${job.host}/release/both:1`);
    const digest = await pushed(buildah, "localhost/amd64-second:1", `${job.host}/release/built:1`);

    expect(await get(`${job.origin}/v2/prerelease/both/manifests/1`)).toMatchObject({ status: 200 });
    expect(await get(`${job.origin}/v2/prerelease/built/manifests/1`)).toMatchObject({ status: 200, digest, bodyDigest: digest });
    await buildah("rmi", "--all", "--force");
    for (const name of ["both:1", "built:1", `built@${digest}`])
      await buildah("pull", "--quiet", insecure, `${job.host}/prerelease/${name}`);
  });

  test("podman makes, pushes and pulls a manifest list, and finds what was pushed", async () => {
    const { layout, platforms } = await sampleLayout(await temporaryFolder());
    const list = "localhost/podman-both:1";
    await podman("manifest", "create", list);
    const published = `${job.host}/prerelease/from-podman/both`;
    await skopeoCopy(layout.reference("index"), `docker://${published}:index`);
    for (const { digest } of platforms) await podman("manifest", "add", insecure, list, `docker://${published}@${digest}`);
    await podman("manifest", "push", "--all", insecure, list, `docker://${published}:1`);
    await podman("rmi", "--all", "--force");

    const [amd64 = "", arm64 = ""] = platforms.map(({ config }) => config.digest.slice("sha256:".length));
    expect((await podman("pull", "--quiet", insecure, "--arch", "amd64", `${published}:1`)).trim()).toBe(amd64);
    expect((await podman("pull", "--quiet", insecure, "--arch", "arm64", `${published}:1`)).trim()).toBe(arm64);
    await podman("manifest", "create", "localhost/again:1");
    await podman("manifest", "add", "--all", insecure, "localhost/again:1", `docker://${published}:1`);
    const again: { manifests: { digest: string }[] } = JSON.parse(await podman("manifest", "inspect", "localhost/again:1"));
    expect(again.manifests.map(({ digest }) => digest)).toEqual(platforms.map(({ digest }) => digest));

    const found = await podman("search", insecure, "--format", "{{.Name}}", `${job.host}/from-podman`);
    expect(found.trim().split("\n")).toEqual([published]);
    const tags = await podman("search", insecure, "--list-tags", published);
    expect(tags.match(/\S+$/gm)).toEqual(["TAG", "1", "index"]);
  });
});
