/**
 * cosign 2.2 to 3.1 (google/go-containerregistry): signatures, attestations and SBOMs at the tags `sha256-<hex>.sig`, `.att` and `.sbom`, which are read,
 * added to and overwritten; from 2.5 on, bundles as referrers whose empty config names their type; verify by either; clean by deleting the tags.
 */
import { randomBytes } from "node:crypto";
import { type Place, RecordedClient } from "./client.js";
import { type Content, content, descriptor, emptyType, holds, type Image, image, imageConfig, manifest, sameReferrers } from "./content.js";
import { GoContainerRegistry } from "./go-containerregistry.js";

const signature = "application/vnd.dev.cosign.simplesigning.v1+json";
const bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
const attachments = { sig: signature, att: "application/vnd.dsse.envelope.v1+json", sbom: "text/spdx+json" };

export async function cosign({ origin, repository }: Place): Promise<void> {
  const userAgent = "cosign/v3.1.2 (linux; amd64) go-containerregistry/v0.21.9";
  const client = new RecordedClient(origin, { "user-agent": userAgent });
  const repo = new GoContainerRegistry(client, repository);
  const signed = image();
  await repo.ping();
  await repo.push("v1", signed);

  const tags = Object.entries(attachments).map(([suffix, type]) => ({
    tag: `${signed.manifest.digest.replace(":", "-")}.${suffix}`,
    type,
  }));
  for (const { tag, type } of tags) await sign(repo, signed.manifest, tag, type);
  const bundles = [await attachBundle(repo, signed.manifest), await attachBundle(repo, signed.manifest)];
  await verifyBundles(repo, signed.manifest, bundles);

  // Clean takes 404 for done.
  (await repo.getManifest("v1")).is(200).describes("v1");
  for (const { tag } of [...tags, ...tags]) (await repo.delete(tag)).is(200, 202, 404);
  for (const { tag } of tags) if ((await repo.headManifest(tag)) !== undefined) throw new Error(`${tag} was deleted`);
  for (const { manifest } of bundles) (await repo.delete(manifest.digest)).is(200, 202);
  sameReferrers(await repo.referrers(signed.manifest.digest));
  client.close();
}

/** Twice: what is there is read, added to, and overwritten. */
async function sign(repo: GoContainerRegistry, signed: Content, tag: string, type: string): Promise<void> {
  const layers: Content[] = [];
  for (const time of ["first", "second"]) {
    holds((await repo.getManifest("v1")).is(200), signed);
    const before = (await repo.getManifest(tag)).is(200, 404);
    if (before.status !== (layers.length > 0 ? 200 : 404)) before.fail(`unexpected before the ${time} signature`);
    for (const layer of layers) await repo.getBlob(layer);

    layers.push(content(type, { time, nonce: randomBytes(20).toString("hex") }));
    const all = manifest(content(imageConfig, { architecture: "", os: "", time, rootfs: { type: "layers" } }), layers);
    const [earliest] = await repo.push(tag, all);
    if (earliest !== (layers.length > 1 ? "existed" : "pushed")) throw new Error(`the ${time} time, the first signature ${earliest}`);
    holds((await repo.getManifest(tag)).is(200).has("docker-content-digest", all.manifest.digest), all.manifest);
  }
}

async function attachBundle(repo: GoContainerRegistry, signed: Content): Promise<Image> {
  const head = await repo.headManifest(signed.digest);
  if (head === undefined || head.size !== signed.size) throw new Error("HEAD of the subject does not describe it");
  const config = content(emptyType, "{}");
  const layer = content(bundle, { mediaType: bundle, nonce: randomBytes(20).toString("hex") });
  await repo.upload(config);
  await repo.upload(layer);
  const more = {
    config: descriptor(config, { artifactType: bundle }),
    subject: descriptor(signed),
    artifactType: bundle,
    annotations: {
      "dev.sigstore.bundle.content": "dsse-envelope",
      "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
    },
  };
  const made = manifest(config, [layer], more);
  await repo.putReferrer(made.manifest.digest, made.manifest, signed.digest);
  return made;
}

/** It lists without a filter and picks by artifactType itself. */
async function verifyBundles(repo: GoContainerRegistry, signed: Content, bundles: readonly Image[]): Promise<void> {
  const found = sameReferrers(await repo.referrers(signed.digest), ...bundles.map(({ manifest }) => manifest));
  for (const { artifactType, annotations } of found) {
    if (artifactType !== bundle || annotations?.["dev.sigstore.bundle.content"] !== "dsse-envelope")
      throw new Error("a bundle is not described as one");
  }
  for (const { manifest, blobs } of bundles) {
    holds((await repo.getManifest(manifest.digest)).is(200), manifest);
    for (const blob of blobs) await repo.getBlob(blob);
  }
}
