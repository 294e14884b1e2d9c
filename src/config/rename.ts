import type { NameMapping } from "../core/connector.js";
import { isRepositoryName } from "../core/name.js";
import { dockerLibrary, nameTable, prefixed, stripped } from "../views/names.js";
import { flag, named, objectAt, type Read, record, text } from "./reading.js";

/** How a source's repositories are called here. */
export type RenameConfig =
  /** `"hub/"`: the source's `library/node` is `hub/library/node` here. */
  | { readonly prefix: string }
  /** `"library/"`: the source's `library/node` is `node` here, and nothing else of it is shown. */
  | { readonly strip: string }
  /** Our name to the source's; nothing else of it is shown. */
  | { readonly map: Readonly<Record<string, string>> }
  /** Docker Hub's short names: its `library/node` is `node` here, other names stay. */
  | { readonly library: boolean };

const slashed: Read<string> = (value, path, problems) => {
  const read = text(value, path, problems);
  if (read === undefined || (read.endsWith("/") && isRepositoryName(read.slice(0, -1)))) return read;
  return problems.add(path, 'must be the beginning of repository names, up to a "/"');
};

const table: Read<Readonly<Record<string, string>>> = (value, path, problems) => {
  const read = named(text)(value, path, problems);
  if (read) problems.attempt(path, () => nameTable(read));
  return read;
};

export const rename: Read<RenameConfig> = (value, path, problems) => {
  const object = objectAt(value, path, problems);
  if (!object) return undefined;
  if ("strip" in object) return record<{ readonly strip: string }>(["strip"], { strip: slashed })(value, path, problems);
  if ("map" in object) return record<{ readonly map: Readonly<Record<string, string>> }>(["map"], { map: table })(value, path, problems);
  if ("library" in object) return record<{ readonly library: boolean }>(["library"], { library: flag })(value, path, problems);
  return record<{ readonly prefix: string }>(["prefix"], { prefix: slashed })(value, path, problems);
};

export function nameMapping(config: RenameConfig): NameMapping {
  if ("prefix" in config) return prefixed(config.prefix);
  if ("strip" in config) return stripped(config.strip);
  if ("map" in config) return nameTable(config.map);
  return config.library ? dockerLibrary() : prefixed("");
}
