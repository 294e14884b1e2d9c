import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, test } from "vitest";

const mounted: string[] = [];

function mount(mebibytes: number, inodes?: number): string {
  const dir = mkdtempSync(join(tmpdir(), "manifold-disk-"));
  const options = `size=${mebibytes}m${inodes === undefined ? "" : `,nr_inodes=${inodes}`}`;
  execFileSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", dir], { stdio: "pipe" });
  mounted.push(dir);
  return dir;
}

function unmount(dir: string): void {
  execFileSync("umount", ["-l", dir], { stdio: "pipe" });
  rmSync(dir, { recursive: true, force: true });
}

afterAll(() => {
  for (const dir of mounted.splice(0)) unmount(dir);
});

/** A disk of so many MiB and files. Gone when the test file has ended. */
export class SmallDisk {
  readonly dir: string;
  readonly #ballast: string;

  constructor(mebibytes: number, inodes?: number) {
    this.dir = mount(mebibytes, inodes);
    this.#ballast = join(this.dir, "ballast");
  }

  get free(): number {
    const { bavail, bsize } = statfsSync(this.dir);
    return bavail * bsize;
  }

  /** Others take everything but so many bytes. */
  fill(leaving = 0): void {
    const file = openSync(this.#ballast, "a");
    const page = Buffer.alloc(4096, 1);
    try {
      while (this.free > leaving) writeSync(file, page);
    } catch (error) {
      if ((error as { code?: string }).code !== "ENOSPC") throw error;
    } finally {
      closeSync(file);
    }
  }

  /** Others give back what they took. */
  clear(): void {
    rmSync(this.#ballast, { force: true });
  }
}

/** `describe` for tests on a disk of their own. Where none can be made the group is skipped and says why; with CI set it fails instead. */
export function onSmallDisks(title: string, body: () => void): void {
  const reason = whyNot();
  if (reason === undefined) describe(title, body);
  else if (!process.env.CI) test.skip(`${title}: ${reason}`, () => {});
  else {
    test(title, () => {
      throw new Error(reason);
    });
  }
}

function whyNot(): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return "mounts a tmpfs, as root on Linux only";
  try {
    unmount(mount(1));
    mounted.pop();
    return undefined;
  } catch (error) {
    return `mount is not permitted here: ${error instanceof Error ? error.message.trim() : String(error)}`;
  }
}
