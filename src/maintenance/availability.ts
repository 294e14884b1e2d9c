import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import type { Lookup, Origin, ReferencedBlob } from "../core/lookup.js";
import type { Manifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { StoringRegistry } from "../core/storing-registry.js";

/**
 * Where what a manifest refers to can be had: here ({@link localState}), or from which members of an aggregate, under the rules of a pull ({@link Places}).
 * {@link availability} answers both. Jobs that look for dangling references ask no more than that; those that copy transfer from the places (`blob-transfer.ts`).
 */

/** What a manifest refers to. */
export interface ManifestReference {
  readonly descriptor: Descriptor;
  readonly as: "blob" | "manifest";
}

/** Whether what is referred to can be had, and why not. */
type Availability =
  | { readonly kind: "here" }
  | { readonly kind: "given"; readonly member: string }
  /** Everybody who may be asked says that it is not there. */
  | { readonly kind: "dangling"; readonly why: string; readonly origin?: Origin }
  /** Nobody gives it, and somebody could not be asked. */
  | { readonly kind: "unknown"; readonly why: string; readonly origin?: Origin };

/** Asks, by HEAD and only where the bytes are not here, who has what a manifest of this repository refers to. */
export async function availability(
  local: StoringRegistry,
  places: Places,
  repository: string,
  reference: ManifestReference,
  o?: CallOptions,
): Promise<Availability> {
  const { here, origin, as } = await localState(local, repository, reference, o);
  if (here) return { kind: "here" };
  const asked = await askPlaces(places.of(repository, origin), { ...reference, as }, o);
  if (asked.kind === "given" || !origin) return asked;
  const asksOrigin = places.of(repository, origin).some(({ member }) => member === origin.member);
  return { ...asked, why: asksOrigin ? asked.why : `${asked.why}; ${origin.member} is no connector here`, origin };
}

export function manifestReferencesOf(manifest: Manifest): ManifestReference[] {
  const { blobs, children } = requiredReferences(manifest);
  const distinct = new Map(children.map((child) => [child.digest, child]));
  return [
    ...blobs.map((descriptor) => ({ descriptor, as: "blob" as const })),
    ...[...distinct.values()].map((descriptor) => ({ descriptor, as: "manifest" as const })),
  ];
}

/** What the local registry has of a reference: `as` may turn out to be a blob, since BuildKit's older cache layout lists blobs in an index. */
export async function localState(
  local: Registry,
  repository: string,
  { descriptor, as }: ManifestReference,
  o?: CallOptions,
): Promise<{ readonly here: boolean; readonly origin?: Origin; readonly as: ManifestReference["as"] }> {
  if (as === "manifest" && (await local.resolveManifest(repository, descriptor.digest, o)).kind === "found") return { here: true, as };
  const blob = await local.resolveBlob(repository, descriptor.digest, o);
  if (blob.kind === "found") return { here: true, as: "blob" };
  return blob.kind === "linked" ? { here: false, origin: blob.origin, as: "blob" } : { here: false, as };
}

export async function askPlaces(
  places: readonly ContentPlace[],
  { descriptor: { digest, size }, as }: { readonly descriptor: ReferencedBlob; readonly as: ManifestReference["as"] },
  o?: CallOptions,
): Promise<Exclude<Availability, { kind: "here" }>> {
  const failures: string[] = [];
  const others: string[] = [];
  for (const { member, registry, repository } of places) {
    o?.signal?.throwIfAborted();
    const answer = await answered(() =>
      as === "manifest" ? registry.resolveManifest(repository, digest, o) : registry.resolveBlob(repository, digest, o),
    );
    const isOther = answer.kind === "found" && size !== undefined && answer.value.size !== size;
    if (answer.kind === "found" && !isOther) return { kind: "given", member };
    if (answer.kind === "found") others.push(`${member} states ${answer.value.size} bytes instead of ${size}`);
    if (answer.kind === "denied" || answer.kind === "unavailable") failures.push(`${member}: ${answer.error.message}`);
  }
  if (failures.length > 0) return { kind: "unknown", why: failures.join("; ") };
  if (others.length > 0) return { kind: "dangling", why: others.join("; ") };
  const asked = [...new Set(places.map(({ member }) => member))];
  return { kind: "dangling", why: asked.length === 0 ? "no connector may be asked for it" : `not at ${asked.join(", ")}` };
}

/** A member that throws could not be asked; only an abort ends everything. */
export async function answered<T>(ask: () => Promise<Lookup<T>>): Promise<Lookup<T>> {
  try {
    return await ask();
  } catch (error) {
    if (isRegistryError(error)) return { kind: "unavailable", error };
    throw error;
  }
}

/** A connector as the aggregate has made it ready. */
export interface InspectableMember {
  readonly connector: { readonly name: string };
  /** Filtered, under the source's own names: what blob references speak of. */
  readonly bySourceName: Registry;
  /** Filtered, under the aggregate's names; `undefined` where the connector is never asked by name. */
  readonly byName: Registry | undefined;
  /** The source's name for one of ours. */
  toSource(repository: string): string | undefined;
}

/** What an aggregate shows of itself to maintenance jobs. */
export interface InspectableAggregate extends Registry {
  /** The write target. */
  readonly local: StoringRegistry;
  /** Its connectors as they are at the moment, in order. */
  readonly members: readonly InspectableMember[];
  /** Whether connectors are never asked for this repository by name. */
  isReserved(repository: string): boolean;
}

/** A place where content of one of our repositories may be had: filters and names are applied already. */
export interface ContentPlace {
  readonly member: string;
  readonly registry: Registry;
  readonly repository: string;
}

/** Where an aggregate's members may have what a repository of ours refers to: the same rules as for a pull. */
export class Places {
  readonly #aggregate: InspectableAggregate;
  readonly #counts: (connector: string) => boolean;

  /** @param counts which of the connectors are asked. */
  constructor(aggregate: InspectableAggregate, counts: (connector: string) => boolean = () => true) {
    this.#aggregate = aggregate;
    this.#counts = counts;
  }

  /** Read anew each time: connectors may change while something runs. */
  get #members(): readonly InspectableMember[] {
    return this.#aggregate.members.filter(({ connector }) => this.#counts(connector.name));
  }

  /** The origin first, if its connector is here; then whoever may be asked by name, in order. */
  of(repository: string, origin?: Origin): ContentPlace[] {
    const atOrigin = this.#members.find(({ connector }) => connector.name === origin?.member);
    const places = this.named(repository);
    if (!atOrigin || !origin) return places;
    const first = { member: origin.member, registry: atOrigin.bySourceName, repository: origin.repository };
    const sameName = atOrigin.toSource(repository) === origin.repository;
    return [first, ...places.filter(({ member }) => member !== origin.member || !sameName)];
  }

  named(repository: string): ContentPlace[] {
    if (this.#aggregate.isReserved(repository)) return [];
    return this.#members.flatMap(({ connector, byName }) => (byName ? [{ member: connector.name, registry: byName, repository }] : []));
  }
}

/** @throws RegistryError NAME_UNKNOWN when the aggregate has no connector of that name. */
export function memberNamed(aggregate: InspectableAggregate, name: string): InspectableMember {
  const member = aggregate.members.find(({ connector }) => connector.name === name);
  if (member) return member;
  const known = aggregate.members.map(({ connector }) => connector.name).join(", ") || "none";
  throw new RegistryError("NAME_UNKNOWN", `there is no connector ${JSON.stringify(name)}: the connectors are ${known}`);
}
