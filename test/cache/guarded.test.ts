import { randomBytes } from "node:crypto";
import { cached, type Lookup, localRegistry, orThrow, type Registry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";

const origin = () => localRegistry({ storage: memoryStorage(), name: "origin" });

function gate(): { open: () => void; passed: Promise<void> } {
  let open = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, passed };
}

test("a manifest that names a foreign blob of a shared store does not make it visible", async () => {
  const storage = memoryStorage();
  const secret = localRegistry({ storage, name: "secret" });
  const bytes = randomBytes(1000);
  const digest = digestOf(bytes);
  await secret.putBlob("vault", { digest }, chunksOf(bytes));
  const source = localRegistry({ storage: memoryStorage(), name: "evil", sparse: true });
  const image = makeImage([10]);
  const forged = { ...JSON.parse(Buffer.from(image.manifest).toString()), layers: [{ ...image.layers[0], digest, size: 1000 }] };
  await source.putManifest("evil/app", "1", { bytes: Buffer.from(JSON.stringify(forged)) });
  const hub = cached(source, { storage, name: "hub" });
  orThrow(await hub.getManifest("evil/app", "1"));
  expect((await hub.getBlob("evil/app", digest)).kind).toBe("absent");
  await hub.close();
});

test("bytes that are here for others get a blob reference and are not fetched again, once the source confirms", async () => {
  const storage = memoryStorage();
  const source = origin();
  const image = await pushImage(source, "one", "1", makeImage([100_000]));
  await pushImage(source, "two", "1", image);
  const hub = cached(source, { storage, name: "hub" });
  for (const repository of ["one", "two"]) {
    orThrow(await hub.getManifest(repository, "1"));
    await eventually(async () => (await hub.completeness(repository, "1")).complete, `${repository} is whole`);
  }
  expect((await storage.blobs.list({ limit: 10 })).items).toHaveLength(image.blobs.size);
});

test("whoever joins another repository's fill does not get that repository's refusal", async () => {
  const bytes = randomBytes(100_000);
  const digest = digestOf(bytes);
  const source = origin();
  await source.putBlob("has", { digest }, chunksOf(bytes));
  const { open, passed } = gate();
  const slow: Registry = {
    ...source,
    async getBlob(repository, requests, o) {
      if (repository === "has-not") await passed;
      return source.getBlob(repository, requests, o);
    },
  };
  const hub = cached(slow, { storage: memoryStorage(), name: "hub" });
  const refused = hub.getBlob("has-not", digest);
  const given = hub.getBlob("has", digest);
  await new Promise((resolve) => setTimeout(resolve, 20));
  open();
  expect((await refused).kind).toBe("absent");
  expect((await bytesOf(await given)).equals(bytes)).toBe(true);
});

/** A source that answers nothing before it is told to, and ignores signals. */
function stalled() {
  const { open, passed } = gate();
  const silence = async (): Promise<Lookup<never>> => {
    await passed;
    return { kind: "absent" };
  };
  return {
    source: { ...origin(), resolveManifest: silence, getManifest: silence, resolveBlob: silence, getBlob: silence } as Registry,
    open,
  };
}

test("a caller's signal ends its waiting, and closing ends at its deadline, also through a second cache", async () => {
  const { source, open } = stalled();
  const inner = cached(source, { storage: memoryStorage(), name: "inner" });
  const hub = cached(inner, { storage: memoryStorage(), name: "hub" });
  const digest = digestOf(randomBytes(8));
  const reason = new Error("the client left");
  const leaving = new AbortController();
  const blob = hub.getBlob("app", digest, { signal: leaving.signal });
  const manifest = hub.getManifest("app", "1", { signal: leaving.signal });
  leaving.abort(reason);
  await expect(blob).rejects.toBe(reason);
  await expect(manifest).rejects.toBe(reason);
  const closing = hub.close({ deadline: "20ms" });
  await new Promise((resolve) => setTimeout(resolve, 60));
  expect(await hub.getBlob("app", digest)).toMatchObject({ kind: "unavailable", error: { message: expect.stringContaining("closing") } });
  await closing;
  open();
});
