import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { followManifest, isManifestType } from "../core/manifest.js";
import { blobFile } from "./layout-source.js";

/** An image in `manifest.json`, with docker's names. Files are those of the layout. */
interface DockerImage {
  readonly Config: string;
  readonly RepoTags: readonly string[];
  readonly Layers: readonly string[];
}

const imageConfigs: ReadonlySet<string> = new Set([
  "application/vnd.oci.image.config.v1+json",
  "application/vnd.docker.container.image.v1+json",
]);

const ambiguous = "ambiguous";

/** What is remembered of a manifest: an image's files, or the children of an index. */
type Known = { readonly image: Omit<DockerImage, "RepoTags"> } | { readonly children: readonly Descriptor[] };

/**
 * The file `manifest.json` beside a layout, which image-spec does not know: `docker load` (without containerd's store) and `podman load` find images by it. Of an index it names
 * one image, that for linux/amd64 or the first that is there: these programs hold one platform under a tag.
 */
export class DockerImages {
  readonly #repository: string;
  readonly #known = new Map<Digest, Known>();
  /** By the file of a config: the layers that all images with it have. To docker the config is the image, so one with other layers cannot be told from it. */
  readonly #layers = new Map<string, string>();

  constructor(repository: string) {
    this.#repository = repository;
  }

  /** Takes in a manifest that the layout has. What is no image and no index is left out. */
  add({ digest, mediaType }: Descriptor, bytes: Uint8Array): void {
    if (!isManifestType(mediaType)) return;
    const { kind, config, layers, children } = followManifest(bytes, mediaType);
    if (kind === "index") this.#known.set(digest, { children });
    else if (config && imageConfigs.has(config.mediaType)) {
      const image = { Config: blobFile(config.digest), Layers: layers.map((layer) => blobFile(layer.digest)) };
      const layersOfConfig = this.#layers.get(image.Config) ?? image.Layers.join();
      this.#layers.set(image.Config, layersOfConfig === image.Layers.join() ? layersOfConfig : ambiguous);
      this.#known.set(digest, { image });
    }
  }

  /**
   * The file's content. Names of these tags lead to these images and no others; what an older file says of others stays.
   *
   * @param tags each with its manifest's digest.
   * @param before the file that is there.
   */
  file(tags: readonly (readonly [string, Digest])[], before?: Uint8Array): Uint8Array {
    const images = new Map<string, DockerImage>();
    const names = new Set(tags.map(([tag]) => `${this.#repository}:${tag}`));
    for (const image of imagesIn(before)) {
      const left = image.RepoTags.filter((name) => !names.has(name));
      images.set(image.Config, { ...image, RepoTags: left });
    }
    for (const [tag, digest] of tags) {
      const image = this.#imageOf(digest);
      if (!image) continue;
      const { RepoTags = [] } = images.get(image.Config) ?? {};
      images.set(image.Config, { Config: image.Config, RepoTags: [...RepoTags, `${this.#repository}:${tag}`], Layers: image.Layers });
    }
    return Buffer.from(JSON.stringify([...images.values()].filter(({ Config }) => this.#layers.get(Config) !== ambiguous)));
  }

  #imageOf(digest: Digest): Omit<DockerImage, "RepoTags"> | undefined {
    const known = this.#known.get(digest);
    if (!known || "image" in known) return known?.image;
    const images = known.children.flatMap((child) => {
      const there = this.#known.get(child.digest);
      return there && "image" in there && child.platform?.os !== "unknown" ? [{ platform: child.platform, image: there.image }] : [];
    });
    return (images.find(({ platform }) => platform?.os === "linux" && platform.architecture === "amd64") ?? images[0])?.image;
  }
}

/** What docker would not read is written anew. */
function imagesIn(bytes: Uint8Array | undefined): DockerImage[] {
  if (!bytes) return [];
  let value: unknown;
  try {
    value = JSON.parse(Buffer.from(bytes).toString());
  } catch {
    return [];
  }
  return (Array.isArray(value) ? value : []).flatMap((image: unknown) => {
    if (typeof image !== "object" || image === null || !("Config" in image) || typeof image.Config !== "string") return [];
    const { Config, RepoTags, Layers } = image as { Config: string; RepoTags?: unknown; Layers?: unknown };
    return [{ Config, RepoTags: texts(RepoTags), Layers: texts(Layers) }];
  });
}

function texts(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "string") : [];
}
