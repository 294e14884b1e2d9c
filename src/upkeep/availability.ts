import type { Descriptor } from "../core/descriptor.js";
import { isRegistryError } from "../core/errors.js";
import type { LinkingRegistry } from "../core/linking-registry.js";
import type { LinkedBlob, Lookup, Origin } from "../core/lookup.js";
import type { Manifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { CallOptions, Registry } from "../core/registry.js";
import type { Place, Places } from "./auditable.js";

/** What a manifest refers to. */
export interface Reference {
  readonly descriptor: Descriptor;
  readonly as: "blob" | "manifest";
}

/** Whether what is referred to can be had, and why not. */
export type Availability =
  | { readonly kind: "here" }
  | { readonly kind: "given"; readonly member: string }
  /** Everybody who may be asked says that it is not there. */
  | { readonly kind: "dangling"; readonly why: string; readonly origin?: Origin }
  /** Nobody gives it, and somebody could not be asked. */
  | { readonly kind: "unknown"; readonly why: string; readonly origin?: Origin };

export function referencesOf(manifest: Manifest): Reference[] {
  const { blobs, children } = requiredReferences(manifest);
  const distinct = new Map(children.map((child) => [child.digest, child]));
  return [
    ...blobs.map((descriptor) => ({ descriptor, as: "blob" as const })),
    ...[...distinct.values()].map((descriptor) => ({ descriptor, as: "manifest" as const })),
  ];
}

/** How a reference stands in the local registry: `as` may turn out to be a blob, since BuildKit's older cache layout lists blobs in an index. */
export async function standing(
  local: Registry,
  repository: string,
  { descriptor, as }: Reference,
  o?: CallOptions,
): Promise<{ readonly here: boolean; readonly origin?: Origin; readonly as: Reference["as"] }> {
  if (as === "manifest" && (await local.resolveManifest(repository, descriptor.digest, o)).kind === "found") return { here: true, as };
  const blob = await local.resolveBlob(repository, descriptor.digest, o);
  if (blob.kind === "found") return { here: true, as: "blob" };
  return blob.kind === "linked" ? { here: false, origin: blob.origin, as: "blob" } : { here: false, as };
}

/** Asks, by HEAD and only where the bytes are not here, who has what a manifest of this repository refers to. */
export async function availability(
  local: LinkingRegistry,
  places: Places,
  repository: string,
  reference: Reference,
  o?: CallOptions,
): Promise<Availability> {
  const { here, origin, as } = await standing(local, repository, reference, o);
  if (here) return { kind: "here" };
  const asked = await askPlaces(places.of(repository, origin), { ...reference, as }, o);
  if (asked.kind === "given" || !origin) return asked;
  const asksOrigin = places.of(repository, origin).some(({ member }) => member === origin.member);
  return { ...asked, why: asksOrigin ? asked.why : `${asked.why}; ${origin.member} is no connector here`, origin };
}

export async function askPlaces(
  places: readonly Place[],
  { descriptor: { digest, size }, as }: { readonly descriptor: LinkedBlob; readonly as: Reference["as"] },
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
