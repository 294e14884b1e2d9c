/**
 * oras 1.2 to 1.3 (oras-go 2.5 to 2.6): push, attach, discover with and without a type, pull with a seek, tag, cp by mounts with the referrers, repo tags
 * and ls, manifest delete, which fetches the manifest and probes the referrers of the zero digest, and blob delete.
 */
import { randomBytes } from "node:crypto";
import type { Descriptor } from "oci-manifold";
import { type Place, RecordedClient } from "./client.js";
import { type Content, content, descriptor, emptyType, holds, type Image, manifest, sameReferrers } from "./content.js";
import { OrasGo } from "./oras-go.js";

const sbomType = "application/vnd.example.sbom";
const reportType = "application/vnd.example.report";

/** What `oras push` and `oras attach` pack: an empty config, the type beside it, a title for each file. */
function artifact(artifactType: string, subject?: Descriptor): Image {
  const file = content("application/vnd.oci.image.layer.v1.tar", randomBytes(70_000));
  const more = {
    artifactType,
    layers: [descriptor(file, { annotations: { "org.opencontainers.image.title": "file.bin" } })],
    annotations: { "org.opencontainers.image.created": "2024-01-01T00:00:00Z" },
    ...(subject && { subject: descriptor(subject) }),
  };
  return manifest(content(emptyType, "{}"), [file], more);
}

export async function oras({ origin, repository }: Place): Promise<void> {
  const client = new RecordedClient(origin, { "user-agent": "oras/1.3.3" });
  const repo = new OrasGo(client, repository);
  const pushed = artifact("application/vnd.example.thing");
  const [file] = pushed.blobs;
  if (file === undefined) throw new Error("no file");
  await repo.push("v1", pushed);

  const attached = [sbomType, reportType].map((type) => artifact(type, pushed.manifest));
  const manifests = attached.map((image) => image.manifest);
  for (const image of attached) await attach(repo, image, pushed.manifest.digest);
  await discover(repo, pushed.manifest, manifests);

  holds(await repo.fetchReference("v1"), pushed.manifest);
  await repo.fetchBlob(file, 30_000);
  holds(await repo.fetchReference("v1"), pushed.manifest);
  await repo.pushManifest("v2", pushed.manifest);

  await copy(repo, new OrasGo(client, `${repository}/copy`), [pushed, ...attached]);
  if ((await repo.tags()).join() !== "v1,v2") throw new Error("repo tags");
  const repositories = (await client.send("GET", "/v2/_catalog")).is(200).strings("repositories");
  if (!repositories.includes(repository)) throw new Error(`repo ls lacks ${repository}`);
  await remove(repo, pushed, manifests);
  client.close();
}

async function attach(repo: OrasGo, image: Image, subject: string): Promise<void> {
  if ((await repo.resolve("v1"))?.digest !== subject) throw new Error("resolved something else");
  // Without the header it would write a fallback tag.
  (await repo.push(image.manifest.digest, image)).has("oci-subject", subject);
}

async function discover(repo: OrasGo, { digest }: Content, attached: readonly Content[]): Promise<void> {
  const all = sameReferrers(await repo.referrers(digest), ...attached);
  if (!all.every(({ artifactType }) => artifactType === sbomType || artifactType === reportType)) throw new Error("no artifactType");
  sameReferrers(await repo.referrers(digest, sbomType), ...attached.slice(0, 1));
  sameReferrers(await repo.referrers(digest, "application/vnd.example.none"));
}

/** `oras cp --recursive`: a graph by its referrers, each node from its leaves on. */
async function copy(from: OrasGo, to: OrasGo, images: readonly Image[]): Promise<void> {
  for (const { manifest, blobs } of images) {
    await from.referrers(manifest.digest);
    if ((await to.resolve(manifest.digest)) !== undefined) throw new Error(`${to.repository} has it already`);
    await from.fetch(manifest);
    for (const blob of blobs) if (!(await to.blobExists(blob))) await to.mount(blob, from.repository);
    await to.pushManifest(manifest.digest, manifest);
  }
  const [subject, ...referrers] = images.map(({ manifest }) => manifest);
  if (subject === undefined) return;
  await to.pushManifest("v1", subject);
  sameReferrers(await to.referrers(subject.digest), ...referrers);
}

async function remove(repo: OrasGo, pushed: Image, [sbom, report]: readonly Content[]): Promise<void> {
  if (sbom === undefined || report === undefined) throw new Error("nothing attached");
  await repo.resolve(sbom.digest);
  await repo.fetch(sbom);
  await repo.probeReferrers();
  await repo.delete("manifests", sbom.digest);
  sameReferrers(await repo.referrers(pushed.manifest.digest), report);

  const [file] = pushed.blobs;
  await repo.fetch(pushed.manifest);
  await repo.delete("manifests", pushed.manifest.digest);
  if ((await repo.resolve("v1")) !== undefined || (await repo.tags()).length > 0) throw new Error("tags outlived their manifest");
  if (file === undefined || !(await repo.blobExists(file))) throw new Error("the blob went with its manifest");
  await repo.delete("blobs", file.digest);
  if (await repo.blobExists(file)) throw new Error("the blob was deleted");
}
