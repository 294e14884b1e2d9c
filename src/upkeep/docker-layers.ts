import { RegistryError } from "../core/errors.js";
import { type Manifest, manifestSizeLimit } from "../core/manifest.js";
import { blobFile, type LayoutSource, smallFile } from "./layout-source.js";

/** For each image of a docker archive, by the file of its config, the files of its layers. */
export type DockerLayers = ReadonlyMap<string, readonly string[]>;

/** What docker writes beside a layout, in `manifest.json`; nothing where there is none. */
export async function dockerLayers(source: LayoutSource): Promise<DockerLayers> {
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
export function refuseMisordered(known: DockerLayers, { config, layers }: Manifest, { path }: LayoutSource): void {
  const right = config && known.get(blobFile(config.digest));
  if (!right) return;
  const told = layers.map(({ digest }) => blobFile(digest));
  const same = told.join() === right.join();
  // Others are foreign layers, which the two name differently.
  if (same || (told.length > 0 && [...told].sort().join() !== [...right].sort().join())) return;
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
