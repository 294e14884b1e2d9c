import { dirname, join, normalize } from "node:path";
import { expect, test } from "vitest";
import { filesBelow, importsOf } from "./support.js";

/** Which rooms of src a room may use beside itself and core. docs/architecture.md gives the reasons. */
const rules: Readonly<Record<string, readonly string[]>> = {
  core: [],
  local: [],
  remote: [],
  views: [],
  storage: [],
  cache: ["views", "local"],
  aggregate: ["views"],
  upkeep: ["aggregate", "cache", "local", "views"],
  access: [],
  http: ["access", "views"],
  config: ["aggregate", "cache", "local", "remote", "storage", "views"],
  testing: ["storage/memory"],
};
/** The only modules of Node that core may load: neither reads nor writes anything by itself. */
const coreModules = ["node:crypto", "node:stream"];

const files = filesBelow("src", ".ts");
const target = (file: string, specifier: string) =>
  normalize(join(dirname(file), specifier))
    .replaceAll("\\", "/")
    .replace(/\.js$/, ".ts");
const roomOf = (file: string) => file.split("/")[1] ?? "";

test("rooms import only the rooms they may", () => {
  const broken: string[] = [];
  for (const file of files.filter((path) => path !== "src/index.ts")) {
    const room = roomOf(file);
    expect(Object.keys(rules), `${file} lies in an unknown room`).toContain(room);
    for (const { specifier } of importsOf(file).filter((found) => found.specifier.startsWith("."))) {
      const to = target(file, specifier);
      expect(files, `${file} imports ${specifier}`).toContain(to);
      const allowed = [room, "core", ...(rules[room] ?? [])];
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

test("core does no I/O and depends on nothing", () => {
  const broken: string[] = [];
  for (const file of files.filter((path) => roomOf(path) === "core")) {
    for (const { specifier, typeOnly } of importsOf(file).filter((found) => !found.specifier.startsWith("."))) {
      const allowed = specifier === "node:stream" ? typeOnly : coreModules.includes(specifier);
      if (!allowed) broken.push(`${file} imports ${specifier}`);
    }
  }
  expect(broken).toEqual([]);
});

test("no file imports itself by a detour", () => {
  const next = new Map(
    files.map((file) => [
      file,
      importsOf(file)
        .filter(({ specifier, typeOnly }) => specifier.startsWith(".") && !typeOnly)
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
