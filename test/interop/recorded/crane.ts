/**
 * crane 0.19 to 0.21 (google/go-containerregistry): push, digest, manifest, pull, tag, copy within a registry by mounts with `origin`, an index by its
 * children's digests first, append from a pipe, ls and catalog with `n=1000` and Link, delete, and which errors it would try again.
 */
import { type Answer, type Place, RecordedClient } from "./client.js";
import { type Content, content, descriptor, gzipLayer, holds, type Image, image, indexOf, layer } from "./content.js";
import { GoContainerRegistry } from "./go-containerregistry.js";

/** What makes it send a request again, three times in all. */
const retriedCodes = ["BLOB_UPLOAD_INVALID", "TOOMANYREQUESTS", "UNKNOWN", "UNAVAILABLE"];
const userAgent = "crane/v0.21.9 go-containerregistry/v0.21.9";

export async function crane({ origin, repository }: Place): Promise<void> {
  const client = new RecordedClient(origin, { "user-agent": userAgent });
  const repo = new GoContainerRegistry(client, repository);
  const pushed = image();
  await pushAndPull(repo, pushed);
  await copy(repo, new GoContainerRegistry(client, `${repository}/copy`), pushed);
  await copyIndex(repo);
  await append(repo);
  await list(repo, pushed.manifest);
  await remove(repo, pushed.manifest);
  client.close();
}

async function pushAndPull(repo: GoContainerRegistry, pushed: Image): Promise<void> {
  await repo.ping();
  if ((await repo.push("v1", pushed)).join() !== "pushed,pushed,pushed") throw new Error("found before it was pushed");
  if ((await repo.push("v1", pushed)).length > 0) throw new Error("HEAD of the tag does not tell that its manifest is there");
  const got = (await repo.getManifest("v1")).is(200).has("content-type", pushed.manifest.mediaType);
  holds(got, pushed.manifest);
  holds((await repo.getManifest(pushed.manifest.digest)).is(200), pushed.manifest);
  await Promise.all(pushed.blobs.map((blob) => repo.getBlob(blob)));
  await repo.put("v2", pushed.manifest);
}

async function copy(from: GoContainerRegistry, to: GoContainerRegistry, copied: Image): Promise<void> {
  (await from.getManifest("v1")).is(200);
  const uploaded = await to.push("v1", copied, from.repository);
  if (uploaded.some((how) => how !== "mounted")) throw new Error(`${uploaded} instead of mounted from ${from.repository}`);
  await Promise.all(copied.blobs.map((blob) => to.getBlob(blob)));
}

async function copyIndex(repo: GoContainerRegistry): Promise<void> {
  const platforms = ["amd64", "arm64"].map((architecture) => image(architecture));
  const index = indexOf(
    platforms.map(({ manifest }, at) => descriptor(manifest, { platform: { os: "linux", architecture: at ? "arm64" : "amd64" } })),
  );
  await repo.headManifest("index");
  await Promise.all(platforms.map((platform) => repo.push(platform.manifest.digest, platform)));
  await repo.put("index", index);
  holds((await repo.getManifest("index")).is(200).has("content-type", index.mediaType), index);
}

async function append(repo: GoContainerRegistry): Promise<void> {
  await repo.uploadStream(layer(300_000));
  // A digest that does not match would be sent three times if the answer were one that may pass.
  const bytes = content(gzipLayer, "not what the digest says");
  const refused = await repo.tryCommit(await repo.beginAndPatch(bytes), layer().digest);
  if (retriedCodes.includes(refused.is(400).errorCode)) refused.fail("crane would send it all again");
}

async function list(repo: GoContainerRegistry, manifest: Content): Promise<void> {
  const { client, repository } = repo;
  const names = Array.from({ length: 1000 }, (_, at) => `many-${String(at).padStart(4, "0")}`);
  for (let at = 0; at < names.length; at += 20) await Promise.all(names.slice(at, at + 20).map((name) => repo.put(name, manifest)));
  const expected = ["index", ...names, "v1", "v2"].sort().join();
  const pages = await all(client, `/v2/${repository}/tags/list?n=1000`, "tags");
  if (pages.flat().join() !== expected || pages.length !== 2)
    throw new Error(`${repository} lists ${pages.map((page) => page.length)} tags`);

  const repositories = (await all(client, "/v2/_catalog?n=1000", "repositories")).flat();
  for (const name of [repository, `${repository}/copy`]) if (!repositories.includes(name)) throw new Error(`the catalog lacks ${name}`);
}

async function all(client: RecordedClient, first: string, name: string): Promise<string[][]> {
  const pages: string[][] = [];
  for (let next: string | URL | undefined = first; next !== undefined; ) {
    const answer: Answer = (await client.send("GET", next)).is(200);
    pages.push(answer.strings(name));
    next = answer.next;
  }
  return pages;
}

async function remove(repo: GoContainerRegistry, { digest }: Content): Promise<void> {
  (await repo.delete("v2")).is(200, 202);
  if ((await repo.headManifest("v2")) !== undefined) throw new Error("v2 was deleted");
  if ((await repo.headManifest("v1")) === undefined) throw new Error("v1 was not deleted");
  (await repo.delete(digest)).is(200, 202);
  if ((await repo.headManifest("v1")) !== undefined) throw new Error("v1 went with its digest");
  const absent = (await repo.getManifest("v1")).is(404);
  if (absent.errorCode !== "MANIFEST_UNKNOWN") absent.fail("expected MANIFEST_UNKNOWN");
}
