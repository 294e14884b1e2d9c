import { open, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { type AggregateRegistry, aggregate, localRegistry, remoteRegistry, type Storage } from "oci-manifold";
import { scrub } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { beforeAll, expect, test } from "vitest";
import { dockerRegistry, skopeoCopy } from "./clients.js";
import { get } from "./http.js";
import { digestInLayout, type Layout, type LayoutImage, sampleLayout } from "./layouts.js";
import { run, temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";
import { serve } from "./serve.js";

async function flipByteOf(folder: string, digest: string): Promise<void> {
  const hex = digest.slice("sha256:".length);
  const shard = join(folder, "blobs/sha256", hex.slice(0, 2));
  const [name] = (await readdir(shard)).filter((file) => file.startsWith(hex));
  const file = await open(join(shard, name ?? ""), "r+");
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, 100);
  byte[0] = (byte[0] ?? 0) ^ 0xff;
  await file.write(byte, 0, 1, 100);
  await file.close();
}

requires("skopeo", "docker-registry")("a byte that flips on the disk of a running registry", () => {
  let folder: string;
  let storage: Storage;
  let all: AggregateRegistry;
  let host: string;
  let image: LayoutImage;
  let layout: Layout;

  const pull = async () => {
    const to = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${host}/team/app:1`, `oci:${to}:1`);
    return digestInLayout(to);
  };
  const layer = () => image.layers[0]?.digest ?? "";

  beforeAll(async () => {
    const upstream = await dockerRegistry();
    ({ layout, image } = await sampleLayout(await temporaryFolder()));
    await skopeoCopy(layout.reference("image"), `docker://${upstream.host}/team/app:1`);
    folder = await temporaryFolder();
    storage = fileStorage(folder);
    const local = localRegistry({ storage, name: "local" });
    all = aggregate({ local, connectors: [{ name: "hub", source: remoteRegistry(upstream.origin) }] });
    host = await serve(all);
    await skopeoCopy(layout.reference("image"), `docker://${host}/team/app:1`);
    expect(await pull()).toBe(image.digest);
  });

  test("fails a pull; a scrub takes it out of use and heals it from the connector, and the pull is right", async () => {
    await flipByteOf(folder, layer());
    await expect(pull()).rejects.toThrow();
    const report = await scrub(storage, { rate: "1TiB", heal: [all] });
    expect(report).toMatchObject({ corrupt: [{ digest: layer() }], healed: 1, lost: [] });
    expect(await pull()).toBe(image.digest);
  });

  test("without an origin it is 404, and the next push of the image heals it", async () => {
    await all.setConnectors([]);
    const digest = image.layers[1]?.digest ?? "";
    await flipByteOf(folder, digest);
    const report = await scrub(storage, { rate: "1TiB", heal: [all] });
    expect(report).toMatchObject({
      corrupt: [{ digest }],
      healed: 0,
      lost: [{ repositories: [{ registry: "local", repository: "team/app" }] }],
    });
    expect(await get(`http://${host}/v2/team/app/blobs/${digest}`)).toMatchObject({ status: 404, errorCode: "BLOB_UNKNOWN" });
    await expect(pull()).rejects.toThrow();
    await skopeoCopy(layout.reference("image"), `docker://${host}/team/app:1`);
    expect(await pull()).toBe(image.digest);
  });
});

test("a script that does nothing else is kept alive through the sleeps of a scrub", async () => {
  const dist = (file: string) => pathToFileURL(fileURLToPath(new URL(`../../dist/${file}`, import.meta.url))).href;
  const folder = await temporaryFolder();
  const script = join(folder, "scrub.mjs");
  await writeFile(
    script,
    `import { localRegistry } from ${JSON.stringify(dist("index.js"))};
import { chunksOf, digestOf } from ${JSON.stringify(dist("extend.js"))};
import { scrub } from ${JSON.stringify(dist("maintenance/index.js"))};
import { fileStorage } from ${JSON.stringify(dist("storage/files/index.js"))};
const storage = fileStorage(${JSON.stringify(join(folder, "data"))});
const bytes = Buffer.alloc(300_000);
await localRegistry({ storage, name: "release" }).putBlob("app", { digest: digestOf(bytes) }, chunksOf(bytes));
const { checked } = await scrub(storage, { rate: "1MiB" });
console.log(\`checked \${checked}\`);
await storage.metadata.close();
`,
  );
  expect(await run(process.execPath, [script])).toBe("checked 1\n");
});
