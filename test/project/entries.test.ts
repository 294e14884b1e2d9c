import { expect, test } from "vitest";
import { filesBelow, read } from "./support.js";

const { exports } = JSON.parse(read("package.json")) as { exports: Record<string, string | { readonly types: string }> };
/** Each entry of the package with the file that it is compiled from. */
const entries = Object.entries(exports).flatMap(([name, target]) =>
  typeof target === "string" ? [] : [{ name, file: target.types.replace(/^\.\/dist\/(.*)\.d\.ts$/, "src/$1.ts") }],
);

/** What is there at run time, in order. An entry that gets longer is to be looked at: does the name belong to its job? */
const values: Readonly<Record<string, readonly string[]>> = {
  ".": [
    ...["RegistryError", "acr", "aggregate", "allPages", "cached", "dockerConfig", "dockerHub", "ecr", "errorStatus", "filtered", "ghcr"],
    ...["googleArtifactRegistry", "harbor", "isRegistryError", "localRegistry", "mediaTypes", "orThrow", "quay", "readOnly", "registryK8s"],
    ...["remoteRegistry", "renamed", "routes", "tagRules"],
  ],
  "./maintenance": [
    ...["browse", "collectGarbage", "copyToLocal", "findDangling", "impactOfRemoving", "promote", "promotions", "repair", "scrub"],
  ],
  "./layout": ["exportLayout", "importLayout"],
  "./migrate": ["adoptDistribution", "distributionFolder"],
  "./resolvers": ["compareLockFile", "createLockFile", "firstFound", "fromLockFile", "strict"],
  "./names": ["chained", "dockerHubName", "dockerLibrary", "nameTable", "prefixed", "stripped"],
  "./extend": [
    ...[
      "behindNamespaces",
      "chunksOf",
      "contentChunks",
      "decodeVia",
      "digestOf",
      "dockerHubSearch",
      "encodeVia",
      "harborSearch",
      "intercept",
    ],
    ...["isSearchable", "observed", "parseDigest", "parseManifest", "parseReference", "parseRepositoryName", "quaySearch", "searchable"],
    ...["viaHeader", "viaLimit"],
  ],
};

test.each(Object.keys(values))("%s exports what its job needs", async (entry) => {
  const file = entries.find(({ name }) => name === entry)?.file;
  const loaded: object = await import(new URL(`../../${file}`, import.meta.url).href);
  expect(Object.keys(loaded).sort()).toEqual([...(values[entry] ?? [])].sort());
});

test.each(entries)("$name begins with a map of its family and an example", ({ file }) => {
  const [, header = ""] = /^(?:import [^;]*;\n)*\s*\/\*\*([\s\S]*?)\*\//.exec(read(file)) ?? [];
  expect(header).toMatch(/```ts\n[\s\S]*from "oci-manifold/);
});

test("no two modules export one name", () => {
  const owners = new Map<string, string[]>();
  for (const file of filesBelow("src", ".ts")) {
    const declared = read(file).matchAll(/^export (?:async |abstract )*(?:function\*?|const|class|interface|type) (\w+)/gm);
    // A function that is declared several times has several signatures.
    for (const name of new Set([...declared].map(([, name = ""]) => name))) owners.set(name, [...(owners.get(name) ?? []), file]);
  }
  const shared = [...owners].filter(([, files]) => files.length > 1).map(([name, files]) => `${name}: ${files.join(", ")}`);
  expect(shared).toEqual([]);
});
