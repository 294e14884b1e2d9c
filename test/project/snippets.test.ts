import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { allSnippets } from "./snippets.js";
import { root, run, tsc } from "./support.js";

// Inside the checkout, so that the library's own name leads to dist by the package's exports.
const folder = join(root, "test/.snippets");
const snippets = allSnippets();
const runner = join(root, "test/project/snippet-runner.mjs");

beforeAll(() => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  const compilerOptions = { paths: {}, noEmit: false, rootDir: ".", outDir: "out", noUnusedLocals: false };
  writeFileSync(
    join(folder, "tsconfig.json"),
    JSON.stringify({ extends: "../../tsconfig.json", compilerOptions, include: ["*.ts"], exclude: [] }),
  );
  for (const { name, code } of snippets) writeFileSync(join(folder, `${name}.ts`), code);
});

test("there are snippets to check", () => {
  expect(snippets.length).toBeGreaterThan(10);
});

test("every snippet is a whole module", () => {
  expect(snippets.filter(({ code }) => !/^import /m.test(code)).map(({ place }) => place)).toEqual([]);
});

describe("snippets", () => {
  beforeAll(async () => {
    const { status, stdout, stderr } = await run(process.execPath, [tsc, "-p", folder]);
    // The file's name holds the place: README-md-12.ts is the block that begins in line 12 of README.md.
    expect({ status, said: stdout + stderr }).toEqual({ status: 0, said: "" });
  });

  test.concurrent.each(snippets)("$place runs", async ({ name, code }) => {
    const cwd = mkdtempSync(join(tmpdir(), "manifold-snippet-"));
    try {
      const { NODE_OPTIONS: _, ...rest } = process.env;
      const env = { ...rest, ...(code.includes('"node:test"') && { SNIPPET_HAS_TESTS: "1" }) };
      const { status, stdout, stderr } = await run(process.execPath, [runner, join(folder, "out", `${name}.js`)], { cwd, env });
      expect(status, stdout + stderr).toBe(0);
    } finally {
      rmSync(cwd, { recursive: true, force: true });
    }
  });
});
