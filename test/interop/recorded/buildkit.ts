/**
 * BuildKit 0.20 to 0.32, with containerd's client of registries 2.0 to 2.3: everything is looked for by HEAD with its type and any other; a blob is a POST,
 * by mount where its source is known, and one PUT; attestation, image and index are pushed in this order, the index by its tag. The build cache as an image
 * and, the default up to 0.20, as an index whose children are layers. Pulls resolve by HEAD, take any encoding, and from containerd 2.1 on may read a layer
 * in parallel, by ranges without an end that are cut short.
 */
import { randomBytes } from "node:crypto";
import { type Descriptor, mediaTypes } from "oci-manifold";
import { type Answer, type Place, RecordedClient } from "./client.js";
import {
  type Content,
  content,
  descriptor,
  dockerList,
  dockerManifest,
  holds,
  type Image,
  image,
  imageConfig,
  indexOf,
  layer,
  manifest,
} from "./content.js";

const cacheConfig = "application/vnd.buildkit.cacheconfig.v0";
const unknown = { architecture: "unknown", os: "unknown" };
const resolveTypes = [dockerManifest, dockerList, mediaTypes.ociManifest, mediaTypes.ociIndex, "*/*"].join(", ");
const anyEncoding = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5";

export async function buildkit({ origin, repository }: Place): Promise<void> {
  const client = new RecordedClient(origin, { "user-agent": "buildkit/v0.32" });
  const repo = new BuildKit(client, repository);
  const built = image("amd64", [layer(2_500_000), layer(2000)]);
  const attestation = attest(built.manifest);
  const index = indexOf([
    descriptor(built.manifest, { platform: { architecture: "amd64", os: "linux" } }),
    descriptor(attestation.manifest, { platform: unknown, annotations: referenceTo(built.manifest) }),
  ]);
  await repo.push("latest", [index, built, attestation]);
  await repo.pull("latest", [index, built, attestation]);
  await repo.push("latest", [index, built, attestation]);

  const next = new BuildKit(client, `${repository}/next`);
  for (const blob of built.blobs) if ((await next.pushBlob(blob, repository)) !== "mounted") throw new Error("not mounted");
  await next.push("latest", [built.manifest, built]);

  const cacheRepo = new BuildKit(client, `${repository}/cache`);
  for (const asIndex of [true, false, true]) await exportCache(cacheRepo, asIndex);
  await readInParallel(repo, built);
  client.close();
}

function referenceTo(image: Content): Record<string, string> {
  return { "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.digest };
}

function attest(image: Content): Image {
  const statements: Content[] = [];
  const layers: Descriptor[] = [];
  for (const predicateType of ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"]) {
    const value = { _type: "https://in-toto.io/Statement/v0.1", predicateType, subject: [{ digest: image.digest }] };
    const statement = content("application/vnd.in-toto+json", value);
    statements.push(statement);
    layers.push(descriptor(statement, { annotations: { "in-toto.io/predicate-type": predicateType } }));
  }
  const rootfs = { type: "layers", diff_ids: statements.map(({ digest }) => digest) };
  return manifest(content(imageConfig, { ...unknown, config: {}, rootfs }), statements, { layers });
}

/** Layers and a config are pushed, then what lists them, each time over the same tag. */
async function exportCache(repo: BuildKit, asIndex: boolean): Promise<void> {
  const layers = [layer(), layer(1000)];
  const config = content(cacheConfig, {
    layers: layers.map(({ digest }) => ({ blob: digest, parent: -1 })),
    records: [{ digest: randomBytes(32).toString("hex") }],
  });
  const annotated = layers.map((blob): Descriptor => descriptor(blob, { annotations: { "buildkit/createdat": "2024-01-01T00:00:00Z" } }));
  const listing = asIndex ? indexOf([...annotated, descriptor(config)]) : manifest(config, layers, { layers: annotated }).manifest;
  await Promise.all(layers.map((blob) => repo.pushBlob(blob)));
  await repo.pushBlob(config);
  await repo.pushManifest("buildcache", listing);

  const resolved = await repo.resolve("buildcache");
  resolved.has("docker-content-digest", listing.digest).has("content-type", listing.mediaType);
  holds(await repo.fetch("manifests", listing), listing);
  for (const blob of [config, ...layers]) holds(await repo.fetch("blobs", blob), blob);
}

/** All parts but the last end by a connection that is cut, which must not harm the others. */
async function readInParallel(repo: BuildKit, { blobs: [blob] }: Image): Promise<void> {
  if (blob === undefined) return;
  const part = 300_000;
  const starts = Array.from({ length: Math.ceil(blob.size / part) }, (_, at) => at * part);
  const parts = await Promise.all(starts.map((start) => repo.readFrom(blob, start, part)));
  if (!Buffer.concat(parts).equals(blob.bytes)) throw new Error("the parts do not make up the layer");
}

class BuildKit {
  constructor(
    readonly client: RecordedClient,
    readonly repository: string,
  ) {}

  async push(tag: string, [root, ...images]: readonly [Content, ...Image[]]): Promise<void> {
    await Promise.all(images.flatMap(({ blobs }) => blobs).map((blob) => this.pushBlob(blob)));
    for (const { manifest } of images.reverse()) if (manifest !== root) await this.pushManifest(manifest.digest, manifest);
    await this.pushManifest(tag, root);
  }

  async pushBlob({ mediaType, digest, bytes }: Content, from?: string): Promise<"existed" | "mounted" | "pushed"> {
    if ((await this.#head(`blobs/${digest}`, mediaType)).is(200, 404).status === 200) return "existed";
    const query = from === undefined ? "" : `?mount=${digest}&from=${from}`;
    const begun = await this.client.send("POST", this.#at(`blobs/uploads/${query}`));
    if (begun.is(201, 202).status === 201) return "mounted";
    const { location } = begun;
    location.searchParams.append("digest", digest);
    const put = await this.client.send("PUT", location, { headers: { "content-type": "application/octet-stream" }, body: bytes });
    put.is(201).has("docker-content-digest", digest);
    return "pushed";
  }

  async pushManifest(reference: string, { mediaType, digest, bytes }: Content): Promise<void> {
    const found = (await this.#head(`manifests/${reference}`, mediaType)).is(200, 404);
    if (found.status === 200 && found.digest === digest) return;
    const put = await this.client.send("PUT", this.#at(`manifests/${reference}`), { headers: { "content-type": mediaType }, body: bytes });
    put.is(201).has("docker-content-digest", digest);
  }

  /** Without the digest and the length it would GET instead, and read all of it. */
  async resolve(reference: string): Promise<Answer> {
    const answer = await this.client.send("HEAD", this.#at(`manifests/${reference}`), { headers: { accept: resolveTypes } });
    return answer.is(200).describes(reference);
  }

  async pull(tag: string, [root, ...images]: readonly [Content, ...Image[]]): Promise<void> {
    (await this.resolve(tag)).has("docker-content-digest", root.digest).has("content-type", root.mediaType);
    for (const manifest of [root, ...images.map((image) => image.manifest)]) holds(await this.fetch("manifests", manifest), manifest);
    await Promise.all(images.flatMap(({ blobs }) => blobs).map(async (blob) => holds(await this.fetch("blobs", blob), blob)));
    // Where only a digest is known, it tries blobs before manifests.
    (await this.#head(`blobs/${root.digest}`, root.mediaType)).is(404);
    (await this.#head(`manifests/${root.digest}`, root.mediaType)).is(200).describes(root.digest);
  }

  async fetch(kind: "manifests" | "blobs", { mediaType, digest }: Content): Promise<Answer> {
    const headers = { accept: `${mediaType}, */*`, "accept-encoding": anyEncoding };
    return (await this.client.send("GET", this.#at(`${kind}/${digest}`), { headers })).is(200);
  }

  async readFrom({ digest, mediaType, size }: Content, start: number, length: number): Promise<Buffer> {
    const headers = { accept: `${mediaType}, */*`, "accept-encoding": anyEncoding, range: `bytes=${start}-` };
    const answer = await this.client.send("GET", this.#at(`blobs/${digest}`), { headers, cutAfter: length });
    return answer
      .is(206)
      .has("content-range", `bytes ${start}-${size - 1}/${size}`)
      .body.subarray(0, length);
  }

  #head(path: string, mediaType: string): Promise<Answer> {
    return this.client.send("HEAD", this.#at(path), { headers: { accept: `${mediaType}, */*` } });
  }

  #at(path: string): string {
    return `/v2/${this.repository}/${path}`;
  }
}
