import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { isThere } from "../core/lookup.js";
import { isNonDistributable } from "../core/media-types.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { type DockerLayers, dockerLayers, refuseMisordered } from "./docker-layers.js";
import type { SelectedImage } from "./import-selection.js";
import { hasContent, manifestIn } from "./layout-content.js";
import { isManifestType } from "./layout-entries.js";
import type { LayoutSource } from "./layout-source.js";
import { mostNamed, someOf } from "./some-of.js";

/** What goes into one repository. */
export interface RepositoryPlan {
  readonly repository: string;
  readonly blobs: ReadonlyMap<Digest, Descriptor>;
  /** Children before their indexes. */
  readonly manifests: ReadonlyMap<Digest, Descriptor>;
  readonly tags: ReadonlyMap<string, Descriptor>;
}

export interface ImportPlan {
  readonly repositories: readonly RepositoryPlan[];
  /** Children of indexes that are neither in the layout nor in the registry. */
  readonly missing: readonly Descriptor[];
}

/** More than any layout holds; each is remembered. */
const contentLimit = 1_000_000;
/** Deeper than indexes nest. */
const depthLimit = 16;

/**
 * Finds out what has to go along, and that all of it is in the layout with the right size, or in the registry already.
 * @param o.sparse the registry takes indexes without all their children.
 * @throws RegistryError MANIFEST_BLOB_UNKNOWN for references that are missing, what reading them throws, or why the registry could not be asked.
 */
export async function planImport(
  source: LayoutSource,
  registry: Registry,
  images: readonly SelectedImage[],
  o: { readonly sparse: boolean; readonly call: CallOptions },
): Promise<ImportPlan> {
  const walks = new Map<string, Walk>();
  const found: Found = { missing: new Map(), lost: new Map(), docker: await dockerLayers(source), left: contentLimit };
  for (const { repository, descriptor, tag } of images) {
    const walk = walks.get(repository) ?? new Walk(source, registry, repository, found, o.call);
    walks.set(repository, walk);
    if (!(await walk.manifest(descriptor, 0))) found.lost.set(descriptor.digest, descriptor);
    if (tag !== undefined) walk.tags.set(tag, plain(descriptor));
  }
  const missing = [...found.missing.values()];
  const lost = [...found.lost.values(), ...(o.sparse ? [] : missing)];
  if (lost.length > 0) throw incomplete(source, lost);
  return { repositories: [...walks.values()], missing };
}

interface Found {
  /** Children that are nowhere. */
  readonly missing: Map<Digest, Descriptor>;
  /** What nobody can do without. */
  readonly lost: Map<Digest, Descriptor>;
  readonly docker: DockerLayers;
  left: number;
}

/** Follows the images for one repository. */
class Walk implements RepositoryPlan {
  readonly repository: string;
  readonly blobs = new Map<Digest, Descriptor>();
  readonly manifests = new Map<Digest, Descriptor>();
  readonly tags = new Map<string, Descriptor>();
  readonly #source: LayoutSource;
  readonly #registry: Registry;
  readonly #found: Found;
  readonly #call: CallOptions;

  constructor(source: LayoutSource, registry: Registry, repository: string, found: Found, call: CallOptions) {
    this.repository = repository;
    this.#source = source;
    this.#registry = registry;
    this.#found = found;
    this.#call = call;
  }

  /** @returns whether it is in the layout. */
  async manifest(descriptor: Descriptor, depth: number): Promise<boolean> {
    if (this.#isKnown(this.manifests, descriptor)) return true;
    this.#call.signal?.throwIfAborted();
    if (depth > depthLimit) throw new RegistryError("MANIFEST_INVALID", `${descriptor.digest} lies more than ${depthLimit} indexes deep`);
    if (!(await hasContent(this.#source, descriptor))) return false;
    const { manifest } = await manifestIn(this.#source, descriptor);
    refuseMisordered(this.#found.docker, manifest, this.#source);
    for (const blob of manifest.config ? [manifest.config, ...manifest.layers] : manifest.layers) await this.#blob(blob);
    for (const child of manifest.children) {
      if (!isManifestType(child.mediaType)) await this.#blob(child);
      else if (!(await this.manifest(child, depth + 1))) await this.#childElsewhere(child);
    }
    this.#take();
    this.manifests.set(descriptor.digest, plain(descriptor));
    return true;
  }

  async #blob(descriptor: Descriptor): Promise<void> {
    const { missing, lost } = this.#found;
    const { digest, mediaType } = descriptor;
    if (this.#isKnown(this.blobs, descriptor) || lost.has(digest) || missing.has(digest)) return;
    this.#take();
    if (await hasContent(this.#source, descriptor)) this.blobs.set(digest, plain(descriptor));
    else if (!isNonDistributable(mediaType) && !isThere(await this.#registry.resolveBlob(this.repository, digest, this.#call))) {
      lost.set(digest, plain(descriptor));
    }
  }

  async #childElsewhere(child: Descriptor): Promise<void> {
    const { missing } = this.#found;
    if (missing.has(child.digest)) return;
    if (isThere(await this.#registry.resolveManifest(this.repository, child.digest, this.#call))) return;
    this.#take();
    missing.set(child.digest, plain(child));
  }

  #isKnown(known: ReadonlyMap<Digest, Descriptor>, { digest, size }: Descriptor): boolean {
    const other = known.get(digest);
    if (other && other.size !== size) {
      throw new RegistryError("SIZE_INVALID", `manifests in ${this.#source.path} say that ${digest} has ${size} bytes, and ${other.size}`);
    }
    return other !== undefined;
  }

  #take(): void {
    if (--this.#found.left < 0) {
      throw new RegistryError(
        "MANIFEST_INVALID",
        `the images of ${this.#source.path} refer to more than ${contentLimit} blobs and manifests`,
      );
    }
  }
}

/** Without annotations, which may be large: this is kept for all. */
function plain({ mediaType, digest, size }: Descriptor): Descriptor {
  return { mediaType, digest, size };
}

function incomplete({ path }: LayoutSource, lost: readonly Descriptor[]): RegistryError {
  const digests = lost.map(({ digest }) => digest);
  const hint = lost.some(({ mediaType }) => isManifestType(mediaType))
    ? '; an index of which only some platforms were written goes into a registry with "sparse: true", or write all of them ("skopeo copy --all")'
    : "";
  return new RegistryError("MANIFEST_BLOB_UNKNOWN", `${path} is not complete, it lacks ${someOf(digests)}${hint}`, {
    detail: { missing: digests.slice(0, mostNamed) },
  });
}
