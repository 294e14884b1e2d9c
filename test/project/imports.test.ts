import { dirname, join, normalize } from "node:path";
import { expect, test } from "vitest";
import { filesBelow, importsOf } from "./support.js";

/** Which layers of src a layer may use beside itself and core. docs/architecture.md gives the reasons. */
const rules: Readonly<Record<string, readonly string[]>> = {
  core: [],
  local: [],
  remote: [],
  views: [],
  storage: [],
  cache: ["views", "local"],
  aggregate: ["views"],
  maintenance: ["aggregate", "cache", "local", "views"],
  layout: ["maintenance"],
  migrate: ["layout", "local", "maintenance", "views"],
  access: [],
  http: ["access", "views"],
  config: ["aggregate", "cache", "local", "remote", "storage", "views"],
  testing: ["storage/memory"],
};
/** The only modules of Node that core may load: none reads or writes anything by itself. Of `node:net` it takes the functions that read addresses. */
const coreModules = ["node:crypto", "node:net", "node:stream"];

const files = filesBelow("src", ".ts");
const target = (file: string, specifier: string) =>
  normalize(join(dirname(file), specifier))
    .replaceAll("\\", "/")
    .replace(/\.js$/, ".ts");
const layerOf = (file: string) => file.split("/")[1] ?? "";
/** Entries whose parts lie in several layers: they only export. */
const entries: ReadonlySet<string> = new Set(["src/index.ts", "src/resolvers.ts", "src/names.ts", "src/extend.ts"]);

test("layers import only the layers they may", () => {
  const broken: string[] = [];
  for (const file of files.filter((path) => !entries.has(path))) {
    const layer = layerOf(file);
    expect(Object.keys(rules), `${file} lies in an unknown layer`).toContain(layer);
    for (const { specifier } of importsOf(file).filter((found) => found.specifier.startsWith("."))) {
      const to = target(file, specifier);
      expect(files, `${file} imports ${specifier}`).toContain(to);
      const allowed = [layer, "core", ...(rules[layer] ?? [])];
      if (!allowed.some((name) => to.startsWith(`src/${name}/`))) broken.push(`${file} imports ${to}`);
    }
  }
  expect(broken).toEqual([]);
});

test("relative imports name the emitted file", () => {
  const broken = files.flatMap((file) =>
    importsOf(file)
      .filter(({ specifier }) => specifier.startsWith(".") && !specifier.endsWith(".js"))
      .map(({ specifier }) => `${file} imports ${specifier}`),
  );
  expect(broken).toEqual([]);
});

test("undici is named by its file: Bun puts a module of its own, without connections, in the place of the bare name", () => {
  const named = files.flatMap((file) => importsOf(file).filter(({ specifier }) => /^undici\b/.test(specifier)));
  expect(new Set(named.map(({ specifier }) => specifier))).toEqual(new Set(["undici/index.js"]));
});

test("core does no I/O and depends on nothing", () => {
  const broken: string[] = [];
  for (const file of files.filter((path) => layerOf(path) === "core")) {
    for (const { specifier, typeOnly } of importsOf(file).filter((found) => !found.specifier.startsWith("."))) {
      const allowed = specifier === "node:stream" ? typeOnly : coreModules.includes(specifier);
      if (!allowed) broken.push(`${file} imports ${specifier}`);
    }
  }
  expect(broken).toEqual([]);
});

test("no file imports itself by a detour, types included", () => {
  const next = new Map(
    files.map((file) => [
      file,
      importsOf(file)
        .filter(({ specifier }) => specifier.startsWith("."))
        .map(({ specifier }) => target(file, specifier)),
    ]),
  );
  const done = new Set<string>();
  const cycles: string[] = [];
  const walk = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) {
      cycles.push([...path.slice(path.indexOf(file)), file].join(" -> "));
      return;
    }
    if (done.has(file)) return;
    for (const to of next.get(file) ?? []) walk(to, [...path, file]);
    done.add(file);
  };
  for (const file of files) walk(file, []);
  expect(cycles).toEqual([]);
});
