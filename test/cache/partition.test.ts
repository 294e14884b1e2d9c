import { type Caller, cached, localRegistry, orThrow, type Registry, RegistryError } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { site } from "../http/support.js";
import { caching, failing, gate, minutes, settled, whole } from "./support.js";

const ada = { name: "ada" };
const eve = { name: "eve" };
const page = { limit: 10 };

/** A private repository that its registry shows to ada alone. */
async function shared(options: Parameters<typeof caching>[0] = {}) {
  const all = caching({ partition: (caller) => caller?.name ?? "", ...options });
  const image = await pushImage(all.origin, "private/app", "1", makeImage([10, 200_000]));
  all.answers(({ caller, repository }) =>
    repository.startsWith("private/") && caller?.name !== "ada" ? failing("DENIED", "not yours") : undefined,
  );
  const layer = image.layers[1]?.digest ?? "";
  return { ...all, image, layer };
}

/** Everything that eve could see. */
async function seenBy(hub: ReturnType<typeof caching>["hub"], digest: string, layer: string, o: { caller?: Caller }): Promise<unknown[]> {
  const lookups = [
    await hub.getManifest("private/app", "1", o),
    await hub.resolveManifest("private/app", "1", o),
    await hub.getManifest("private/app", digest, o),
    await hub.resolveManifest("private/app", digest, o),
    await hub.resolveBlob("private/app", layer, o),
    await hub.getBlob("private/app", layer, o),
    await hub.getBlob("private/app", layer, { ...o, range: { start: 0, end: 9 } }),
    await hub.listTags("private/app", page, o),
    await hub.listReferrers("private/app", digest, page, o),
    await hub.refresh("private/app", "1", o),
  ];
  const missing = await hub.completeness("private/app", "1", undefined, o).catch((error: RegistryError) => error.code);
  return [...lookups.map(({ kind }) => kind), missing];
}

describe("what is fetched for one caller", () => {
  const nothing = [...Array(10).fill("denied"), "MANIFEST_UNKNOWN"];

  test("is hers alone: by tag, digest, blob and list, also after a restart, also while the source is down", async () => {
    const { hub, image, layer, restart, switchOff, questions } = await shared();
    orThrow(await hub.getManifest("private/app", "1", { caller: ada }));
    await whole(hub, "private/app", "1", { caller: ada });
    orThrow(await hub.listTags("private/app", page, { caller: ada }));
    expect(questions.every(({ caller }) => caller?.name === "ada")).toBe(true);
    for (const o of [{ caller: eve }, {}]) expect(await seenBy(hub, image.digest, layer, o)).toEqual(nothing);
    for (const o of [{ caller: eve }, {}]) expect(await seenBy(restart(), image.digest, layer, o)).toEqual(nothing);
    switchOff();
    const offline = restart();
    expect(await seenBy(offline, image.digest, layer, { caller: eve })).toEqual([...Array(10).fill("unavailable"), "MANIFEST_UNKNOWN"]);
    expect(orThrow(await offline.getManifest("private/app", "1", { caller: ada })).descriptor.digest).toBe(image.digest);
    expect(digestOf(await bytesOf(await offline.getBlob("private/app", layer, { caller: ada })))).toBe(layer);
  });

  test("is not in another's catalog", async () => {
    const { hub, answers } = await shared();
    orThrow(await hub.getManifest("private/app", "1", { caller: ada }));
    answers(({ text }) => (text === "listRepositories" ? failing("UNSUPPORTED", "no catalog") : undefined));
    expect(orThrow(await hub.listRepositories(page, { caller: ada })).items).toEqual(["private/app"]);
    expect(orThrow(await hub.listRepositories(page, { caller: eve })).items).toEqual([]);
  });

  test("is not remembered against another: eve's refusal is not ada's", async () => {
    const { hub, image, layer } = await shared({ negativeTtl: "1h" });
    expect(await seenBy(hub, image.digest, layer, { caller: eve })).toEqual(nothing);
    expect((await hub.getManifest("private/app", "1", { caller: ada })).kind).toBe("found");
    expect((await hub.listTags("private/app", page, { caller: ada })).kind).toBe("found");
    expect((await hub.resolveManifest("private/app", image.digest, { caller: ada })).kind).toBe("found");
  });

  test("is not joined by another while it is asked for or on its way", async () => {
    const { hub, image, layer, answers } = await shared();
    const { open, passed } = gate();
    answers(async ({ caller }) => {
      if (caller?.name !== "ada") return failing("DENIED", "not yours");
      return passed;
    });
    const running = [
      hub.getManifest("private/app", "1", { caller: ada }),
      hub.getManifest("private/app", image.digest, { caller: ada }),
      hub.listTags("private/app", page, { caller: ada }),
    ];
    const blob = hub.getBlob("private/app", layer, { caller: ada });
    await settled();
    expect(await seenBy(hub, image.digest, layer, { caller: eve })).toEqual(nothing);
    open();
    for (const lookup of await Promise.all(running)) expect(lookup.kind).toBe("found");
    expect(digestOf(await bytesOf(await blob))).toBe(layer);
  });

  test("shares its bytes with another whom the source shows them to, and is transferred once", async () => {
    const { hub, answers, calls, layer, storage, image } = await shared();
    answers(() => undefined);
    for (const caller of [ada, eve]) {
      orThrow(await hub.getManifest("private/app", "1", { caller }));
      await whole(hub, "private/app", "1", { caller });
    }
    expect(calls.filter((call) => call === `getBlob private/app ${layer}`)).toHaveLength(1);
    expect((await storage.blobs.list({ limit: 10 })).items).toHaveLength(image.blobs.size);
  });
});

test("callers with one part share what it has; the source is told the one who asked last", async () => {
  const { hub, answers, questions, origin } = await shared({ partition: (caller) => String(caller?.team) });
  answers(({ caller }) => (caller?.token === "expired" ? failing("UNAUTHORIZED", "expired") : undefined));
  await pushImage(origin, "private/app", "2", makeImage([]));
  const first = { name: "ada", team: "red", token: "good" };
  orThrow(await hub.getManifest("private/app", "1", { caller: first }));
  await whole(hub, "private/app", "1", { caller: first });
  questions.length = 0;
  expect(await hub.getManifest("private/app", "1", { caller: { name: "bob", team: "red" } })).toMatchObject({ served: { cache: "hit" } });
  expect(questions).toEqual([]);
  orThrow(await hub.getManifest("private/app", "2", { caller: { ...first, token: "renewed" } }));
  expect(questions[0]?.caller).toMatchObject({ token: "renewed" });
});

test("without partitions the source is told no caller, so that no answer depends on one", async () => {
  const { hub, origin, questions } = caching();
  const image = await pushImage(origin, "app", "1", makeImage([10]));
  const o = { caller: ada };
  await hub.resolveManifest("app", image.digest, o);
  await hub.resolveBlob("app", image.layers[0]?.digest ?? "", o);
  await hub.getManifest("app", "1", o);
  await hub.getBlob("app", image.layers[0]?.digest ?? "", o);
  await hub.listTags("app", page, o);
  await hub.listReferrers("app", image.digest, page, o);
  await hub.listRepositories(page, o);
  expect(questions.map(({ caller }) => caller).filter((caller) => caller !== undefined)).toEqual([]);
});

test("what the function throws refuses the caller", async () => {
  const { hub } = await shared({
    partition: (caller) => {
      if (!caller) throw new RegistryError("UNAUTHORIZED", "sign in");
      return caller.name;
    },
  });
  await expect(hub.getManifest("private/app", "1")).rejects.toMatchObject({ code: "UNAUTHORIZED" });
  await expect(hub.warm("private/app", "1")).rejects.toMatchObject({ code: "UNAUTHORIZED" });
  const { fetch } = await site(hub, { caller: ({ headers }) => (headers["x-user"] === "ada" ? ada : undefined) });
  expect((await fetch("/v2/private/app/manifests/1")).status).toBe(401);
  expect((await fetch("/v2/private/app/manifests/1", { headers: { "x-user": "ada" } })).status).toBe(200);
});

test("a caller's part can be warmed, kept warm and asked about", async () => {
  const { hub } = await shared();
  await expect(hub.warm("private/app", "1", { caller: eve })).rejects.toMatchObject({ code: "DENIED" });
  expect(await hub.warm("private/app", "1", { caller: ada })).toMatchObject({ complete: true });
  expect((await hub.status()).bytes).toBeGreaterThan(200_000);
  const stopping = new AbortController();
  const progress = () => stopping.abort();
  await hub.keepWarm({ images: ["private/app:1"], every: "1h", caller: ada, signal: stopping.signal, progress });
  expect(stopping.signal.aborted).toBe(true);
});

test("members, headers and lists say the cache's name, not the part's", async () => {
  const { hub } = await shared();
  for (let pull = 0; pull < 2; pull++)
    expect(await hub.getManifest("private/app", "1", { caller: ada })).toMatchObject({
      served: { member: pull ? ["hub"] : ["hub", "origin"] },
    });
});

describe("closing", () => {
  test("ends what runs for every caller, once, and the storage after it", async () => {
    const storage = memoryStorage();
    let closed = 0;
    const close = storage.metadata.close.bind(storage.metadata);
    storage.metadata.close = async () => {
      closed++;
      await close();
    };
    const { hub, answers, layer } = await shared({ storage });
    const stuck = gate();
    answers(({ text }) => (text.startsWith("getBlob") ? stuck.passed : undefined));
    const reading = [ada, eve].map((caller) => hub.getBlob("private/app", layer, { caller }));
    await settled();
    const closing = hub.close({ deadline: "0s" });
    for (const lookup of await Promise.all(reading)) expect(lookup).toMatchObject({ kind: "unavailable" });
    await Promise.all([closing, hub.close()]);
    expect(closed).toBe(1);
    stuck.open();
  });

  test("of a part that is pushed out by others waits for what runs for it, and its records stay", async () => {
    const clock = fakeClock();
    const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
    const image = await pushImage(origin, "app", "1", makeImage([200_000]));
    const layer = image.layers[0]?.digest ?? "";
    const { open, passed } = gate();
    const slow: Registry = {
      ...origin,
      async getBlob(...args) {
        await passed;
        return origin.getBlob(...args);
      },
    };
    const hub = cached(slow, { storage: memoryStorage(), name: "hub", clock, partition: (caller) => caller?.name ?? "" });
    orThrow(await hub.getManifest("app", "1", { caller: ada }));
    const reading = hub.getBlob("app", layer, { caller: ada });
    await settled();
    for (let other = 0; other < 101; other++) await hub.resolveManifest("app", "none", { caller: { name: `caller ${other}` } });
    await clock.advance(minutes(5));
    open();
    expect(digestOf(await bytesOf(await reading))).toBe(layer);
    expect((await hub.completeness("app", "1", undefined, { caller: ada })).missing.map(({ digest }) => digest)).not.toContain(layer);
    await hub.close();
  });

  test("of a part that is pushed out is joined by the same caller's next question", async () => {
    const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
    const image = await pushImage(origin, "app", "1", makeImage([200_000]));
    const layer = image.layers[0]?.digest ?? "";
    const { open, passed } = gate();
    let transfers = 0;
    const slow: Registry = {
      ...origin,
      async getBlob(...args) {
        transfers++;
        await passed;
        return origin.getBlob(...args);
      },
    };
    const clock = fakeClock();
    const hub = cached(slow, { storage: memoryStorage(), name: "hub", clock, partition: (caller) => caller?.name ?? "" });
    const reading = [hub.getBlob("app", layer, { caller: ada })];
    await settled();
    for (let other = 0; other < 101; other++) await hub.resolveManifest("app", "none", { caller: { name: `caller ${other}` } });
    reading.push(hub.getBlob("app", layer, { caller: ada }));
    await settled();
    open();
    for (const one of reading) expect(digestOf(await bytesOf(await one))).toBe(layer);
    expect(transfers).toBe(1);
    await hub.close();
  });
});
