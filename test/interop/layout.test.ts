import { randomBytes } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Registry, remoteRegistry } from "oci-manifold";
import { exportLayout, importLayout } from "oci-manifold/layout";
import { beforeAll, expect, test } from "vitest";
import { local } from "../layout/support.js";
import { rejection } from "../maintenance/support.js";
import { containerd, dockerEngine, podmanAndBuildah, type RunClient, skopeo, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { digestInLayout, type Sample, sampleLayout } from "./layouts.js";
import { type MainJob, startMainJob } from "./main-job.js";
import { run, temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

let job: MainJob;
let running: Registry;
let sample: Sample;

beforeAll(async () => {
  job = await startMainJob();
  running = remoteRegistry(job.origin, { readOnly: false });
  sample = await sampleLayout(await temporaryFolder());
});

const digestAt = async (repository: string, tag: string) => (await get(`${job.origin}/v2/${repository}/manifests/${tag}`)).digest;

requires("skopeo")("what skopeo writes", () => {
  test.each(["oci", "oci-archive"])("by %s: is imported over HTTP and pulled by skopeo", async (transport) => {
    const path = join(await temporaryFolder(), transport === "oci" ? "layout" : "layout.tar");
    for (const tag of ["image", "index"]) {
      // An archive holds what one copy wrote.
      const place = transport === "oci" ? path : `${path}-${tag}`;
      await skopeoCopy(sample.layout.reference(tag), `${transport}:${place}:${tag}`);
      const repository = `release/${transport}/${tag}`;
      const { images } = await importLayout(running, place, { repository, references: [tag] });
      const { digest } = tag === "image" ? sample.image : sample.index;
      expect(images).toEqual([{ repository, tag, digest }]);
      expect(await digestAt(repository, tag)).toBe(digest);
      await skopeoCopy(`docker://${job.host}/${repository}:${tag}`, `dir:${join(await temporaryFolder(), "pulled")}`);
    }
  });

  test("without a name: goes in by digest, or by the tag that is wished for", async () => {
    const path = join(await temporaryFolder(), "layout");
    await skopeoCopy(sample.layout.reference("image"), `oci:${path}`);
    expect((await importLayout(running, path, { repository: "release/unnamed" })).images).toEqual([
      { repository: "release/unnamed", digest: sample.image.digest },
    ]);
    await importLayout(running, path, { repository: "release/unnamed", tag: "v1" });
    expect(await digestAt("release/unnamed", "v1")).toBe(sample.image.digest);
  });

  test("of one platform only, without --all, is an image", async () => {
    const path = join(await temporaryFolder(), "layout.tar");
    await skopeo(
      "--override-arch",
      "arm64",
      "copy",
      "--quiet",
      "--preserve-digests",
      sample.layout.reference("index"),
      `oci-archive:${path}:arm`,
    );
    const { images } = await importLayout(running, path, { repository: "release/one" });
    expect(images).toEqual([{ repository: "release/one", tag: "arm", digest: sample.platforms[1].digest }]);
  });

  test("as docker-archive is refused, and converted as the message says", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "docker.tar");
    await skopeo("copy", "--quiet", sample.layout.reference("image"), `docker-archive:${path}:team/app:1.0`);
    expect(await rejection(importLayout(running, path, { repository: "release/docker" }))).toMatchObject({
      code: "UNSUPPORTED",
      message: expect.stringContaining("skopeo copy docker-archive:<file> oci-archive:<new file>:<tag>"),
    });
    await skopeo("copy", "--quiet", `docker-archive:${path}`, `oci-archive:${path}.oci:1.0`);
    expect((await importLayout(running, `${path}.oci`, { repository: "release/docker" })).images).toMatchObject([{ tag: "1.0" }]);
  });
});

requires("skopeo")("what is exported", () => {
  test.each(["oci", "oci-archive"])("is read by skopeo as %s", async (transport) => {
    const source = `release/out/${transport}`;
    for (const tag of ["image", "index"]) await skopeoCopy(sample.layout.reference(tag), `docker://${job.host}/${source}:${tag}`);
    const path = join(await temporaryFolder(), transport === "oci" ? "layout" : "layout.tar");
    expect((await exportLayout(running, path, { repository: source })).images).toEqual([
      { tag: "image", digest: sample.image.digest },
      { tag: "index", digest: sample.index.digest },
    ]);
    const inspected: { Digest: string; Layers: string[] } = JSON.parse(await skopeo("inspect", `${transport}:${path}:image`));
    expect([inspected.Digest, inspected.Layers]).toEqual([sample.image.digest, sample.image.layers.map(({ digest }) => digest)]);
    for (const [tag, digest] of [
      ["image", sample.image.digest],
      ["index", sample.index.digest],
    ] as const) {
      await skopeoCopy(`${transport}:${path}:${tag}`, `docker://${job.host}/release/back/${transport}:${tag}`);
      expect(await digestAt(`release/back/${transport}`, tag)).toBe(digest);
    }
    // And what skopeo adds to the folder stays when more is exported.
    if (transport === "oci") {
      await skopeoCopy(sample.layout.reference("image"), `oci:${path}:theirs`);
      await exportLayout(running, path, { repository: source, references: ["index"] });
      const { images } = await importLayout(local("copy"), path, { repository: "app" });
      expect(images.map(({ tag }) => tag).sort()).toEqual(["image", "index", "theirs"]);
    }
  });

  test("of one platform is a layout that skopeo copies for that platform", async () => {
    await skopeoCopy(sample.layout.reference("index"), `docker://${job.host}/release/some:1`);
    const path = join(await temporaryFolder(), "layout");
    expect((await exportLayout(running, path, { repository: "release/some", platforms: ["linux/arm64"] })).sparse).toBe(true);
    const folder = join(await temporaryFolder(), "arm");
    await skopeo("--override-arch", "arm64", "copy", "--quiet", "--preserve-digests", `oci:${path}:1`, `oci:${folder}:1`);
    expect(await digestInLayout(folder)).toBe(sample.platforms[1].digest);
  });
});

requires("umoci", "skopeo")("umoci", () => {
  test("changes what was exported, and unpacks it; what it wrote is imported", async () => {
    await skopeoCopy(sample.layout.reference("image"), `docker://${job.host}/release/umoci:1`);
    const folder = await temporaryFolder();
    const path = join(folder, "layout");
    await exportLayout(running, path, { repository: "release/umoci" });
    await run("umoci", ["unpack", "--image", `${path}:1`, join(folder, "bundle")]);
    expect((await readFile(join(folder, "bundle/rootfs/layer-1"))).byteLength).toBe(3_000_000);
    await writeFile(join(folder, "bundle/rootfs/added"), randomBytes(10));
    await run("umoci", ["repack", "--image", `${path}:2`, join(folder, "bundle")]);
    await run("umoci", ["new", "--image", `${path}:empty`]);
    await importLayout(running, path, { repository: "release/umoci" });
    await mkdir(join(folder, "again"));
    await skopeoCopy(`docker://${job.host}/release/umoci:2`, `oci:${join(folder, "again")}:2`);
    await run("umoci", ["unpack", "--image", `${join(folder, "again")}:2`, join(folder, "other")]);
    expect(await readFile(join(folder, "other/rootfs/added"))).toEqual(await readFile(join(folder, "bundle/rootfs/added")));
    expect(await digestAt("release/umoci", "empty")).not.toBe(null);
  });
});

requires(
  "podman",
  "buildah",
  "skopeo",
)("podman and buildah", () => {
  let podman: RunClient;
  let buildah: RunClient;

  beforeAll(async () => {
    ({ podman, buildah } = await podmanAndBuildah());
  });

  test("podman saves what is imported, and loads what is exported", async () => {
    const folder = await temporaryFolder();
    const id = (await podman("pull", "--quiet", sample.layout.reference("image"))).trim();
    await podman("tag", id, "registry.example/team/app:1.0");
    for (const [format, path] of [
      ["oci-archive", join(folder, "saved.tar")],
      ["oci-dir", join(folder, "saved")],
    ] as const) {
      await podman("save", "--quiet", "--format", format, "-o", path, "registry.example/team/app:1.0");
      const rename = ({ repository = "none" }) => ({ repository: `release/${format}/${repository}` });
      const { images } = await importLayout(running, path, { rename });
      expect(images).toMatchObject([{ repository: `release/${format}/team/app`, tag: "1.0" }]);
      await podman("pull", "--quiet", "--tls-verify=false", `${job.host}/release/${format}/team/app:1.0`);
    }
    await podman("rmi", "--all", "--force");
    const out = join(folder, "out.tar");
    await exportLayout(running, out, { repository: "release/oci-archive/team/app", references: ["1.0"] });
    await podman("load", "--quiet", "-i", out);
    const [loaded]: { Id: string }[] = JSON.parse(await podman("image", "inspect", (await podman("images", "-q")).trim()));
    expect(loaded?.Id).toBe(id);
  });

  test("buildah pushes an image and a manifest list into layouts", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "file"), randomBytes(1000));
    await buildah("manifest", "create", "localhost/both:1");
    for (const architecture of ["amd64", "arm64"]) {
      const container = (await buildah("from", "--arch", architecture, "--pull-never", "scratch")).trim();
      await buildah("copy", container, join(folder, "file"), "/file");
      await buildah("commit", "--quiet", "--rm", container, `localhost/${architecture}:1`);
      await buildah("manifest", "add", "localhost/both:1", `localhost/${architecture}:1`);
    }
    await buildah("push", "--quiet", "localhost/amd64:1", `oci:${join(folder, "layout")}:one`);
    await buildah("manifest", "push", "--all", "--quiet", "localhost/both:1", `oci-archive:${join(folder, "both.tar")}:both`);
    await importLayout(running, join(folder, "layout"), { repository: "release/built" });
    await importLayout(running, join(folder, "both.tar"), { repository: "release/built" });
    await buildah("rmi", "--all", "--force");
    for (const tag of ["one", "both"]) await buildah("pull", "--quiet", "--tls-verify=false", `${job.host}/release/built:${tag}`);
  });
});

requires(
  "docker",
  "dockerd",
  "containerd",
  "skopeo",
)("docker", () => {
  test("loads an export, with all its tags", async () => {
    const docker = await dockerEngine();
    for (const tag of ["1", "2"]) await skopeoCopy(sample.layout.reference("image"), `docker://${job.host}/release/loaded:${tag}`);
    const out = join(await temporaryFolder(), "out.tar");
    await exportLayout(running, out, { repository: "release/loaded" });
    await docker("load", "-i", out);
    const images = (await docker("images", "--format", "{{.Repository}}:{{.Tag}}")).split("\n");
    expect(images).toEqual(expect.arrayContaining(["release/loaded:1", "release/loaded:2"]));
  });

  test("save writes a layout since version 25, of several names too; an older one is refused", async () => {
    const docker = await dockerEngine();
    const folder = await temporaryFolder();
    const published = `${job.host}/release/docker`;
    await skopeoCopy(sample.layout.reference("image"), `docker://${published}:1`);
    await docker("pull", "--quiet", `${published}:1`);
    await docker("tag", `${published}:1`, "team/app:1.0");
    const path = join(folder, "saved.tar");
    await docker("save", "-o", path, `${published}:1`, "team/app:1.0");
    const copy = local("copy");
    const imported = () => importLayout(copy, path, { rename: ({ repository = "none" }) => ({ repository }) });
    if (Number.parseInt(await docker("version", "--format", "{{.Server.Version}}"), 10) < 25) {
      expect(await rejection(imported())).toMatchObject({
        code: "UNSUPPORTED",
        message: expect.stringContaining("skopeo copy docker-archive:"),
      });
      return;
    }
    expect((await imported()).images.map(({ repository, tag }) => `${repository}:${tag}`).sort()).toEqual([
      "release/docker:1",
      "team/app:1.0",
    ]);
    const out = join(folder, "out.tar");
    await exportLayout(copy, out, { repository: "team/app" });
    expect(await docker("load", "-i", out)).toContain("Loaded image");
  });
});

requires(
  "ctr",
  "containerd",
  "skopeo",
)("containerd", () => {
  test("exports what is imported by its whole name, and imports what is exported", async () => {
    const ctr = await containerd();
    const folder = await temporaryFolder();
    const copy = local("copy");
    await skopeoCopy(sample.layout.reference("index"), `docker://${job.host}/release/containerd:1`);
    await ctr("images", "pull", "--plain-http", "--all-platforms", `${job.host}/release/containerd:1`);
    const path = join(folder, "exported.tar");
    await ctr("images", "export", "--all-platforms", path, `${job.host}/release/containerd:1`);
    const { images } = await importLayout(copy, path, { rename: ({ repository = "none" }) => ({ repository }) });
    expect(images).toEqual([{ repository: "release/containerd", tag: "1", digest: sample.index.digest }]);
    const out = join(folder, "out.tar");
    await exportLayout(copy, out, { repository: "release/containerd" });
    expect(await ctr("images", "import", "--all-platforms", "--base-name", "again/app", out)).toContain("again/app:1");
    expect(await ctr("images", "ls", "name==again/app:1")).toContain(sample.index.digest);
  });
});
