import { LRUCache } from "lru-cache";
import pLimit from "p-limit";
import { orThrow } from "../core/lookup.js";
import { allPages } from "../core/page.js";
import { answered, askPlaces, availability, type InspectableAggregate, localState, memberNamed, Places } from "./availability.js";
import { examineManifests, type FindDanglingOptions, type FindDanglingReport } from "./find-dangling.js";

export interface ImpactReport extends FindDanglingReport {
  /** Of distinct blobs and manifests that would dangle. */
  readonly bytes: number;
  /** Repositories that no longer resolve by name. */
  readonly names: LostNames;
}

/** So many digests are remembered as counted. */
const counted = 100_000;

/**
 * What removing a connector would break: references of stored manifests that it alone can give (`dangling`), or perhaps alone, where it or another member could
 * not be asked (`unknown`), and the names that only it answers for. What dangles already is not reported. Nothing is changed.
 *
 * @throws RegistryError NAME_UNKNOWN when there is no such connector, NAME_INVALID for a malformed `after`, UNKNOWN for a `concurrency` that is no whole number from 1;
 *   the signal's reason.
 *
 * @example
 * ```ts
 * import { aggregate, localRegistry } from "oci-manifold";
 * import { impactOfRemoving } from "oci-manifold/maintenance";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const storage = memoryStorage();
 * const release = localRegistry({ storage, name: "release" });
 * const all = aggregate({ local: localRegistry({ storage, name: "all" }), connectors: [{ name: "release", source: release }] });
 * const { dangling, names, bytes } = await impactOfRemoving(all, "release");
 * console.log(dangling.length, names.lost, bytes);
 * ```
 */
export async function impactOfRemoving(
  aggregate: InspectableAggregate,
  connector: string,
  options: FindDanglingOptions = {},
): Promise<ImpactReport> {
  const { local } = aggregate;
  memberNamed(aggregate, connector);
  const others = new Places(aggregate, (name) => name !== connector);
  const only = new Places(aggregate, (name) => name === connector);
  const { signal } = options;
  const call = { priority: "background" as const, ...(signal && { signal }) };
  const seen = new LRUCache<string, true>({ max: counted });
  let bytes = 0;
  const report = await examineManifests(local, options, async (repository, reference) => {
    const without = await availability(local, others, repository, reference, call);
    if (without.kind === "here" || without.kind === "given") return { kind: "well" };
    const { origin, as } = await localState(local, repository, reference, call);
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

export interface LostNames {
  /** Repositories that only this connector answers for. */
  readonly lost: readonly string[];
  /** Repositories that it answers for, while another member could not be asked. */
  readonly unknown: readonly string[];
  /** Beyond the limit of both lists. */
  readonly omitted: number;
  /** Why there may be more: the connector does not list all its repositories, and nobody has recorded the others. */
  readonly incomplete?: string;
}

const pageSize = 100;

/** The names that a connector is known to answer for, by record or by its own catalog, and that nobody else has. */
async function namesOnlyAt(
  aggregate: InspectableAggregate,
  connector: string,
  { signal, concurrency = 8, limit = 1000 }: FindDanglingOptions,
): Promise<LostNames> {
  const others = new Places(aggregate, (name) => name !== connector);
  const limited = pLimit(concurrency);
  const call = { priority: "background" as const, ...(signal && { signal }) };
  const lost = new Set<string>();
  const unknown = new Set<string>();
  let omitted = 0;
  let incomplete: string | undefined;

  const resolves = async (repository: string): Promise<"yes" | "no" | "unknown"> => {
    let failed = false;
    const here = { registry: aggregate.local, repository };
    for (const { registry, repository: there } of [here, ...others.named(repository)]) {
      signal?.throwIfAborted();
      const tags = await answered(() => registry.listTags(there, { limit: 1 }, call));
      if (tags.kind === "found" && tags.value.items.length > 0) return "yes";
      if (tags.kind === "denied" || tags.kind === "unavailable") failed = true;
    }
    return failed ? "unknown" : "no";
  };
  const consider = async (repository: string): Promise<void> => {
    if (lost.has(repository) || unknown.has(repository)) return;
    const answer = await resolves(repository);
    if (answer === "yes") return;
    if (lost.size + unknown.size >= limit) omitted++;
    else (answer === "no" ? lost : unknown).add(repository);
  };
  const considerAll = async (names: AsyncIterable<string>): Promise<void> => {
    let some: string[] = [];
    const flush = async () => {
      await Promise.all(some.map((name) => limited(() => consider(name))));
      some = [];
    };
    for await (const name of names) if (some.push(name) === pageSize) await flush();
    await flush();
  };

  const { byName } = memberNamed(aggregate, connector);
  // Its content is reached through blob references alone: it answers for no name.
  if (!byName) return { lost: [], unknown: [], omitted };
  const warnings = new Set<string>();
  const listing = await answered(() => byName.listRepositories({ limit: 1 }, call));
  if (listing.kind === "found") {
    const list = allPages(
      async (page) => orThrow(await byName.listRepositories(page, call)),
      pageSize,
      (warning) => warnings.add(warning),
    );
    await considerAll(shownIn(aggregate, list));
  }
  if (listing.kind !== "found" || warnings.size > 0) {
    incomplete = `${connector} does not list all its repositories: others are known only if they were pulled through this aggregate`;
    const memory = aggregate.local.nameMemory();
    const list = allPages((page) => memory.list(page), pageSize);
    await considerAll(shownIn(aggregate, recordedFor(connector, list)));
  }
  return { lost: [...lost].sort(), unknown: [...unknown].sort(), omitted, ...(incomplete && { incomplete }) };
}

async function* recordedFor(
  connector: string,
  list: AsyncIterable<{ readonly repository: string; readonly member: string }>,
): AsyncGenerator<string> {
  for await (const { repository, member } of list) if (member === connector) yield repository;
}

async function* shownIn(aggregate: InspectableAggregate, names: AsyncIterable<string>): AsyncGenerator<string> {
  for await (const name of names) if (!aggregate.isReserved(name)) yield name;
}
