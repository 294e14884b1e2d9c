import { randomBytes } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { type Descriptor, mediaTypes, type Platform } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";

export interface LayoutImage extends Descriptor {
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

const indexFile = (manifests: readonly Descriptor[]) => JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests });

/** An OCI image layout on disk, filled with images of random files that engines can unpack: nothing is downloaded. */
export class Layout {
  readonly #folder: string;
  readonly #tagged: Descriptor[] = [];

  private constructor(folder: string) {
    this.#folder = folder;
  }

  static async create(folder: string): Promise<Layout> {
    await mkdir(join(folder, "blobs/sha256"), { recursive: true });
    await writeFile(join(folder, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
    return new Layout(folder);
  }

  /** How skopeo and others name an image of this layout. */
  reference(tag: string): string {
    return `oci:${this.#folder}:${tag}`;
  }

  /** Layers alternate between gzip and plain tar; each holds one file `layer-<n>`. */
  async image(tag: string | undefined, layerSizes: readonly number[], architecture = "amd64"): Promise<LayoutImage> {
    const tars = layerSizes.map((size, index) => tarOf(`layer-${index}`, randomBytes(size)));
    const layers: Descriptor[] = [];
    for (const [index, tar] of tars.entries()) {
      const gzip = index % 2 === 0;
      const mediaType = `application/vnd.oci.image.layer.v1.tar${gzip ? "+gzip" : ""}`;
      layers.push(await this.#add(mediaType, gzip ? gzipSync(tar, { level: 1 }) : tar));
    }
    const config = await this.#add("application/vnd.oci.image.config.v1+json", {
      architecture,
      os: "linux",
      created: "2024-01-01T00:00:00Z",
      config: { Cmd: ["/layer-0"] },
      rootfs: { type: "layers", diff_ids: tars.map((tar) => digestOf(tar)) },
      history: tars.map((_, index) => ({ created: "2024-01-01T00:00:00Z", created_by: `layer ${index}` })),
    });
    const manifest = await this.#add(mediaTypes.ociManifest, { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers });
    if (tag !== undefined) await this.#tag(tag, manifest);
    return { ...manifest, config, layers };
  }

  /** An index of one image a platform. */
  async index(tag: string, images: readonly (readonly [architecture: string, image: LayoutImage])[]): Promise<Descriptor> {
    const manifests = images.map(([architecture, { mediaType, digest, size }]): Descriptor => {
      const platform: Platform = { architecture, os: "linux" };
      return { mediaType, digest, size, platform };
    });
    const index = await this.#add(mediaTypes.ociIndex, indexFile(manifests));
    await this.#tag(tag, index);
    return index;
  }

  async #tag(tag: string, descriptor: Descriptor): Promise<void> {
    this.#tagged.push({ ...descriptor, annotations: { "org.opencontainers.image.ref.name": tag } });
    await writeFile(join(this.#folder, "index.json"), indexFile(this.#tagged));
  }

  async #add(mediaType: string, content: Buffer | string | object): Promise<Descriptor> {
    const bytes = Buffer.isBuffer(content) ? content : Buffer.from(typeof content === "string" ? content : JSON.stringify(content));
    const digest = digestOf(bytes);
    await writeFile(join(this.#folder, "blobs/sha256", digest.slice("sha256:".length)), bytes);
    return { mediaType, digest, size: bytes.byteLength };
  }
}

/** The image and the two-platform index that most tests move around, tagged `image` and `index`. */
export interface Sample {
  readonly layout: Layout;
  readonly image: LayoutImage;
  readonly index: Descriptor;
  readonly platforms: readonly [LayoutImage, LayoutImage];
}

export async function sampleLayout(folder: string): Promise<Sample> {
  const layout = await Layout.create(folder);
  const image = await layout.image("image", [200_000, 3_000_000, 1000, 500_000]);
  const amd64 = await layout.image(undefined, [300_000, 2000]);
  const arm64 = await layout.image(undefined, [400_000, 1_000_000], "arm64");
  const index = await layout.index("index", [
    ["amd64", amd64],
    ["arm64", arm64],
  ]);
  return { layout, image, index, platforms: [amd64, arm64] };
}

/** The digest of what a client wrote into a layout folder that holds one image. */
export async function digestInLayout(folder: string): Promise<string> {
  const index: { manifests: { digest: string }[] } = JSON.parse(await readFile(join(folder, "index.json"), "utf8"));
  const [only, ...more] = index.manifests;
  if (only === undefined || more.length > 0) throw new Error(`${folder} holds ${index.manifests.length} images`);
  return only.digest;
}

/** A tar archive (ustar) of one executable file. */
export function tarOf(name: string, bytes: Uint8Array): Buffer {
  const header = Buffer.alloc(512);
  const octal = (value: number, width: number) => value.toString(8).padStart(width - 1, "0");
  header.write(name, 0);
  header.write(octal(0o755, 8), 100);
  header.write(octal(0, 8), 108);
  header.write(octal(0, 8), 116);
  header.write(octal(bytes.byteLength, 12), 124);
  header.write(octal(1_700_000_000, 12), 136);
  header.write(" ".repeat(8), 148);
  header.write("0", 156);
  header.write("ustar\u000000", 257);
  const checksum = header.reduce((sum, byte) => sum + byte, 0);
  header.write(`${octal(checksum, 7)}\0 `, 148);
  const padding = Buffer.alloc((512 - (bytes.byteLength % 512)) % 512);
  return Buffer.concat([header, bytes, padding, Buffer.alloc(1024)]);
}
