import { constants } from "node:fs";
import type { FileHandle } from "node:fs/promises";
import { posix } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { errorText, isRegistryError, RegistryError } from "../core/errors.js";
import { bytesBetween, type LayoutSource, openFile } from "./layout-source.js";
import type { Tar, TarHeader } from "./tar-stream.js";

/** More files than any layout has: an image has some ten. */
const entryLimit = 1_000_000;
/** What may stand between the files: headers with long names, and the zeros at the end. */
const betweenLimit = 1024 * 1024;
const attributeLimit = 100;

/** The files that make a layout; whatever else is in an archive is not looked at. */
const layoutFile = /^(?:oci-layout|index\.json|manifest\.json|blobs\/sha256\/[a-f0-9]{64}|blobs\/sha512\/[a-f0-9]{128})$/;

/** Where a file's bytes are in the archive. */
interface Place {
  readonly start: number;
  readonly size: number;
}

/** Links in a row; and other files that are remembered, since a link may lead to them. */
const linkLimit = 8;
const otherLimit = 100_000;

/**
 * A layout in a tar archive. It is read through once to find out where its files are; then they are read from there, in any order.
 * @throws RegistryError UNSUPPORTED for compressed archives, MANIFEST_INVALID for damaged ones; the signal's reason.
 */
export async function layoutArchive(path: string, tar: Tar, signal?: AbortSignal): Promise<LayoutSource> {
  const handle = await openFile(path, constants.O_RDONLY);
  try {
    await refuseCompressed(handle, path);
    const places = await placesIn(handle, path, tar, signal);
    return {
      path,
      size: async (file) => places.get(file)?.size,
      async *read(file) {
        const place = places.get(file);
        if (!place) throw new RegistryError("UNAVAILABLE", `${file} is not in ${path}`);
        yield* bytesBetween(handle, place.start, place.start + place.size, `${file} in ${path}`);
      },
      close: () => handle.close(),
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

const compressions = [
  { magic: "1f8b", tool: "gunzip" },
  { magic: "28b52ffd", tool: "unzstd" },
  { magic: "fd377a585a00", tool: "unxz" },
  { magic: "425a68", tool: "bunzip2" },
];

/** Files are read in any order, which a compressed archive does not allow. */
async function refuseCompressed(handle: FileHandle, path: string): Promise<void> {
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(8), 0, 8, 0);
  const start = buffer.subarray(0, bytesRead).toString("hex");
  const found = compressions.find(({ magic }) => start.startsWith(magic));
  if (found) throw new RegistryError("UNSUPPORTED", `${path} is compressed: unpack it with ${found.tool} first`);
}

async function placesIn(handle: FileHandle, path: string, tar: Tar, signal?: AbortSignal): Promise<Map<string, Place>> {
  const places = new Map<string, Place>();
  /** Files by names of their own, as `rootfs.tar.gz`, and links: by what they are called, what they lead to. */
  const others = new Map<string, Place>();
  const links = new Map<string, string>();
  const damaged = (why: string, cause?: unknown) =>
    new RegistryError("MANIFEST_INVALID", `${path} is no archive that can be read: ${why}`, { cause });
  let entries = 0;
  /** Where the content of the latest entry ends. */
  let end = 0;
  const note = ({ name, type, linkname, byteOffset = Number.NaN, size = Number.NaN, pax }: TarHeader) => {
    if (++entries > entryLimit) throw damaged(`it has more than ${entryLimit} entries`);
    // Attributes for all entries are copied into each.
    if (Object.keys(pax ?? {}).length > attributeLimit) throw damaged(`an entry has more than ${attributeLimit} attributes`);
    end = byteOffset + (type === "directory" ? 0 : size);
    // tar-stream answers null for a size in binary that it cannot read, and then waits for content without end.
    if (!Number.isSafeInteger(size) || size < 0 || !Number.isSafeInteger(end)) throw damaged("an entry has no size");
    const file = name.replace(/^(?:\.\/)+/, "");
    const isFile = type === "file" || type === "contiguous-file";
    // GNU tar writes a hard link for the second name of a file; its target is named from the top of the archive.
    if ((type === "symlink" || type === "link") && typeof linkname === "string" && links.size < otherLimit) {
      links.set(
        file,
        posix.normalize(type === "symlink" && !linkname.startsWith("/") ? posix.join(posix.dirname(file), linkname) : linkname),
      );
      return;
    }
    if (!layoutFile.test(file)) {
      if (isFile && others.size < otherLimit) others.set(posix.normalize(file), { start: byteOffset, size });
      return;
    }
    if (!isFile) throw new RegistryError("UNSUPPORTED", `${file} in ${path} is no plain file`);
    // Readers would not agree on which one counts. A blob's bytes are checked, whichever it is.
    if (places.has(file) && !file.startsWith("blobs/")) throw damaged(`it has two files ${file}`);
    places.set(file, { start: byteOffset, size });
  };
  const { size } = await handle.stat();
  const source = async function* () {
    let fed = 0;
    for await (const chunk of bytesBetween(handle, 0, size, path)) {
      signal?.throwIfAborted();
      if (fed - end > betweenLimit) throw damaged(`nothing that is known follows after byte ${end}`);
      fed += chunk.byteLength;
      yield chunk;
    }
  };
  const extract = tar.extract();
  extract.on("entry", (header: TarHeader, content: Readable, next: (error?: unknown) => void) => {
    // Told by the pipeline too; without a listener it would end the process.
    content.on("error", () => {});
    try {
      note(header);
    } catch (error) {
      next(error);
      return;
    }
    content.on("end", () => next());
    content.resume();
    // The content of a folder that states a size never ends.
    if (header.type === "directory" && header.size !== 0) next();
  });
  try {
    await pipeline(source, extract);
  } catch (error) {
    signal?.throwIfAborted();
    throw isRegistryError(error) ? error : damaged(errorText(error), error);
  }
  for (const file of links.keys()) {
    if (!layoutFile.test(file)) continue;
    const place = followed(file, links, (target) => places.get(target) ?? others.get(target));
    if (!place) throw leadsOut(path, file, links.get(file) ?? "");
    if (places.has(file) && !file.startsWith("blobs/")) throw damaged(`it has two files ${file}`);
    places.set(file, place);
  }
  return places;
}

/** The bytes that a link leads to, through others if need be. */
function followed(file: string, links: ReadonlyMap<string, string>, placeOf: (file: string) => Place | undefined): Place | undefined {
  let target = links.get(file);
  for (let followed = 0; target !== undefined && followed < linkLimit; followed++) {
    const place = placeOf(target);
    if (place) return place;
    target = links.get(target);
  }
  return undefined;
}

function leadsOut(path: string, file: string, target: string): RegistryError {
  const what = `${file} in ${path} is a link to ${JSON.stringify(target.slice(0, 300))}, which is not in the archive`;
  return new RegistryError(
    "UNSUPPORTED",
    `${what}: pack the layout with "tar -h --hard-dereference", which puts the files in place of links`,
  );
}
