import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { dockerEngine, dockerRegistry, type RunClient, skopeo, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { sampleLayout } from "./layouts.js";
import { type MainJob, mountsIn, startMainJob } from "./main-job.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

requires(
  "dockerd",
  "docker",
  "containerd",
  "skopeo",
)("docker", () => {
  let job: MainJob;
  let docker: RunClient;

  beforeAll(async () => {
    job = await startMainJob();
    docker = await dockerEngine();
  });

  test("pushes to release and pulls through prerelease by tag and by digest", async () => {
    const { layout, image } = await sampleLayout(await temporaryFolder());
    const archive = join(await temporaryFolder(), "image.tar");
    const released = `${job.host}/release/app:1`;
    await skopeo("copy", "--quiet", layout.reference("image"), `docker-archive:${archive}:${released}`);
    await docker("load", "--input", archive);
    const [, digest] = /digest: (sha256:[a-f0-9]{64})/.exec(await docker("push", released)) ?? [];
    expect(digest).toBeDefined();
    expect(await get(`${job.origin}/v2/release/app/manifests/1`)).toMatchObject({ status: 200, digest, bodyDigest: digest });

    // A second repository gets its layers by mounts.
    await docker("tag", released, `${job.host}/prerelease/other:1`);
    expect(await docker("push", `${job.host}/prerelease/other:1`)).toMatch(/Mounted from release\/app/);
    const mounts = mountsIn(job, "prerelease/other", "release/app");
    expect(mounts).toHaveLength(image.layers.length);
    for (const line of mounts) expect(line).toMatch(/ 201 /);
    await docker("rmi", "--force", released, `${job.host}/prerelease/other:1`);

    const repository = `${job.host}/prerelease/app`;
    for (const name of [`${repository}:1`, `${repository}@${digest}`]) {
      await docker("pull", name);
      const [seen]: { RepoDigests: string[]; RootFS: { Layers: string[] } }[] = JSON.parse(await docker("image", "inspect", name));
      expect(seen?.RepoDigests).toEqual([`${repository}@${digest}`]);
      expect(seen?.RootFS.Layers).toHaveLength(image.layers.length);
      await docker("rmi", name);
    }
    await expect(docker("pull", `${repository}:absent`)).rejects.toThrow(/not found|manifest unknown/);
  });
});

requires(
  "dockerd",
  "docker",
  "containerd",
  "skopeo",
  "docker-registry",
)("docker's registry-mirrors", () => {
  test("asks for Docker Hub's names at the root, and gets its platform of an index from the cache", async () => {
    const upstream = await dockerRegistry();
    const { layout, index } = await sampleLayout(await temporaryFolder());
    await skopeoCopy(layout.reference("index"), `docker://${upstream.host}/library/both:1`);
    const job = await startMainJob({ upstream: upstream.origin });
    const docker = await dockerEngine({ "registry-mirrors": [job.origin] });
    expect(await docker("pull", "both:1")).toContain(index.digest);
    expect(job.process.output).toMatch(/GET \/v2\/library\/both\/manifests\/\S+ 200 fallback>hub /);
  });
});
