import { type AggregateOptions, aggregate, type Connector, localRegistry, type Registry, RegistryError } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";

export type FailureCode = "UNAVAILABLE" | "TOOMANYREQUESTS" | "DENIED" | "UNAUTHORIZED";

/** A registry whose reads all fail. */
export function failing(code: FailureCode, retryAfter?: number): Registry {
  const error = new RegistryError(code, "no", retryAfter === undefined ? {} : { retryAfter });
  const kind = code === "DENIED" || code === "UNAUTHORIZED" ? "denied" : "unavailable";
  const answer = async () => ({ kind, error }) as const;
  return {
    ...localRegistry({ storage: memoryStorage(), name: "failing" }),
    resolveManifest: answer,
    getManifest: answer,
    resolveBlob: answer,
    getBlob: answer,
    listTags: answer,
    listRepositories: answer,
    listReferrers: answer,
  };
}

export function store(name: string): StoringRegistry {
  return localRegistry({ storage: memoryStorage(), name });
}

/** An aggregate with a store of its own. */
export function joined(connectors: readonly Connector[], options: Partial<AggregateOptions> = {}) {
  return aggregate({ local: store("own"), connectors, ...options });
}
