import { mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { read, root, run, tsc } from "./support.js";

interface Packed {
  readonly filename: string;
  readonly files: readonly { readonly path: string }[];
}

const { dependencies } = JSON.parse(read("package.json")) as { dependencies: Record<string, string> };
/** What hosts use: the served registry answers its ping. Written so that it is valid both as TypeScript and as JavaScript. */
const body = `
async function main() {
  const storage = fileStorage("./data");
  const release = localRegistry({ storage, name: "release" });
  const scratch = localRegistry({ storage: memoryStorage(), name: "scratch" });
  const images = nodeHandler(routes({ release, scratch }), { anonymousWrites: true });
  await images.ready();
  if (typeof fromConfig !== "function" || typeof koaHandler !== "function" || typeof fetchHandler !== "function" || typeof metadataStoreContract !== "function" || typeof s3BlobStore !== "function" || typeof postgresMetadata !== "function") throw new Error("an export is missing");
  const upload = await release.startUpload("app");
  await upload.cancel();
  const server = createServer(images);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const response = await fetch("http://127.0.0.1:" + port + "/v2/");
  await response.arrayBuffer();
  server.close();
  server.closeAllConnections();
  await images.close();
  console.log("status", response.status);
}
main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
`;
const names: readonly [string, string][] = [
  ["createServer", "node:http"],
  ["localRegistry, routes", "oci-manifold"],
  ["nodeHandler", "oci-manifold/node"],
  ["fromConfig", "oci-manifold/config"],
  ["koaHandler", "oci-manifold/koa"],
  ["fetchHandler", "oci-manifold/fetch"],
  ["fileStorage", "oci-manifold/storage/files"],
  ["memoryStorage", "oci-manifold/storage/memory"],
  ["s3BlobStore", "oci-manifold/storage/s3"],
  ["postgresMetadata", "oci-manifold/storage/postgres"],
  ["metadataStoreContract", "oci-manifold/testing"],
];
const imports = names.map(([name, from]) => `import { ${name} } from "${from}";`).join("\n");
const requires = names.map(([name, from]) => `const { ${name} } = require("${from}");`).join("\n");

const folder = mkdtempSync(join(tmpdir(), "manifold-package-"));
let packed: Packed | undefined;

beforeAll(async () => {
  const { status, stdout, stderr } = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder]);
  expect(status, stderr).toBe(0);
  [packed] = JSON.parse(stdout) as Packed[];
  const unpacked = await run("tar", ["-xzf", packed?.filename ?? "", "-C", folder], { cwd: folder });
  expect(unpacked.status, unpacked.stderr).toBe(0);
  const modules = join(folder, "node_modules");
  mkdirSync(modules);
  renameSync(join(folder, "package"), join(modules, "oci-manifold"));
  // As installed, without asking a package registry: the links lead to this checkout's packages, which find their own dependencies there.
  for (const name of [...Object.keys(dependencies), "libsql"])
    symlinkSync(join(root, "node_modules", name), join(modules, name), "junction");
  mkdirSync(join(modules, "@types"));
  symlinkSync(join(root, "node_modules/@types/node"), join(modules, "@types/node"), "junction");
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function host(name: string, type: "module" | "commonjs", files: Readonly<Record<string, string>>): string {
  const dir = join(folder, name);
  mkdirSync(dir);
  writeFileSync(join(dir, "package.json"), JSON.stringify({ name, type, private: true }));
  for (const [path, text] of Object.entries(files)) writeFileSync(join(dir, path), text);
  return dir;
}

test("the package holds dist, README, CHANGELOG, LICENSE and package.json", () => {
  const paths = packed?.files.map(({ path }) => path) ?? [];
  expect(paths.filter((path) => !/^dist\/.+\.(?:m?js|d\.m?ts)$/.test(path)).sort()).toEqual([
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "package.json",
  ]);
  const { exports } = JSON.parse(read("package.json")) as { exports: Record<string, string | Record<string, string>> };
  const targets = Object.values(exports).flatMap((entry) => (typeof entry === "string" ? [entry] : Object.values(entry)));
  expect(targets.map((path) => path.replace(/^\.\//, "")).filter((path) => !paths.includes(path))).toEqual([]);
});

describe("the unpacked package", () => {
  test("serves from an ES module", async () => {
    const cwd = host("esm", "module", { "main.js": `${imports}\n${body}` });
    expect(await run(process.execPath, ["main.js"], { cwd })).toMatchObject({ status: 0, stdout: "status 200\n" });
    expect(readdirSync(join(cwd, "data"))).toContain("metadata.sqlite");
  });

  test("serves from CommonJS by require()", async () => {
    const cwd = host("cjs", "commonjs", { "main.js": `${requires}\n${body}` });
    expect(await run(process.execPath, ["main.js"], { cwd })).toMatchObject({ status: 0, stdout: "status 200\n" });
  });

  test.each(["module", "commonjs"] as const)("is typed for a TypeScript host under nodenext (%s)", async (type) => {
    const compilerOptions = {
      module: "nodenext",
      target: "es2023",
      strict: true,
      exactOptionalPropertyTypes: true,
      // The declarations are checked too, without any types but Node's.
      skipLibCheck: false,
      types: ["node"],
      outDir: "out",
    };
    const wrong = `// @ts-expect-error a duration has no spaces\ncached(dockerHub(), { storage: memoryStorage(), name: "hub", tagTtl: "10 minutes" });\n`;
    const cwd = host(`typed-${type}`, type, {
      "main.ts": `${imports}\n${body}`,
      "wrong.ts": `import { cached, dockerHub } from "oci-manifold";\nimport { memoryStorage } from "oci-manifold/storage/memory";\n${wrong}`,
      "tsconfig.json": JSON.stringify({ compilerOptions, files: ["main.ts", "wrong.ts"] }),
    });
    expect(await run(process.execPath, [tsc, "-p", "."], { cwd })).toMatchObject({ status: 0, stdout: "" });
    expect(await run(process.execPath, ["out/main.js"], { cwd })).toMatchObject({ status: 0, stdout: "status 200\n" });
  });

  const contracts = (given: string) => `
import { localRegistry } from "oci-manifold";
import { memoryBlobStore, memoryMetadataStore, memoryStorage } from "oci-manifold/storage/memory";
import { blobStoreContract, metadataStoreContract, registryContract } from "oci-manifold/testing";
const dispose = async () => {};
blobStoreContract({ test: ${given}, create: async () => ({ store: memoryBlobStore(), dispose }), capabilities: { readStaged: true } });
metadataStoreContract({ test: ${given}, create: async () => ({ store: memoryMetadataStore(), dispose }) });
const create = async () => {
  const registry = localRegistry({ storage: memoryStorage(), name: "r" });
  return { registry: process.env.BROKEN ? { ...registry, deleteBlob: async () => {} } : registry, seed: registry, dispose };
};
registryContract({ test: ${given}, create, capabilities: { mount: !process.env.BROKEN } });
`;

  test("runs its contracts under node:test, and they fail where a promise is broken", async () => {
    const cwd = host("node-test", "module", { "main.test.js": `import { test } from "node:test";\n${contracts("test")}` });
    const args = ["--test", "--test-reporter=tap", "main.test.js"];
    const { NODE_OPTIONS: _, NODE_TEST_CONTEXT: __, ...env } = process.env;
    const sound = await run(process.execPath, args, { cwd, env });
    expect(sound.status, sound.stdout).toBe(0);
    expect(Number(/^# pass (\d+)$/m.exec(sound.stdout)?.[1])).toBeGreaterThan(150);
    const broken = await run(process.execPath, args, { cwd, env: { ...env, BROKEN: "1" } });
    expect(broken.status).toBe(1);
    expect(broken.stdout).toContain("not ok");
    expect(broken.stdout).toContain("a deleted blob is gone from its repository, and from no other");
  });

  test("runs its contracts under a runner of mocha's kind", async () => {
    // Mocha waits for a callback where a case takes an argument, and gives it a context as "this".
    const runner = `
const cases = [];
globalThis.it = function (title, run) {
  if (typeof title !== "string" || run.length > 0) throw new Error("not as mocha has it");
  cases.push({ title, run });
};
await import("./contracts.js");
for (const { title, run } of cases) {
  try {
    await run.call({ timeout() {} });
  } catch (error) {
    console.log("failed", title, error);
    process.exitCode = 1;
  }
}
console.log(new Set(cases.map(({ title }) => title)).size > 120 ? "ran" : "too few");
`;
    const cwd = host("mocha-like", "module", { "main.js": runner, "contracts.js": contracts("it") });
    expect(await run(process.execPath, ["main.js"], { cwd })).toMatchObject({ status: 0, stdout: "ran\n" });
  });

  test.each(["oci-manifold/dist/index.js", "oci-manifold/core/registry", "oci-manifold/storage/files/index.js"])(
    "has no deep import %s",
    async (name) => {
      const cwd = host(`deep-${name.replace(/\W+/g, "-")}`, "module", {
        "main.js": `import(${JSON.stringify(name)}).then(() => console.log("loaded"), (error) => console.log(error.code));\n`,
      });
      expect((await run(process.execPath, ["main.js"], { cwd })).stdout).toBe("ERR_PACKAGE_PATH_NOT_EXPORTED\n");
    },
  );
});
