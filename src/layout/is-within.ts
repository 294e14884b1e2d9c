import { sep } from "node:path";

/** Whether a path lies below a folder. Both without symbolic links, as `realpath` gives them. */
export function isWithin(folder: string, path: string): boolean {
  return path.startsWith(folder.endsWith(sep) ? folder : `${folder}${sep}`);
}
