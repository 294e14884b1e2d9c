import { constants } from "node:fs";
import { lstat, realpath } from "node:fs/promises";
import { join } from "node:path";
import { RegistryError } from "../core/errors.js";
import { leadsNowhere } from "../core/system-code.js";
import { isWithin } from "./is-within.js";
import { bytesBetween, type LayoutSource, openFile, unreadableLayout } from "./layout-source.js";

/** A layout in a folder. A link in it may lead to another place in the folder, not out of it. */
export async function layoutFolder(path: string): Promise<LayoutSource> {
  const root = await realpath(path).catch((error: unknown) => Promise.reject(unreadableLayout(path, error)));
  const located = async (file: string): Promise<string | undefined> => {
    const named = join(root, file);
    let real: string;
    try {
      real = await realpath(named);
    } catch (error) {
      if (leadsNowhere(error)) return undefined;
      throw unreadableLayout(named, error);
    }
    if (isWithin(root, real)) return real;
    throw new RegistryError("UNSUPPORTED", `${named} is a link that leads out of the layout: copy what it points to into the folder`);
  };
  return {
    path,
    async size(file) {
      const real = await located(file);
      if (real === undefined) return undefined;
      const found = await lstat(real).catch((error: unknown) => Promise.reject(unreadableLayout(real, error)));
      if (found.isFile()) return found.size;
      throw noPlainFile(real);
    },
    async *read(file) {
      const real = await located(file);
      if (real === undefined) throw new RegistryError("UNAVAILABLE", `${file} is not in ${path} any more`);
      // Not through a link or into a pipe that took the file's place meanwhile.
      const handle = await openFile(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
      try {
        const found = await handle.stat();
        if (!found.isFile()) throw noPlainFile(real);
        yield* bytesBetween(handle, 0, found.size, real);
      } finally {
        await handle.close();
      }
    },
    async close() {},
  };
}

function noPlainFile(path: string): RegistryError {
  return new RegistryError("UNSUPPORTED", `${path} is no plain file`);
}
