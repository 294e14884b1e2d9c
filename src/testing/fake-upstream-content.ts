import { createHash } from "node:crypto";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, type DigestAlgorithm, digestOf } from "../core/digest.js";
import { mediaTypes } from "../core/media-types.js";

/** One repository of a fake upstream, open to tests. */
export interface FakeRepository {
  readonly manifests: Map<string, { readonly bytes: Uint8Array; readonly mediaType: string }>;
  readonly tags: Map<string, Digest>;
  readonly blobs: Map<string, Uint8Array>;
}

/** What `addImage` made. */
export interface FakeImage {
  readonly digest: Digest;
  readonly descriptor: Descriptor;
  /** The manifest's bytes. */
  readonly bytes: Uint8Array;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

export interface FakeImageOptions {
  /** Bytes, or sizes of generated ones (each different from all others). Default: one layer of 1 KiB. */
  readonly layers?: readonly (Uint8Array | number)[];
  readonly platform?: { readonly os: string; readonly architecture: string };
  readonly annotations?: Readonly<Record<string, string>>;
  readonly subject?: Descriptor;
  readonly artifactType?: string;
}

/** The repositories of a fake upstream, in memory. */
export class FakeContent {
  readonly repositories = new Map<string, FakeRepository>();
  #generated = 0;

  repository(name: string): FakeRepository {
    let repository = this.repositories.get(name);
    if (!repository) {
      repository = { manifests: new Map(), tags: new Map(), blobs: new Map() };
      this.repositories.set(name, repository);
    }
    return repository;
  }

  addBlob(name: string, content: Uint8Array | number, algorithm?: DigestAlgorithm): Descriptor {
    const bytes = typeof content === "number" ? this.#generate(content) : content;
    const digest = digestOf(bytes, algorithm);
    this.repository(name).blobs.set(digest, bytes);
    return { mediaType: mediaTypes.octetStream, digest, size: bytes.byteLength };
  }

  /** @param tag absent: reachable by digest only. `manifest` is stored verbatim when it is bytes. */
  addManifest(
    name: string,
    tag: string | undefined,
    manifest: Uint8Array | object,
    o: { mediaType?: string; algorithm?: DigestAlgorithm } = {},
  ): Descriptor {
    const bytes = manifest instanceof Uint8Array ? manifest : Buffer.from(JSON.stringify(manifest));
    const declared = manifest instanceof Uint8Array ? undefined : (manifest as { mediaType?: string }).mediaType;
    const mediaType = o.mediaType ?? declared ?? mediaTypes.ociManifest;
    const digest = digestOf(bytes, o.algorithm);
    const repository = this.repository(name);
    repository.manifests.set(digest, { bytes, mediaType });
    if (tag !== undefined) repository.tags.set(tag, digest);
    return { mediaType, digest, size: bytes.byteLength };
  }

  addImage(name: string, tag: string | undefined, o: FakeImageOptions = {}): FakeImage {
    const layers = (o.layers ?? [1024]).map((layer) => ({
      ...this.addBlob(name, layer),
      mediaType: "application/vnd.oci.image.layer.v1.tar",
    }));
    const { os = "linux", architecture = "amd64" } = o.platform ?? {};
    const diffIds = layers.map((layer) => layer.digest);
    const settings = { os, architecture, config: {}, rootfs: { type: "layers", diff_ids: diffIds }, "fake.serial": this.#generated++ };
    const config = {
      ...this.addBlob(name, Buffer.from(JSON.stringify(settings))),
      mediaType: "application/vnd.oci.image.config.v1+json",
    };
    const { subject, artifactType, annotations } = o;
    const manifest = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, artifactType, config, layers, subject, annotations };
    const bytes = Buffer.from(JSON.stringify(manifest));
    const descriptor = this.addManifest(name, tag, bytes);
    return { digest: descriptor.digest, descriptor, bytes, config, layers };
  }

  addIndex(
    name: string,
    tag: string | undefined,
    children: readonly Descriptor[],
    o: { annotations?: Record<string, string> } = {},
  ): Descriptor {
    return this.addManifest(name, tag, {
      schemaVersion: 2,
      mediaType: mediaTypes.ociIndex,
      manifests: children,
      annotations: o.annotations,
    });
  }

  /** Bytes no other call gives, the same in every run. */
  #generate(size: number): Uint8Array {
    const bytes = Buffer.alloc(
      size,
      createHash("sha256")
        .update(`layer ${this.#generated++}`)
        .digest(),
    );
    return bytes;
  }
}
