import { opendir, stat } from "node:fs/promises";
import { join } from "node:path";
import { firstOf, type Page, type PageRequest, pageOf } from "../../core/page.js";
import { leadsNowhere } from "../../core/system-code.js";
import { isMissing } from "./disk-errors.js";

interface FolderEntry {
  readonly name: string;
  readonly size: number;
  /** When its bytes were last written, and when its names last changed. */
  readonly modifiedAt: number;
  readonly changedAt: number;
}

/** Entries that the system gives at a time. */
const bufferSize = 256;
/** At most so many are asked about at a time. */
const statsAtOnce = 64;

/** The first names of a folder in ASCII order, at most `limit` of those after `after`. A folder has no order, so all of it is read. */
export async function firstNames(path: string, page: PageRequest, isWanted: (name: string) => boolean): Promise<string[]> {
  try {
    return await firstOf(await opendir(path, { bufferSize }), page, ({ name }) => (isWanted(name) ? name : undefined));
  } catch (error) {
    // Not created yet, or a file that someone else put there.
    if (leadsNowhere(error)) return [];
    throw error;
  }
}

/** The same with what the file system knows of each; those that go meanwhile are left out. */
export async function firstEntries(
  path: string,
  { after = "", limit }: PageRequest,
  isWanted: (name: string) => boolean,
): Promise<FolderEntry[]> {
  const entries: FolderEntry[] = [];
  for (let from = after; ; ) {
    const wanted = limit - entries.length;
    const names = await firstNames(path, { after: from, limit: wanted }, isWanted);
    for (let at = 0; at < names.length; at += statsAtOnce) {
      const described = await Promise.all(names.slice(at, at + statsAtOnce).map((name) => entryAt(path, name)));
      for (const entry of described) if (entry) entries.push(entry);
    }
    from = names.at(-1) ?? from;
    if (names.length < wanted || entries.length === limit) return entries;
  }
}

/** A page of a folder's entries, in ASCII order. */
export async function folderPage(path: string, { after = "", limit }: PageRequest): Promise<Page<FolderEntry>> {
  const entries = await firstEntries(path, { after, limit: limit + 1 }, () => true);
  return pageOf(entries, limit, ({ name }) => name);
}

/** `undefined` once it is gone. */
async function entryAt(path: string, name: string): Promise<FolderEntry | undefined> {
  try {
    const { size, mtimeMs, ctimeMs } = await stat(join(path, name));
    return { name, size, modifiedAt: mtimeMs, changedAt: ctimeMs };
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}
