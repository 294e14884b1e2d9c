/**
 * OCI image layouts, as folders or tar archives: `exportLayout` writes images of a registry into one, `importLayout` puts images of one into a registry. The format is
 * that of image-spec, "OCI Image Layout"; `docker save` and BuildKit write it too. Archives need the package `tar-stream`.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { exportLayout, importLayout } from "oci-manifold/layout";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const mirror = localRegistry({ storage, name: "mirror" });
 * async function carry(folder: string): Promise<void> {
 *   await exportLayout(release, folder, { repository: "team/app", references: ["1.0"] });
 *   await importLayout(mirror, folder, { repository: "team/app" });
 * }
 * ```
 */
export { type ExportedImage, type ExportLayoutOptions, type ExportLayoutReport, exportLayout } from "./export-layout.js";
export {
  type ImportedImage,
  type ImportLayoutOptions,
  type ImportLayoutReport,
  importLayout,
  type LayoutProgress,
} from "./import-layout.js";
export type { LayoutEntry } from "./layout-index.js";
export type { TarStream, TarStreamSource } from "./tar-stream.js";
