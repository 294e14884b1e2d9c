import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { requires } from "../interop/requires.js";

const undo: (() => void)[] = [];

afterAll(() => {
  for (const one of undo.splice(0).reverse()) one();
});

/** A disk in a file, with ext4 on it. What the file has is what the disk was told to write: a copy of the file is the disk after a power loss. */
export class LoopDisk {
  readonly dir: string;
  readonly #image: string;
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
    this.#image = join(folder, "image");
    this.dir = join(folder, "mounted");
  }

  static create(mebibytes: number): LoopDisk {
    const disk = new LoopDisk(mkdtempSync(join(tmpdir(), "manifold-loop-")));
    writeFileSync(disk.#image, "");
    truncateSync(disk.#image, mebibytes * 1024 * 1024);
    execFileSync("mkfs.ext4", ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", disk.#image]);
    return disk.#mount();
  }

  /** The disk as it is at this moment, without what the system had still in memory. Nothing may write meanwhile. */
  afterPowerLoss(): LoopDisk {
    const copy = new LoopDisk(mkdtempSync(join(tmpdir(), "manifold-loop-")));
    execFileSync("cp", ["--reflink=never", "--sparse=always", this.#image, copy.#image]);
    return copy.#mount();
  }

  /** With no journal commit of the system's own accord: what is there was asked for. */
  #mount(): LoopDisk {
    execFileSync("mkdir", ["-p", this.dir]);
    execFileSync("mount", ["-o", "loop,commit=600", this.#image, this.dir], { stdio: "pipe" });
    undo.push(() => this.remove());
    return this;
  }

  remove(): void {
    spawnSync("umount", ["-l", this.dir]);
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** `describe` for tests with disks in files. Some machines have no loop devices, also those that run all checks. */
export function onLoopDisks(title: string, body: () => void): void {
  const reason = whyNot();
  if (reason === undefined) {
    requires("mkfs.ext4", "losetup")(title, body);
  } else {
    console.warn(`${title}: ${reason}`);
    test.skip(`${title}: ${reason}`, () => {});
  }
}

function whyNot(): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return "mounts disks in files, as root on Linux only";
  if (spawnSync("mkfs.ext4", ["-V"]).error) return undefined;
  try {
    LoopDisk.create(8).remove();
    return undefined;
  } catch (error) {
    return `no loop device can be mounted here: ${error instanceof Error ? error.message.trim() : String(error)}`;
  }
}
