import { defineConfig } from "vitest/config";

// Tests import the library by its own name, as users do; the names lead to the sources so that no build is needed for unit tests.
const alias = [
  { find: /^oci-manifold\/node$/, replacement: new URL("./src/http/node.ts", import.meta.url).pathname },
  { find: /^oci-manifold\/fetch$/, replacement: new URL("./src/http/fetch.ts", import.meta.url).pathname },
  { find: /^oci-manifold\/koa$/, replacement: new URL("./src/http/koa.ts", import.meta.url).pathname },
  { find: /^oci-manifold\/config$/, replacement: new URL("./src/config/index.ts", import.meta.url).pathname },
  {
    find: /^oci-manifold\/storage\/(memory|files|s3|postgres)$/,
    replacement: new URL("./src/storage/$1/index.ts", import.meta.url).pathname,
  },
  { find: /^oci-manifold\/testing$/, replacement: new URL("./src/testing/index.ts", import.meta.url).pathname },
  { find: /^oci-manifold\/(maintenance|layout|migrate)$/, replacement: new URL("./src/$1/index.ts", import.meta.url).pathname },
  { find: /^oci-manifold\/(resolvers|names|extend)$/, replacement: new URL("./src/$1.ts", import.meta.url).pathname },
  { find: /^oci-manifold$/, replacement: new URL("./src/index.ts", import.meta.url).pathname },
];

const slow = { testTimeout: 300_000, hookTimeout: 120_000, fileParallelism: false };
const project = (name: string, include: string[], more: object = {}) => ({ resolve: { alias }, test: { name, include, ...more } });

export default defineConfig({
  test: {
    reporters: ["default"],
    projects: process.env.LONG
      ? [project("long", ["test/{chaos,long}/**/*.test.ts"], slow)]
      : [
          project(
            "unit",
            [
              "test/{attacks,config,core,storage,local,remote,views,cache,aggregate,access,http,testing,maintenance,layout,migrate}/**/*.test.ts",
            ],
            {
              testTimeout: 20_000,
            },
          ),
          project("whole", ["test/{project,interop,chaos}/**/*.test.ts"], slow),
        ],
  },
});
