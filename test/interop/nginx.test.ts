import { createHash, randomBytes } from "node:crypto";
import { readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { skopeo, skopeoCopy } from "./clients.js";
import { get, startUpload, uploadUrl, withDigest } from "./http.js";
import { digestInLayout, sampleLayout } from "./layouts.js";
import { type MainJob, startMainJob } from "./main-job.js";
import { freePort, RunningProcess, temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

const example = new URL("../../examples/nginx.conf", import.meta.url);

/** nginx with the example's configuration, but on a free port and in front of `job`. */
async function nginxBefore(job: MainJob): Promise<{ host: string; process: RunningProcess }> {
  const port = await freePort();
  const host = `127.0.0.1:${port}`;
  const folder = await temporaryFolder();
  let settings = await readFile(example, "utf8");
  for (const [fixed, free] of Object.entries({ "127.0.0.1:8080": host, "127.0.0.1:5000": job.host })) {
    if (!settings.includes(`${fixed};`)) throw new Error(`examples/nginx.conf does not have ${fixed}`);
    settings = settings.replaceAll(`${fixed};`, `${free};`);
  }
  const config = join(folder, "nginx.conf");
  await writeFile(config, settings);
  const process = new RunningProcess("nginx", ["-p", folder, "-c", config, "-e", "stderr"]);
  await process.listening(port);
  return { host, process };
}

async function bytesIn(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true });
  const sizes = entries.map(async (name) => {
    // Files come and go while they are counted.
    const found = await stat(join(folder, name)).catch(() => undefined);
    return found?.isFile() ? found.size : 0;
  });
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

requires("nginx", "skopeo")("the main job behind nginx", () => {
  let job: MainJob;
  let host: string;
  let nginx: RunningProcess;

  beforeAll(async () => {
    job = await startMainJob();
    ({ host, process: nginx } = await nginxBefore(job));
  });

  // What nginx says of a body that it writes to its disk, in either direction.
  const buffered = () => nginx.output.match(/.*buffered to a temporary file.*/g);

  test("takes what skopeo pushes, and gives it back", async () => {
    const { layout, image, index } = await sampleLayout(await temporaryFolder());
    await skopeoCopy(layout.reference("image"), `docker://${host}/release/proxied/app:image`);
    await skopeoCopy(layout.reference("index"), `docker://${host}/prerelease/proxied/app:index`);
    const tags: { Tags: string[] } = JSON.parse(await skopeo("list-tags", "--tls-verify=false", `docker://${host}/prerelease/proxied/app`));
    expect(tags.Tags).toEqual(["image", "index"]);
    for (const [tag, digest] of [
      ["image", image.digest],
      ["index", index.digest],
    ]) {
      const folder = join(await temporaryFolder(), "pulled");
      await skopeoCopy(`docker://${host}/prerelease/proxied/app:${tag}`, `oci:${folder}:pulled`);
      expect(await digestInLayout(folder)).toBe(digest);
    }
    expect(buffered()).toBeNull();
  });

  test("hands a blob of 200 MB on while it arrives, without a file of its own", async () => {
    const origin = `http://${host}`;
    const part = randomBytes(1_000_000);
    const size = 200 * part.byteLength;
    const hash = createHash("sha256");
    async function* parts(): AsyncGenerator<Uint8Array> {
      for (let sent = 0; sent < size; sent += part.byteLength) {
        // Half of it must have reached the registry before the client sends the rest.
        if (sent === size / 2) await job.process.until(async () => (await bytesIn(job.data)) > size * 0.45, "was handed the first half");
        part.writeUInt32BE(sent);
        hash.update(part);
        yield Buffer.from(part);
      }
    }
    const begun = await startUpload(origin, "release/proxied/large");
    // A body whose length is not known is sent in chunks.
    const patched = await fetch(begun, { method: "PATCH", body: parts(), duplex: "half" });
    expect(patched.headers.get("range")).toBe(`0-${size - 1}`);
    const digest = `sha256:${hash.digest("hex")}`;
    const upload = withDigest(uploadUrl(origin, patched, 202), digest);
    expect(uploadUrl(origin, await fetch(upload, { method: "PUT" }), 201)).toContain(digest);
    const pulled = await get(`${origin}/v2/prerelease/proxied/large/blobs/${digest}`);
    expect(pulled).toMatchObject({ status: 200, digest, bodyDigest: digest });
    expect(pulled.headers.get("content-length")).toBe(String(size));
    expect(buffered()).toBeNull();
  });
});
