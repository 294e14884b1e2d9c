import { isBuiltin } from "node:module";
import { expect, test } from "vitest";
import { filesBelow, importsOf, read, run } from "./support.js";

interface Manifest {
  readonly dependencies?: Record<string, string>;
  readonly peerDependencies?: Record<string, string>;
  readonly peerDependenciesMeta?: Record<string, { optional?: boolean }>;
}

const manifest = JSON.parse(read("package.json")) as Manifest;
const runtime = ["lru-cache", "p-limit", "undici"];
/** Looked for at run time, and only by the file storage. */
const drivers = ["better-sqlite3", "libsql", "node:sqlite"];
/** The host's own, given to the S3 storage or loaded by it. */
const s3Packages = ["@aws-sdk/client-s3", "@aws-sdk/s3-request-presigner"];
/** Loaded only where archives are read or written. */
const archivePackages = ["tar-stream"];

test("the runtime dependencies are undici 7, p-limit and lru-cache", () => {
  expect(Object.keys(manifest.dependencies ?? {}).sort()).toEqual(runtime);
  expect(manifest.dependencies?.undici).toMatch(/^\^7\./);
});

test("every peer dependency is optional: a SQLite driver, the SDK of S3, or what reads and writes archives", () => {
  for (const name of Object.keys(manifest.peerDependencies ?? {})) {
    expect([...drivers, ...s3Packages, ...archivePackages]).toContain(name);
    expect(manifest.peerDependenciesMeta?.[name]?.optional).toBe(true);
  }
});

test("src imports nothing else", () => {
  const foreign: string[] = [];
  for (const file of filesBelow("src", ".ts")) {
    for (const { specifier, dynamic } of importsOf(file)) {
      const isDriver = drivers.includes(specifier);
      const allowed = isDriver
        ? dynamic && file.startsWith("src/storage/files/")
        : archivePackages.includes(specifier)
          ? dynamic && file.startsWith("src/layout/")
          : specifier.startsWith(".") ||
            (specifier.startsWith("node:") && isBuiltin(specifier)) ||
            runtime.includes(specifier.replace("/index.js", ""));
      if (!allowed) foreign.push(`${file} imports ${specifier}`);
    }
  }
  expect(foreign).toEqual([]);
});

test("every dependency has its entry in docs/dependencies.md", () => {
  const page = read("docs/dependencies.md");
  const { dependencies, devDependencies } = JSON.parse(read("package.json")) as Record<string, Record<string, string>>;
  const missing = Object.keys({ ...dependencies, ...devDependencies }).filter((name) => !page.includes(`\`${name}\``));
  expect(missing).toEqual([]);
});

test("the top level holds what a reader expects there and nothing else", async () => {
  const allowed =
    /^(?:package(?:-lock)?\.json|tsconfig(?:\.\w+)?\.json|src|test|examples|docs|README\.md|LICENSE|CHANGELOG\.md|biome\.json|vitest\.config\.ts|\..+)$/;
  const { status, stdout } = await run("git", ["ls-files", "-z"]);
  // Outside of a checkout, as in an unpacked archive, there is nothing to ask.
  if (status !== 0) return;
  const top = new Set(stdout.split("\0").map((path) => path.split("/")[0] ?? ""));
  top.delete("");
  expect([...top].filter((entry) => !allowed.test(entry))).toEqual([]);
});
