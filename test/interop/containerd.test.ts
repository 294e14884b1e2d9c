import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { containerd, dockerRegistry, type RunClient, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { type Layout, sampleLayout } from "./layouts.js";
import { type MainJob, mountsIn, startMainJob } from "./main-job.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

const options = ["--snapshotter", "native", "--platform", "linux/arm64"];

requires(
  "containerd",
  "ctr",
  "skopeo",
)("containerd", () => {
  let job: MainJob;
  let ctr: RunClient;
  let layout: Layout;
  let index: { digest: string };

  beforeAll(async () => {
    job = await startMainJob();
    ctr = await containerd();
    ({ layout, index } = await sampleLayout(await temporaryFolder()));
    await skopeoCopy(layout.reference("index"), `docker://${job.host}/release/both:1`);
  });

  test("pulls an index through prerelease by tag and by digest", async () => {
    for (const name of [`${job.host}/prerelease/both:1`, `${job.host}/prerelease/both@${index.digest}`]) {
      await ctr("images", "pull", "--plain-http", ...options, name);
      expect(await ctr("images", "list", `name==${name}`)).toContain(index.digest);
    }
  });

  test("pushes an index, its layers by mounts from where they were pulled, and pulls it again", async () => {
    const [from, to] = [`${job.host}/release/both:1`, `${job.host}/prerelease/pushed/both:2`];
    await ctr("images", "pull", "--plain-http", "--snapshotter", "native", "--all-platforms", from);
    await ctr("images", "tag", from, to);
    await ctr("images", "push", "--plain-http", to);
    const mounts = mountsIn(job, "prerelease/pushed/both", "release/both");
    expect(mounts.length).toBeGreaterThan(0);
    for (const line of mounts) expect(line).toMatch(/ 201 /);
    const pushed = await get(`${job.origin}/v2/prerelease/pushed/both/manifests/2`);
    expect(pushed).toMatchObject({ status: 200, digest: index.digest, bodyDigest: index.digest });
    await ctr("images", "remove", "--sync", from, to);
    await ctr("images", "pull", "--plain-http", ...options, to);
  });
});

requires(
  "containerd",
  "ctr",
  "skopeo",
  "docker-registry",
)("containerd's mirror of docker.io", () => {
  test("asks the root with ?ns=docker.io, behind which one Manifold caches another", async () => {
    const upstream = await dockerRegistry();
    const { layout, index } = await sampleLayout(await temporaryFolder());
    await skopeoCopy(layout.reference("index"), `docker://${upstream.host}/library/both:1`);
    const nearer = await startMainJob({ upstream: upstream.origin });
    const job = await startMainJob({ upstream: nearer.origin });
    const ctr = await containerd();

    const hosts = await temporaryFolder();
    await mkdir(join(hosts, "docker.io"));
    // A server that refuses connections: what the mirror lacks fails instead of leaving this machine.
    await writeFile(
      join(hosts, "docker.io/hosts.toml"),
      `server = "http://127.0.0.1:1"\n\n[host."${job.origin}"]\n  capabilities = ["pull", "resolve"]\n`,
    );
    const mirrored = ["--hosts-dir", hosts, ...options];
    await ctr("images", "pull", ...mirrored, "docker.io/library/both:1");
    expect(await ctr("images", "list", "name==docker.io/library/both:1")).toContain(index.digest);
    expect(job.process.output).toMatch(/GET \/v2\/library\/both\/blobs\/\S+\?ns=docker\.io 200 /);
    expect(nearer.process.output).toMatch(/GET \/v2\/library\/both\/manifests\/\S+ 200 /);
    await expect(ctr("images", "pull", ...mirrored, "docker.io/library/absent:1")).rejects.toThrow(/not found|refused/);

    // Both registries behind it may be gone now.
    await Promise.all([upstream.process.stop(), nearer.process.stop()]);
    await ctr("images", "remove", "--sync", "docker.io/library/both:1");
    await ctr("images", "pull", ...mirrored, "docker.io/library/both:1");
  });
});
