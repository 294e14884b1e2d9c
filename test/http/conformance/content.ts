import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { expect } from "vitest";
import type { Client } from "./client.js";

export const algorithms = ["sha256", "sha512"] as const;
export type Algorithm = (typeof algorithms)[number];

export const octets = { "Content-Type": mediaTypes.octetStream };
export const layerType = "application/vnd.oci.image.layer.v1.tar+gzip";
export const configType = "application/vnd.oci.image.config.v1+json";
export const emptyType = "application/vnd.oci.empty.v1+json";
export const sizeLimit = 4 * 1024 * 1024;

let names = 0;
/** A repository of one test's own: the server serves others too. */
export function freshName(): string {
  return `conformance/test-${names++}`;
}

/** A digest that nothing has. oras asks for the referrers of the zero digest to find out whether there is such an API. */
export function zeroDigest(algorithm: Algorithm = "sha256"): string {
  return `${algorithm}:${"0".repeat(algorithm === "sha256" ? 64 : 128)}`;
}

export function absentDigest(algorithm: Algorithm = "sha256"): string {
  return digestOf(randomBytes(16), algorithm);
}

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly [field: string]: unknown;
}

export function describing(bytes: Uint8Array, mediaType: string, algorithm: Algorithm = "sha256", more: object = {}): Descriptor {
  return { mediaType, digest: digestOf(bytes, algorithm), size: bytes.byteLength, ...more };
}

/** A manifest as it is pushed. */
export interface Document {
  readonly bytes: Buffer;
  readonly mediaType: string;
  readonly digest: string;
  readonly subject?: string;
}

/** JSON as it stands, or of a value. */
export function documentOf(value: object | string, algorithm: Algorithm = "sha256"): Document {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  const bytes = Buffer.from(text);
  const { mediaType, subject } = JSON.parse(text) as { mediaType?: string; subject?: { digest: string } };
  return {
    bytes,
    mediaType: mediaType ?? mediaTypes.ociManifest,
    digest: digestOf(bytes, algorithm),
    ...(subject && { subject: subject.digest }),
  };
}

export function descriptorOf({ bytes, mediaType, digest }: Document): Descriptor {
  return { mediaType, digest, size: bytes.length };
}

/** An image of two layers whose blobs are pushed while the manifest is not; no two are alike. `more` replaces or adds fields. */
export async function makeImage(on: Client, repository: string, more: object = {}, algorithm: Algorithm = "sha256"): Promise<Document> {
  const config = Buffer.from(JSON.stringify({ architecture: "amd64", os: "linux", id: randomBytes(8).toString("hex") }));
  const layers = [randomBytes(100), randomBytes(1000)];
  for (const bytes of [config, ...layers]) await on.pushBlob(repository, bytes, algorithm);
  return documentOf(
    {
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: describing(config, configType, algorithm),
      layers: layers.map((bytes) => describing(bytes, layerType, algorithm)),
      ...more,
    },
    algorithm,
  );
}

/** An artifact without blobs of its own: config and only layer are `{}`. */
export async function makeArtifact(on: Client, repository: string, more: object = {}, algorithm: Algorithm = "sha256"): Promise<Document> {
  const empty = Buffer.from("{}");
  await on.pushBlob(repository, empty, algorithm);
  const descriptor = describing(empty, emptyType, algorithm);
  return documentOf(
    {
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      artifactType: "application/vnd.example.artifact",
      config: descriptor,
      layers: [descriptor],
      annotations: { "org.example.unique": randomBytes(8).toString("hex") },
      ...more,
    },
    algorithm,
  );
}

export function makeIndex(children: readonly Descriptor[], more: object = {}, algorithm: Algorithm = "sha256"): Document {
  return documentOf({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: children, ...more }, algorithm);
}

/** Pushes a manifest that must be taken, by its digest unless a tag is given; a query may follow. */
export async function push(on: Client, repository: string, document: Document, reference = document.digest): Promise<Document> {
  const put = await on.put(`/v2/${repository}/manifests/${reference}`, { "Content-Type": document.mediaType }, document.bytes);
  expect(put.status, put.body.toString()).toBe(201);
  return document;
}

export async function pushImage(on: Client, repository: string, tag?: string, more: object = {}): Promise<Document> {
  return push(on, repository, await makeImage(on, repository, more), tag);
}
