import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import { parseRepositoryName, parseTag } from "../core/name.js";
import type { LayoutEntry } from "./layout-entries.js";
import { someOf } from "./some-of.js";

/** An image of a layout, and where it goes. */
export interface SelectedImage {
  readonly descriptor: Descriptor;
  readonly repository: string;
  readonly tag?: string;
}

export interface SelectionOptions {
  readonly repository?: string;
  readonly references?: readonly string[];
  readonly tag?: string;
  readonly rename?: (entry: LayoutEntry) => { readonly repository?: string; readonly tag?: string } | undefined;
}

/**
 * What of a layout is imported, and under which names.
 * @throws RegistryError MANIFEST_UNKNOWN for a reference that is not there, NAME_INVALID or MANIFEST_INVALID for bad or contradicting names.
 */
export function selectImages(entries: readonly LayoutEntry[], where: string, o: SelectionOptions): SelectedImage[] {
  const chosen = o.references ? byReference(entries, where, o.references) : entries;
  if (chosen.length === 0) throw new RegistryError("MANIFEST_UNKNOWN", `there is no image in ${where}`);
  if (o.tag !== undefined && chosen.length > 1) {
    throw new RegistryError(
      "MANIFEST_INVALID",
      `${where} holds ${chosen.length} images, which cannot all be ${o.tag}: choose one by references`,
    );
  }
  const standing = new Map<string, Descriptor>();
  return chosen.flatMap((entry) => {
    const given = o.rename ? o.rename(entry) : {};
    if (!given) return [];
    const repository = given.repository ?? o.repository;
    if (repository === undefined) {
      throw new RegistryError("NAME_INVALID", `${describe(entry)} in ${where} needs a repository: pass one, or let rename give it`);
    }
    const tag = given.tag ?? o.tag ?? entry.tag;
    const image = {
      descriptor: entry.descriptor,
      repository: parseRepositoryName(repository),
      ...(tag !== undefined && { tag: parseTag(tag) }),
    };
    if (tag !== undefined) {
      const other = standing.get(`${repository}:${tag}`);
      if (other && other.digest !== entry.descriptor.digest) {
        throw new RegistryError(
          "MANIFEST_INVALID",
          `two images in ${where} would be ${repository}:${tag}, ${other.digest} and ${entry.descriptor.digest}: choose by references, or let rename give other names`,
        );
      }
      standing.set(`${repository}:${tag}`, entry.descriptor);
    }
    return [image];
  });
}

function byReference(entries: readonly LayoutEntry[], where: string, references: readonly string[]): LayoutEntry[] {
  const wanted = new Set(references);
  const missing = new Set(references);
  const chosen = entries.filter(({ name, tag, descriptor: { digest } }) => {
    const found = [name, tag, digest].filter((known) => known !== undefined && wanted.has(known));
    for (const reference of found) if (reference !== undefined) missing.delete(reference);
    return found.length > 0;
  });
  if (missing.size === 0) return chosen;
  const there = someOf(entries.map(describe)) || "nothing";
  throw new RegistryError("MANIFEST_UNKNOWN", `${someOf([...missing])} is not in ${where}, which holds ${there}`);
}

function describe({ name, descriptor }: LayoutEntry): string {
  return name === undefined ? descriptor.digest : JSON.stringify(name.slice(0, 300));
}
