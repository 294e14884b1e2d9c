import { randomBytes } from "node:crypto";
import { gzipSync } from "node:zlib";
import { type Descriptor, mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { tarOf } from "../layouts.js";
import { type Answer, isRecord } from "./client.js";

export const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
export const dockerList = "application/vnd.docker.distribution.manifest.list.v2+json";
export const dockerSchema1 = "application/vnd.docker.distribution.manifest.v1+json";
export const dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
export const deprecatedArtifact = "application/vnd.oci.artifact.manifest.v1+json";
export const imageConfig = "application/vnd.oci.image.config.v1+json";
export const gzipLayer = "application/vnd.oci.image.layer.v1.tar+gzip";
export const emptyType = "application/vnd.oci.empty.v1+json";
export const zeroDigest = `sha256:${"0".repeat(64)}`;

export interface Content extends Descriptor {
  readonly bytes: Buffer;
}

export type Algorithm = "sha256" | "sha512";

export function content(mediaType: string, value: Buffer | string | object, algorithm: Algorithm = "sha256"): Content {
  const bytes = Buffer.isBuffer(value) ? value : Buffer.from(typeof value === "string" ? value : JSON.stringify(value));
  return { mediaType, digest: digestOf(bytes, algorithm), size: bytes.byteLength, bytes };
}

/** What a manifest says of other content. */
export function descriptor({ mediaType, digest, size }: Descriptor, more: Partial<Descriptor> = {}): Descriptor {
  return { mediaType, digest, size, ...more };
}

export interface Image {
  readonly blobs: readonly Content[];
  readonly manifest: Content;
}

export function manifest(config: Content, layers: readonly Content[], more: object = {}, algorithm: Algorithm = "sha256"): Image {
  const value = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: descriptor(config),
    layers: layers.map((layer) => descriptor(layer)),
    ...more,
  };
  return { blobs: [...layers, config], manifest: content(mediaTypes.ociManifest, value, algorithm) };
}

export function layer(size = 50_000): Content {
  return content(gzipLayer, gzipSync(tarOf("file", randomBytes(size)), { level: 1 }));
}

export function image(architecture = "amd64", layers = [layer(), layer(2000)]): Image {
  // Unlike any other, as the time of a build makes them.
  const config = content(imageConfig, { architecture, os: "linux", author: randomBytes(8).toString("hex"), rootfs: { type: "layers" } });
  return manifest(config, layers);
}

export function indexOf(manifests: readonly Descriptor[], more: object = {}): Content {
  return content(mediaTypes.ociIndex, { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests, ...more });
}

/** The answer has exactly this content. */
export function holds(answer: Answer, expected: Content): void {
  if (answer.size !== expected.size) answer.fail(`Content-Length is not ${expected.size}`);
  if (!answer.body.equals(expected.bytes)) answer.fail(`the body is not ${expected.digest}`);
}

/** The descriptors in an answer of the referrers API, which oras and crane take for unsupported if its type differs at all. */
export function referrersIn(answer: Answer): readonly Descriptor[] {
  answer.is(200).has("content-type", mediaTypes.ociIndex);
  const { schemaVersion, manifests } = answer.json();
  if (schemaVersion !== 2 || !Array.isArray(manifests) || !manifests.every(isDescriptor)) answer.fail("not an image index of descriptors");
  return manifests;
}

function isDescriptor(value: unknown): value is Descriptor {
  return isRecord(value) && typeof value.mediaType === "string" && typeof value.digest === "string" && Number.isSafeInteger(value.size);
}

export function sameReferrers(answer: Answer, ...expected: readonly Content[]): readonly Descriptor[] {
  const found = referrersIn(answer);
  const sorted = (list: readonly Descriptor[]) =>
    list
      .map(({ digest }) => digest)
      .sort()
      .join();
  return sorted(found) === sorted(expected) ? found : answer.fail(`expected the referrers ${sorted(expected)}`);
}
