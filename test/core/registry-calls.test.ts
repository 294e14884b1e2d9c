import { localRegistry, type Registry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { type Access, accessOf, mapReads, mapWrites, type RegistryCall, sessionThrough } from "../../src/core/registry-calls.js";

const methodsFor = (...wanted: Access[]) =>
  Object.entries(accessOf).flatMap(([method, access]) => (wanted.includes(access) ? [method] : []));
const bytes = Buffer.from("bytes");
const digest = digestOf(bytes);

/** A registry that notes the arguments of every call. */
function recorded() {
  const calls: [string, ...unknown[]][] = [];
  const registry = new Proxy({} as Registry, {
    get:
      (_, method: string) =>
      async (...args: unknown[]) => {
        calls.push([method, ...args]);
        return { kind: "absent" };
      },
  });
  return { registry, calls };
}

test("every method that reads or writes is mapped, but a mount", () => {
  const never = async () => ({ kind: "absent" }) as never;
  expect(Object.keys(mapReads(never)).sort()).toEqual(methodsFor("read", "catalog").sort());
  expect([...Object.keys(mapWrites(never)), "mountBlob"].sort()).toEqual(methodsFor("push", "delete").sort());
});

test("a read goes to the registry, the name and with the options that it is sent with, and keeps its own", async () => {
  const { registry, calls } = recorded();
  const mapped: RegistryCall[] = [];
  const reads = mapReads((call, send) => {
    mapped.push(call);
    return send(registry, `behind/${call.repository}`, { trace: "more" });
  });
  const page = { limit: 10 };
  await reads.resolveManifest("app", "1", { refresh: true });
  await reads.getManifest("app", "1");
  await reads.resolveBlob("app", digest);
  await reads.getBlob("app", digest, { verify: false });
  await reads.listTags("app", page);
  await reads.listReferrers("app", digest, page);
  await reads.listRepositories(page);
  const more = { trace: "more" };
  expect(calls).toEqual([
    ["resolveManifest", "behind/app", "1", { refresh: true, ...more }],
    ["getManifest", "behind/app", "1", more],
    ["resolveBlob", "behind/app", digest, more],
    ["getBlob", "behind/app", digest, { verify: false, ...more }],
    ["listTags", "behind/app", page, more],
    ["listReferrers", "behind/app", digest, page, more],
    ["listRepositories", page, more],
  ]);
  expect(mapped[0]).toEqual({ method: "resolveManifest", access: "read", repository: "app", reference: "1", options: { refresh: true } });
  expect(mapped.at(-1)).toEqual({ method: "listRepositories", access: "catalog", repository: "" });
});

test("a write goes where it is sent, with its own options where no others are given", async () => {
  const { registry, calls } = recorded();
  const writes = mapWrites(({ repository }, send) => send(registry, repository));
  await writes.putManifest("app", "1", { bytes }, { tags: ["2"] });
  await writes.deleteBlob("app", digest);
  expect(calls).toEqual([
    ["putManifest", "app", "1", { bytes }, { tags: ["2"] }],
    ["deleteBlob", "app", digest, undefined],
  ]);
});

test("each step of an upload session runs through the function, and its state shows", async () => {
  const session = await localRegistry({ storage: memoryStorage(), name: "release" }).startUpload("app");
  let steps = 0;
  const through = sessionThrough(session, (step) => {
    steps++;
    return step();
  });
  expect([through.id, through.expiresAt]).toEqual([session.id, session.expiresAt]);
  expect(await through.append(chunksOf(bytes))).toBe(bytes.byteLength);
  expect(through.offset).toBe(bytes.byteLength);
  await through.commit(digest);
  expect(through.committed).toBe(digest);
  await through.cancel();
  expect(steps).toBe(3);
});
