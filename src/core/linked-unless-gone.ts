import type { Descriptor } from "./descriptor.js";
import { isRegistryError } from "./errors.js";
import type { LinkingRegistry } from "./linking-registry.js";

/** Gives a repository what the store has. False when the bytes were evicted or collected in between. */
export async function linkedUnlessGone(store: LinkingRegistry, repository: string, descriptor: Descriptor): Promise<boolean> {
  try {
    await store.linkBlob(repository, descriptor);
    return true;
  } catch (error) {
    if (isRegistryError(error) && error.code === "BLOB_UNKNOWN") return false;
    throw error;
  }
}
