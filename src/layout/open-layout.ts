import { RegistryError } from "../core/errors.js";
import { layoutArchive } from "./layout-archive.js";
import { layoutFolder } from "./layout-folder.js";
import { kindOf, type LayoutSource } from "./layout-source.js";
import { loadTarStream, type TarStreamSource } from "./tar-stream.js";

/** Opens a layout, whether it is a folder or an archive. */
export async function openLayout(
  path: string,
  o: { readonly tarStream?: TarStreamSource; readonly signal?: AbortSignal },
): Promise<LayoutSource> {
  switch (await kindOf(path)) {
    case "absent":
      throw new RegistryError("UNAVAILABLE", `there is no folder or archive ${path}`);
    case "folder":
      return layoutFolder(path);
    case "file":
      return layoutArchive(path, await loadTarStream(o.tarStream), o.signal);
  }
}
