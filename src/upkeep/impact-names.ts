import pLimit from "p-limit";
import { orThrow } from "../core/lookup.js";
import { allPages } from "../core/page.js";
import { type Auditable, memberNamed, Places } from "./auditable.js";
import { answered } from "./availability.js";
import type { AuditOptions } from "./examine.js";

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
export async function namesOnlyAt(
  aggregate: Auditable,
  connector: string,
  { signal, concurrency = 8, limit = 1000 }: AuditOptions,
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
  // Its content is reached through links alone: it answers for no name.
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

async function* shownIn(aggregate: Auditable, names: AsyncIterable<string>): AsyncGenerator<string> {
  for await (const name of names) if (!aggregate.isReserved(name)) yield name;
}
