import type { Descriptor } from "../core/descriptor.js";
import { type Digest, isDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { isThere } from "../core/lookup.js";
import { detectMediaType, type Manifest, manifestSizeLimit } from "../core/manifest.js";
import { isNonDistributable } from "../core/media-types.js";
import { parseRepositoryName, parseTag } from "../core/name.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { mostNamed, someOf } from "../maintenance/some-of.js";
import { isLayoutManifestType, type LayoutEntry } from "./layout-index.js";
import { blobFile, hasContent, type LayoutSource, manifestIn, smallFile } from "./layout-source.js";

/**
 * What an import does, made out before anything is written. {@link selectImages} says which images of a layout are imported and under which names.
 * {@link planImport} follows them to everything that they need, and refuses what is not complete or was written wrongly.
 */

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
      if (!isLayoutManifestType(child.mediaType)) await this.#blob(child);
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
  const hint = lost.some(({ mediaType }) => isLayoutManifestType(mediaType))
    ? '; an index of which only some platforms were written goes into a registry with "sparse: true", or write all of them ("skopeo copy --all"), or one alone ("docker save --platform linux/amd64"), or choose one that is there by its digest, in references'
    : "";
  return new RegistryError("MANIFEST_BLOB_UNKNOWN", `${path} is not complete, it lacks ${someOf(digests)}${hint}`, {
    detail: { missing: digests.slice(0, mostNamed) },
  });
}

/** An image of a layout, and where it goes. */
interface SelectedImage {
  readonly descriptor: Descriptor;
  readonly repository: string;
  readonly tag?: string;
}

interface SelectionOptions {
  readonly repository?: string;
  readonly references?: readonly string[];
  readonly tag?: string;
  readonly rename?: (entry: LayoutEntry) => { readonly repository?: string; readonly tag?: string } | undefined;
}

/**
 * What of a layout is imported, and under which names.
 * @throws RegistryError MANIFEST_UNKNOWN for a reference that is not there, NAME_INVALID or MANIFEST_INVALID for bad or contradicting names.
 */
export function selectImages(entries: readonly LayoutEntry[], where: string, o: SelectionOptions): SelectedImage[] {
  const chosen = o.references ? byReference(entries, where, o.references) : entries;
  if (chosen.length === 0) throw new RegistryError("MANIFEST_UNKNOWN", `there is no image in ${where}`);
  if (o.tag !== undefined && chosen.length > 1) {
    throw new RegistryError(
      "MANIFEST_INVALID",
      `${where} holds ${chosen.length} images, which cannot all be ${o.tag}: choose one by references`,
    );
  }
  const byTag = new Map<string, Descriptor>();
  return chosen.flatMap((entry) => {
    const given = o.rename ? o.rename(entry) : {};
    if (!given) return [];
    const repository = given.repository ?? o.repository;
    if (repository === undefined) {
      throw new RegistryError("NAME_INVALID", `${describe(entry)} in ${where} needs a repository: pass one, or let rename give it`);
    }
    const tag = given.tag ?? o.tag ?? entry.tag;
    const image = {
      descriptor: entry.descriptor,
      repository: parseRepositoryName(repository),
      ...(tag !== undefined && { tag: parseTag(tag) }),
    };
    if (tag !== undefined) {
      const other = byTag.get(`${repository}:${tag}`);
      if (other && other.digest !== entry.descriptor.digest) {
        throw new RegistryError(
          "MANIFEST_INVALID",
          `two images in ${where} would be ${repository}:${tag}, ${other.digest} and ${entry.descriptor.digest}: choose by references, or let rename give other names`,
        );
      }
      byTag.set(`${repository}:${tag}`, entry.descriptor);
    }
    return [image];
  });
}

/**
 * Manifests of the layout that are named by their digest and that `index.json` does not list: children of an index, as that for the one platform that was saved.
 * @param references what an import is to take.
 */
export async function unlistedImages(
  source: LayoutSource,
  entries: readonly LayoutEntry[],
  references: readonly string[] = [],
): Promise<LayoutEntry[]> {
  const listed: ReadonlySet<string> = new Set(entries.map(({ descriptor }) => descriptor.digest));
  const found: LayoutEntry[] = [];
  for (const digest of new Set(references)) {
    if (!isDigest(digest) || listed.has(digest)) continue;
    const bytes = await smallFile(source, blobFile(digest), manifestSizeLimit);
    const mediaType = bytes && detectMediaType(bytes);
    if (bytes && mediaType) found.push({ descriptor: { mediaType, digest, size: bytes.byteLength } });
  }
  return found;
}

function byReference(entries: readonly LayoutEntry[], where: string, references: readonly string[]): LayoutEntry[] {
  const wanted = new Set(references);
  const missing = new Set(references);
  const chosen = entries.filter(({ name, tag, descriptor: { digest } }) => {
    const found = [name, tag, digest].filter((known) => known !== undefined && wanted.has(known));
    for (const reference of found) if (reference !== undefined) missing.delete(reference);
    return found.length > 0;
  });
  if (missing.size === 0) return chosen;
  const there = someOf(entries.map(describe)) || "nothing";
  throw new RegistryError("MANIFEST_UNKNOWN", `${someOf([...missing])} is not in ${where}, which holds ${there}`);
}

function describe({ name, descriptor }: LayoutEntry): string {
  return name === undefined ? descriptor.digest : JSON.stringify(name.slice(0, 300));
}

/** For each image of a docker archive, by the file of its config, the files of its layers. */
type DockerLayers = ReadonlyMap<string, readonly string[]>;

/** What docker writes beside a layout, in `manifest.json`; nothing where there is none. */
async function dockerLayers(source: LayoutSource): Promise<DockerLayers> {
  const layers = new Map<string, readonly string[]>();
  const bytes = await smallFile(source, "manifest.json", manifestSizeLimit);
  const images = bytes ? parsed(bytes) : undefined;
  for (const image of Array.isArray(images) ? images : []) {
    const { Config: config, Layers: files }: { Config?: unknown; Layers?: unknown } = image ?? {};
    if (typeof config === "string" && Array.isArray(files)) layers.set(config, files.map(String));
  }
  return layers;
}

/**
 * Docker 25.0.0 wrote the layers of a manifest in a wrong order (moby/moby#47150), candidates of it wrote none (moby/moby#47065): such an image would be broken.
 * @throws RegistryError UNSUPPORTED for a manifest that has the layers of `manifest.json` in another order, or none of them.
 */
function refuseMisordered(known: DockerLayers, { config, layers, subject }: Manifest, { path }: LayoutSource): void {
  // What is about another manifest may share that one's config. Docker saves no such thing.
  if (subject) return;
  const right = config && known.get(blobFile(config.digest));
  if (!right) return;
  const listed = layers.map(({ digest }) => blobFile(digest));
  const same = listed.join() === right.join();
  // Others are foreign layers, which the two name differently.
  if (same || (listed.length > 0 && [...listed].sort().join() !== [...right].sort().join())) return;
  throw new RegistryError(
    "UNSUPPORTED",
    `the layers of ${config.digest} in ${path} are in a wrong order, as docker 25.0.0 wrote them: convert it with "skopeo copy docker-archive:<file> oci-archive:<new file>:<tag>"`,
  );
}

function parsed(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString());
  } catch {
    return undefined;
  }
}
