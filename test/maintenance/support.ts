import { type AggregateRegistry, aggregate, type Connector, type Registry, RegistryError } from "oci-manifold";
import { chunksOf, type StoringRegistry } from "oci-manifold/extend";

/** The aggregate of these. */
export function joined(local: StoringRegistry, connectors: readonly Connector[], reserved: readonly string[] = []): AggregateRegistry {
  return aggregate({ local, connectors, reserved });
}

/** A registry that can be switched off. */
export function switchable(registry: Registry): { registry: Registry; down: boolean } {
  const handle = { registry, down: false };
  const error = new RegistryError("UNAVAILABLE", "it is down");
  handle.registry = new Proxy(registry, {
    get(target, property, receiver) {
      const value: unknown = Reflect.get(target, property, receiver);
      if (typeof value !== "function" || !/^(resolve|get|list)/.test(String(property))) return value;
      return (...args: unknown[]) => (handle.down ? Promise.resolve({ kind: "unavailable", error }) : value.apply(target, args));
    },
  });
  return handle;
}

/** Whose blobs come with another byte in the middle, as long as `corrupt` names their digests. */
export function corrupting(registry: Registry, corrupt: Set<string>): Registry {
  return {
    ...registry,
    async getBlob(repository, digest, o) {
      const lookup = await registry.getBlob(repository, digest, o);
      if (lookup.kind !== "found" || !corrupt.has(digest)) return lookup;
      const bytes = Buffer.alloc(lookup.value.descriptor.size, "x");
      return { ...lookup, value: { ...lookup.value, content: { kind: "bytes", bytes } } };
    },
  };
}

export async function rejection(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  );
}

export const put = (registry: Registry, repository: string, reference: string, bytes: Uint8Array, trust = false) =>
  registry.putManifest(repository, reference, { bytes }, trust ? { references: "trust" } : {});

export const store = (registry: Registry, repository: string, digest: string, bytes: Uint8Array) =>
  registry.putBlob(repository, { digest, size: bytes.byteLength }, chunksOf(bytes));
