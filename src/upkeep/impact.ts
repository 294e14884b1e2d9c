import { LRUCache } from "lru-cache";
import { type Auditable, memberNamed, Places } from "./auditable.js";
import { askPlaces, availability, standing } from "./availability.js";
import { type AuditOptions, type AuditReport, examine } from "./examine.js";
import { type LostNames, namesOnlyAt } from "./impact-names.js";

export interface ImpactReport extends AuditReport {
  /** Of distinct blobs and manifests that would dangle. */
  readonly bytes: number;
  /** Repositories that no longer resolve by name. */
  readonly names: LostNames;
}

/** So many digests are remembered as counted. */
const counted = 100_000;

/**
 * What removing a connector would break: references of stored manifests that it alone can give (`dangling`), or perhaps alone, where it or another member could
 * not be asked (`unknown`), and the names that only it answers for. What dangles already is not told. Nothing is changed.
 *
 * @throws RegistryError NAME_UNKNOWN when there is no such connector, NAME_INVALID for a malformed `after`, UNKNOWN for a `concurrency` that is no whole number from 1;
 *   the signal's reason.
 *
 * @example
 * ```ts
 * import { aggregate, impactOfRemoving, localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const all = aggregate({ local: localRegistry({ storage, name: "all" }), connectors: [{ name: "release", source: release }] });
 * const { dangling, names, bytes } = await impactOfRemoving(all, "release");
 * console.log(dangling.length, names.lost, bytes);
 * ```
 */
export async function impactOfRemoving(aggregate: Auditable, connector: string, options: AuditOptions = {}): Promise<ImpactReport> {
  const { local } = aggregate;
  memberNamed(aggregate, connector);
  const others = new Places(aggregate, (name) => name !== connector);
  const only = new Places(aggregate, (name) => name === connector);
  const { signal } = options;
  const call = { priority: "background" as const, ...(signal && { signal }) };
  const seen = new LRUCache<string, true>({ max: counted });
  let bytes = 0;
  const report = await examine(local, options, async (repository, reference) => {
    const without = await availability(local, others, repository, reference, call);
    if (without.kind === "here" || without.kind === "given") return { kind: "well" };
    const { origin, as } = await standing(local, repository, reference, call);
    const now = await askPlaces(only.of(repository, origin), { ...reference, as }, call);
    // It does not give it either: removing it changes nothing.
    if (now.kind === "dangling") return { kind: "well" };
    if (now.kind === "unknown") return { ...now, ...(origin && { origin }) };
    if (without.kind === "unknown") return without;
    const { digest, size } = reference.descriptor;
    if (!seen.has(digest)) bytes += size;
    seen.set(digest, true);
    return { kind: "dangling", why: `only ${connector} gives it`, ...(origin && { origin }) };
  });
  return { ...report, bytes, names: await namesOnlyAt(aggregate, connector, options) };
}
