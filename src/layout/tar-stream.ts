import type { Readable, Writable } from "node:stream";
import { errorText, RegistryError } from "../core/errors.js";

/** The module `tar-stream`. */
export interface TarStream {
  readonly extract: unknown;
  readonly pack: unknown;
}

/** The module, or what loads it when it is first needed. */
export type TarStreamSource = TarStream | (() => TarStream | Promise<TarStream>);

/** What stands in front of each file of an archive. */
export interface TarHeader {
  readonly name: string;
  readonly size?: number;
  readonly type?: string | null;
  /** Of a link: what it leads to. */
  readonly linkname?: string | null;
  /** Where its bytes begin in the archive. Only of what was read. */
  readonly byteOffset?: number;
  readonly mtime?: Date;
  readonly pax?: Readonly<Record<string, string>> | null;
}

/** Its streams are of another make than Node's, and do all that is asked of them here. */
export interface TarPack extends Readable {
  entry(header: TarHeader): Writable;
  finalize(): void;
}

/** What is used of the module. */
export interface Tar {
  /** Its event `entry` tells a {@link TarHeader}, the bytes as a stream, and what to call for the next one. */
  extract(): Writable;
  pack(): TarPack;
}

const tarPackage = "tar-stream";

/** @throws RegistryError UNAVAILABLE when the package is not installed. */
export async function loadTarStream(given?: TarStreamSource): Promise<Tar> {
  const module = await loaded(given);
  if (isTar(module)) return module;
  throw missing("that module has no extract and pack");
}

async function loaded(given: TarStreamSource | undefined): Promise<TarStream> {
  try {
    // A name in a variable: an import by a literal would need the types of a package that only users of archives have installed.
    return await (typeof given === "function" ? given() : (given ?? import(tarPackage)));
  } catch (error) {
    throw missing(errorText(error), error);
  }
}

function isTar(module: TarStream): module is Tar {
  return typeof module.extract === "function" && typeof module.pack === "function";
}

function missing(reason: string, cause?: unknown): RegistryError {
  return new RegistryError(
    "UNAVAILABLE",
    `archives need the package tar-stream: run "npm install tar-stream", pass the module as the option tarStream, or use a folder (${reason})`,
    { cause },
  );
}
