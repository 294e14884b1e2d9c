import type { Descriptor } from "./descriptor.js";
import { isRegistryError } from "./errors.js";
import type { StoringRegistry } from "./storing-registry.js";

/** Gives a repository what the store has. False when the bytes were evicted or collected in between. */
export async function addedUnlessGone(store: StoringRegistry, repository: string, descriptor: Descriptor): Promise<boolean> {
  try {
    await store.addBlobReference(repository, descriptor);
    return true;
  } catch (error) {
    if (isRegistryError(error) && error.code === "BLOB_UNKNOWN") return false;
    throw error;
  }
}
