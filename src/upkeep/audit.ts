import { type Auditable, Places } from "./auditable.js";
import { availability } from "./availability.js";
import { type AuditOptions, type AuditReport, examine } from "./examine.js";

/**
 * Which references of the manifests stored in an aggregate no member can give: configs, layers and the children of indexes. Whoever may have the bytes is asked by
 * HEAD, and only where they are not here. What could not be found out, since a member is down, is `unknown` and never `dangling`.
 *
 * @throws the signal's reason; RegistryError NAME_INVALID for a malformed `after`, UNKNOWN for a `concurrency` that is no whole number from 1.
 *
 * @example
 * ```ts
 * import { aggregate, audit, localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = aggregate({ local: localRegistry({ storage: memoryStorage(), name: "all" }), connectors: [] });
 * const { manifests, dangling } = await audit(all);
 * console.log(`${dangling.length} references of ${manifests} manifests lead nowhere`);
 * ```
 */
export async function audit(aggregate: Auditable, options: AuditOptions = {}): Promise<AuditReport> {
  const { local } = aggregate;
  const places = new Places(aggregate);
  const call = { priority: "background" as const, ...(options.signal && { signal: options.signal }) };
  return examine(local, options, async (repository, reference) => {
    const answer = await availability(local, places, repository, reference, call);
    return answer.kind === "here" || answer.kind === "given" ? { kind: "well" } : answer;
  });
}
