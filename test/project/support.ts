import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout. */
export const root = fileURLToPath(new URL("../..", import.meta.url));

export interface Run {
  /** `null` when a signal ended it. */
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; a failure is an answer, not a throw. */
export function run(file: string, args: readonly string[], o: { cwd?: string; env?: NodeJS.ProcessEnv } = {}): Promise<Run> {
  return new Promise((resolve) => {
    const options = { cwd: o.cwd ?? root, env: o.env ?? process.env, timeout: 120_000, maxBuffer: 16 * 2 ** 20 };
    execFile(file, [...args], options, (error, stdout, stderr) => {
      const code = error ? (typeof error.code === "number" ? error.code : null) : 0;
      resolve({ status: code, stdout, stderr: error && code === null ? `${stderr}${error.message}` : stderr });
    });
  });
}

/** The compiler of this checkout, as a script for node. */
export const tsc = join(root, "node_modules/typescript/bin/tsc");

/** Paths below the checkout, with "/" between segments, in order. */
export function filesBelow(folder: string, ending: string): string[] {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join("/"))
    .sort();
}

export function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

export interface Import {
  readonly specifier: string;
  /** Erased by the compiler: `import type` and `export type`. Not `import { type A }`, which still loads the module. */
  readonly typeOnly: boolean;
  readonly dynamic: boolean;
}

/** What a source file imports. Comments are left out, since their examples import too. */
export function importsOf(path: string): Import[] {
  const code = read(path)
    .replace(/\/\*[\s\S]*?\*\//g, "")
    .replace(/^\s*\/\/.*$/gm, "");
  const fixed = [...code.matchAll(/^(?:import|export)\s+(type\s+)?(?:[\w*{][^;"]*?\sfrom\s+)?"([^"]+)"/gm)].map(
    ([, type, specifier = ""]) => ({
      specifier,
      typeOnly: type !== undefined,
      dynamic: false,
    }),
  );
  const dynamic = [...code.matchAll(/\b(?:import|require)\s*\(\s*"([^"]+)"/g)].map(([, specifier = ""]) => ({
    specifier,
    typeOnly: false,
    dynamic: true,
  }));
  return [...fixed, ...dynamic];
}
