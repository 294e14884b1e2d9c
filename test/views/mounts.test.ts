import { aggregate, filtered, localRegistry, type Registry, readOnly, renamed, routes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { prefixed } from "oci-manifold/names";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";

const bytes = Buffer.from("layer");
const digest = digestOf(bytes);

async function withBlob(repository: string): Promise<ReturnType<typeof localRegistry>> {
  const registry = localRegistry({ storage: memoryStorage(), name: "r" });
  await registry.putBlob(repository, { digest }, chunksOf(bytes));
  return registry;
}

/** Which repositories the caller is asked about, in the names of the outermost registry. */
async function asked(registry: Registry, repository: string, answer = true): Promise<{ names: string[]; mounted: boolean }> {
  const names: string[] = [];
  const permits = (name: string) => {
    names.push(name);
    return answer;
  };
  const mounted = (await registry.mountBlob(repository, digest, undefined, { permits })) !== undefined;
  expect((await registry.resolveBlob(repository, digest)).kind).toBe(mounted ? "found" : "absent");
  return { names, mounted };
}

test("a mount without source asks about the repository that has the blob, in the names of whoever asks", async () => {
  expect(await asked(await withBlob("team/app"), "new")).toEqual({ names: ["team/app"], mounted: true });
  expect(await asked(await withBlob("team/app"), "new", false)).toEqual({ names: ["team/app"], mounted: false });
  expect(await asked(renamed(await withBlob("app"), prefixed("team/")), "team/new")).toEqual({ names: ["team/app"], mounted: true });
  expect(await asked(routes({ release: await withBlob("app") }), "release/new")).toEqual({ names: ["release/app"], mounted: true });
  expect(await asked(routes({}, { fallback: await withBlob("app") }), "new")).toEqual({ names: ["app"], mounted: true });
  expect(await asked(aggregate({ local: await withBlob("app"), connectors: [] }), "new")).toEqual({ names: ["app"], mounted: true });
});

test("what a view hides is no source of a mount", async () => {
  expect(await asked(filtered(await withBlob("secret"), { block: ["secret"] }), "new")).toEqual({ names: [], mounted: false });
  expect(await asked(filtered(await withBlob("app"), { allow: ["app:1.*", "new"] }), "new")).toEqual({ names: [], mounted: false });
  const noName = { toSource: (name: string) => name, fromSource: (name: string) => (name === "secret" ? undefined : name) };
  expect(await asked(renamed(await withBlob("secret"), noName), "new")).toEqual({ names: [], mounted: false });
  const view = readOnly(await withBlob("app"));
  await expect(view.mountBlob("new", digest)).rejects.toMatchObject({ code: "UNSUPPORTED" });
});
