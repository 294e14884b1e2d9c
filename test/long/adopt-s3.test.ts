import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { allPages, type Descriptor, type LocalRegistry, localRegistry, orThrow } from "oci-manifold";
import { type AdoptOptions, type AdoptReport, adoptDistribution } from "oci-manifold/migrate";
import { memoryMetadataStore } from "oci-manifold/storage/memory";
import { distributionBucket, type S3ClientLike, s3BlobStore } from "oci-manifold/storage/s3";
import { beforeAll, describe, expect, test } from "vitest";
import { DistributionTree, dataPath } from "../fixtures/distribution.js";
import { makeImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { skopeoCopy } from "../interop/clients.js";
import { get } from "../interop/http.js";
import { Layout, type LayoutImage } from "../interop/layouts.js";
import { freePort, RunningProcess, temporaryFolder } from "../interop/processes.js";
import { requires } from "../interop/requires.js";
import { clientFor, createBucket, keys, leftoversIn, type S3Server, sdk, startS3 } from "./s3-server.js";

/** What is asked of the service, as "GetObject key". */
function watched(client: S3ClientLike): { client: S3ClientLike; asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    client: {
      send(command: never, options) {
        const { constructor: kind, input } = command as { constructor: { name: string }; input: { Key?: string } };
        asked.push(`${kind.name.replace("Command", "")} ${input.Key}`);
        return client.send(command, options);
      },
    },
  };
}

async function dockerRegistryOverS3(server: S3Server, bucket: string, rootdirectory: string): Promise<{ host: string; origin: string }> {
  const config = join(await temporaryFolder(), "config.yml");
  const port = await freePort();
  const s3 = {
    ...{ accesskey: keys.accessKeyId, secretkey: keys.secretAccessKey, region: "us-east-1", regionendpoint: server.endpoint, bucket },
    ...{ rootdirectory, secure: false, v4auth: true, pathstyle: true },
  };
  const settings = {
    version: "0.1",
    storage: { s3, delete: { enabled: true }, redirect: { disable: true } },
    http: { addr: `127.0.0.1:${port}` },
    health: { storagedriver: { enabled: false } },
  };
  await writeFile(config, JSON.stringify(settings));
  // Its driver takes an authority of the environment for its only one, and wants it as a file that it can read.
  const process = new RunningProcess("env", ["-u", "AWS_CA_BUNDLE", "docker-registry", "serve", config], { OTEL_TRACES_EXPORTER: "none" });
  await process.listening(port);
  return { host: `127.0.0.1:${port}`, origin: `http://127.0.0.1:${port}` };
}

requires(
  "skopeo",
  "docker-registry",
  "radosgw",
  "ceph-mon",
  "ceph-osd",
  "ceph",
)("the bucket of a docker-registry", () => {
  let server: S3Server;
  let client: Awaited<ReturnType<typeof clientFor>>;

  beforeAll(async () => {
    server = await startS3();
    client = await clientFor({ endpoint: server.endpoint, ...keys });
  });

  const everyKey = async (bucket: string) => {
    const { ListObjectsV2Command } = await sdk();
    const { Contents } = (await client.send(new ListObjectsV2Command({ Bucket: bucket } as never) as never)) as {
      Contents: { Key: string; ETag: string; LastModified: Date }[];
    };
    return Contents.map(({ Key, ETag, LastModified }) => `${Key} ${ETag} ${LastModified.toISOString()}`);
  };

  describe.each(["", "/old registry/production/"])("with the root directory %j", (rootdirectory) => {
    let bucket: string;
    let target: string;
    let old: { host: string; origin: string };
    let registry: LocalRegistry;
    let layout: Layout;
    let image: LayoutImage;
    let moved: LayoutImage;
    let index: Descriptor;

    const root = rootdirectory.replace(/^\/+|\/+$/g, "");
    const data = (digest: string) => `${root === "" ? "" : `${root}/`}${dataPath(digest)}`;
    const adopt = async (o: AdoptOptions = {}, into = registry): Promise<{ report: AdoptReport; asked: string[] }> => {
      const there = watched(client);
      const source = distributionBucket({ client: there.client, bucket, prefix: rootdirectory });
      return { report: await adoptDistribution(into, source, o), asked: there.asked };
    };
    const push = (tag: string, name: string) => skopeoCopy(layout.reference(tag), `docker://${old.host}/${name}`);
    const newRegistry = () => {
      const here = watched(client);
      const blobs = s3BlobStore({ client: here.client, bucket: target, prefix: "new" });
      return { registry: localRegistry({ storage: { blobs, metadata: memoryMetadataStore() }, name: "new" }), asked: here.asked };
    };

    beforeAll(async () => {
      [bucket, target] = [await createBucket(client), await createBucket(client)];
      old = await dockerRegistryOverS3(server, bucket, rootdirectory);
      layout = await Layout.create(await temporaryFolder());
      image = await layout.image("image", [200_000, 12_000_000, 1000]);
      moved = await layout.image("moved", [50_000]);
      index = await layout.index("index", [
        ["amd64", image],
        ["arm64", await layout.image(undefined, [400_000], "arm64")],
      ]);
      await push("image", "team/app:1.0");
      await push("index", "team/app:multi");
      await push("image", "team/app-x:same");
      await push("moved", "team/app:latest");
      await push("image", "team/app:latest");
      await push("image", "team:top");
    });

    test("sizes alone compared: blobs are copied by the service, and no layer is read", async () => {
      const before = await everyKey(bucket);
      const here = newRegistry();
      registry = here.registry;
      const { report, asked } = await adopt({ verify: "size" });
      expect(report).toMatchObject({ complete: true, repositories: 3, tags: 5, copied: 0, bytes: 0, skipped: [], incomplete: [] });
      expect(report.linked).toBe(8);
      expect(here.asked.filter((request) => request.startsWith("CopyObject"))).toHaveLength(8);
      expect(here.asked.filter((request) => /^(?:GetObject|PutObject|UploadPart) /.test(request))).toEqual([]);
      const manifests = new Set<string>();
      for (const name of ["team", "team/app", "team/app-x"])
        for await (const { digest } of allPages((page) => registry.listManifests(name, page))) manifests.add(data(digest));
      const readData = asked
        .filter((request) => request.startsWith("GetObject") && request.endsWith("/data"))
        .map((request) => request.slice(10));
      expect(readData.filter((key) => !manifests.has(key))).toEqual([]);
      // Listed and read, and nothing else.
      expect(asked.filter((request) => !/^(?:GetObject|HeadObject|ListObjectsV2) /.test(request))).toEqual([]);
      expect(await everyKey(bucket)).toEqual(before);

      expect(orThrow(await registry.resolveManifest("team/app", "multi")).digest).toBe(index.digest);
      for (const name of ["team", "team/app", "team/app-x"])
        for (const { digest } of [image.config, ...image.layers]) {
          const { bodyDigest } = await get(`${old.origin}/v2/${name}/blobs/${digest}`);
          expect(bodyDigest).toBe(digest);
          expect((await bytesOf(await registry.getBlob(name, digest))).byteLength).toBeGreaterThan(0);
        }
      expect(await leftoversIn(client, target)).toEqual([]);
    });

    test("a second run reads the tags alone, and takes what moved meanwhile", async () => {
      const again = await adopt();
      expect(again.report).toMatchObject({ complete: true, manifests: 0, tags: 0, linked: 0, bytes: 0 });
      expect(again.asked.filter((request) => request.startsWith("GetObject") && !request.endsWith("/current/link"))).toEqual([]);
      await push("moved", "team/app:latest");
      expect((await adopt()).report).toMatchObject({ complete: true, manifests: 0, tags: 1, linked: 0 });
      expect(orThrow(await registry.resolveManifest("team/app", "latest")).digest).toBe(moved.digest);
    });

    test("verified: every blob is read back once, and patterns and places to go on from hold", async () => {
      const here = newRegistry();
      const { report } = await adopt({ repositories: ["team/*"] }, here.registry);
      expect(report).toMatchObject({ complete: true, repositories: 2, linked: 8, copied: 0 });
      expect(report.bytes).toBeGreaterThan(12_000_000);
      expect(here.asked.filter((request) => request.startsWith("GetObject"))).toHaveLength(8);
      expect((await adopt({ after: "team/app-x" }, here.registry)).report.repositories).toBe(1);
      expect((await adopt({ after: "team" }, here.registry)).report.repositories).toBe(2);
    });
  });

  test("thousands of folders are listed page by page, in the order to go on in", async () => {
    const bucket = await createBucket(client);
    const { PutObjectCommand } = await sdk();
    const write = (Key: string, Body: Uint8Array) => client.send(new PutObjectCommand({ Bucket: bucket, Key, Body } as never) as never);
    const tree = new DistributionTree({ write, remove: async () => {} });
    const image = makeImage([10]);
    const names = Array.from({ length: 1050 }, (_, index) => `r${index}${index % 3 === 0 ? "-x" : ""}`);
    await tree.image("first", image, "1");
    for (let start = 0; start < names.length; start += 50)
      await Promise.all(names.slice(start, start + 50).map((name) => tree.tag("first", name, image.digest)));
    const source = distributionBucket({ client, bucket });
    for (const limit of [7, 1000]) {
      const seen: string[] = [];
      for await (const name of allPages((page) => source.list("repositories/first/_manifests/tags", page), limit)) seen.push(name);
      expect(seen).toEqual(
        ["1", ...names]
          .map((name) => `${name}/`)
          .sort()
          .map((name) => name.slice(0, -1)),
      );
    }
    const registry = localRegistry({
      storage: { blobs: s3BlobStore({ client, bucket, prefix: "new" }), metadata: memoryMetadataStore() },
      name: "new",
    });
    expect(await adoptDistribution(registry, source, { concurrency: 16 })).toMatchObject({ complete: true, tags: 1051 });
  });
});
