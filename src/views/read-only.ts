import { RegistryError } from "../core/errors.js";
import type { Registry } from "../core/registry.js";
import { behindNamespaces, intercept } from "./intercept.js";

/**
 * A view that can be read and not changed: pushes and deletes throw UNSUPPORTED.
 *
 * @example
 * ```ts
 * import { localRegistry, readOnly } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const forEveryone = readOnly(release);
 * await forEveryone.startUpload("app").catch((error) => console.log(error.code)); // UNSUPPORTED
 * ```
 */
export function readOnly(registry: Registry): Registry {
  return intercept(
    registry,
    ({ access, repository }) => {
      if (access === "push" || access === "delete") throw new RegistryError("UNSUPPORTED", "this registry is read-only here");
      return repository;
    },
    () => behindNamespaces(registry, readOnly),
  );
}
