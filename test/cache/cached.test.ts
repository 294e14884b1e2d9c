import { randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { type BlobContent, cached, localRegistry, orThrow, type Registry, RegistryError, remoteRegistry } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock, fakeUpstream, partBlobStore } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf, eventually } from "../fixtures/read.js";
import { spied } from "../fixtures/spy.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

const down = (): { kind: "unavailable"; error: RegistryError } => ({
  kind: "unavailable",
  error: new RegistryError("UNAVAILABLE", "connection refused"),
});

/** A source that can be switched off, and whose blobs come chunk by chunk when told. */
function setUp(storage = memoryStorage()) {
  const clock = fakeClock();
  const origin = localRegistry({ storage: memoryStorage(), name: "origin" });
  const { registry: source, calls } = spied(origin);
  const fills: object[] = [];
  const events = { emit: (type: string, event: object) => void (type === "fill" && fills.push(event)) };
  const hub = cached(source, { storage, name: "hub", tagTtl: "5m", clock, events });
  const switchOff = () => {
    for (const method of [
      "resolveManifest",
      "getManifest",
      "resolveBlob",
      "getBlob",
      "listTags",
      "listReferrers",
      "listRepositories",
    ] as const)
      origin[method] = async () => down();
  };
  return { clock, origin, source, calls, hub, switchOff, fills, storage };
}
const whole = (
  hub: { completeness(repository: string, reference: string): Promise<{ complete: boolean }> },
  repository: string,
  reference: string,
) => eventually(async () => (await hub.completeness(repository, reference)).complete, `${repository}:${reference} is whole`);

describe("an image", () => {
  test("pulled by tag comes whole, and is served when the source is gone", async () => {
    const { origin, hub, switchOff, clock } = setUp();
    const image = await pushImage(origin, "app", "1", makeImage([10, 100_000, 3_000_000]));
    orThrow(await hub.getManifest("app", "1"));
    await whole(hub, "app", "1");
    switchOff();
    await clock.advance(3_600_000);
    const again = await hub.getManifest("app", "1");
    expect(again).toMatchObject({ kind: "found", served: { cache: "stale", warnings: [expect.stringContaining("connection refused")] } });
    expect(Buffer.from(orThrow(again).bytes)).toEqual(Buffer.from(image.manifest));
    for (const [digest] of image.blobs) expect(digestOf(await bytesOf(await hub.getBlob("app", digest)))).toBe(digest);
    expect(await hub.getManifest("app", image.digest)).toMatchObject({ kind: "found", served: { cache: "hit" } });
    expect(orThrow(await hub.listTags("app", { limit: 10 }))).toMatchObject({ items: ["1"], warnings: [expect.any(String)] });
    expect(orThrow(await hub.listRepositories({ limit: 10 })).items).toEqual(["app"]);
    expect(await hub.getManifest("app", "2")).toMatchObject({ kind: "unavailable" });
  });

  test("costs the source one HEAD, one GET and one transfer a blob", async () => {
    const { origin, hub, calls } = setUp();
    const image = await pushImage(origin, "app", "1", makeImage([10, 20, 100_000]));
    calls.length = 0;
    await hub.resolveManifest("app", "1");
    await hub.getManifest("app", "1");
    await hub.getManifest("app", image.digest);
    await whole(hub, "app", "1");
    expect(calls.sort()).toEqual(
      [
        "resolveManifest app 1",
        `getManifest app ${image.digest}`,
        ...[...image.blobs.keys()].map((digest) => `getBlob app ${digest}`),
      ].sort(),
    );
  });
});

describe("tags", () => {
  test("are asked for again by HEAD after their time to live", async () => {
    const { origin, hub, calls, clock } = setUp();
    const first = await pushImage(origin, "app", "latest", makeImage([1]));
    await hub.getManifest("app", "latest");
    await whole(hub, "app", "latest");
    const second = await pushImage(origin, "app", "latest", makeImage([2]));
    calls.length = 0;
    expect(orThrow(await hub.getManifest("app", "latest")).descriptor.digest).toBe(first.digest);
    expect(calls).toEqual([]);
    await clock.advance(300_001);
    expect(orThrow(await hub.resolveManifest("app", "latest")).digest).toBe(second.digest);
    expect(calls.slice(0, 2)).toEqual(["resolveManifest app latest", `getManifest app ${second.digest}`]);
    await clock.advance(300_001);
    calls.length = 0;
    expect(orThrow(await hub.getManifest("app", "latest")).descriptor.digest).toBe(second.digest);
    expect(calls).toEqual(["resolveManifest app latest"]);
  });

  test("gone at the source are gone here", async () => {
    const { origin, hub, clock } = setUp();
    const image = await pushImage(origin, "app", "old");
    await hub.getManifest("app", "old");
    await origin.deleteManifest("app", "old");
    await clock.advance(300_001);
    expect((await hub.getManifest("app", "old")).kind).toBe("absent");
    expect((await hub.getManifest("app", image.digest)).kind).toBe("found");
  });

  test("are confirmed across a restart", async () => {
    const { origin, hub, storage, source, calls, clock } = setUp();
    await pushImage(origin, "app", "1");
    await hub.getManifest("app", "1");
    await whole(hub, "app", "1");
    calls.length = 0;
    const restarted = cached(source, { storage, name: "hub", clock });
    expect(await restarted.getManifest("app", "1")).toMatchObject({ served: { cache: "hit" } });
    expect(calls).toEqual([]);
  });

  test("many at once cause one question", async () => {
    const { origin, hub, calls } = setUp();
    await pushImage(origin, "app", "1", makeImage([]));
    calls.length = 0;
    await Promise.all(Array.from({ length: 20 }, () => hub.getManifest("app", "1")));
    expect(calls.filter((call) => call.startsWith("resolveManifest"))).toHaveLength(1);
    expect(calls.filter((call) => call.startsWith("getManifest"))).toHaveLength(1);
  });
});

/** A source whose one blob arrives as the test says. */
function streaming(bytes: Buffer, sent: (push: (size: number) => Promise<void>) => Promise<void>, wrong = false) {
  const { registry, calls } = spied(localRegistry({ storage: memoryStorage(), name: "origin" }));
  const digest = digestOf(bytes);
  const descriptor = { mediaType: "application/octet-stream", digest, size: bytes.byteLength };
  const body = wrong ? Buffer.concat([bytes.subarray(0, -1), Buffer.from([(bytes.at(-1) ?? 0) ^ 1])]) : bytes;
  async function* chunks() {
    const queue: Buffer[] = [];
    let position = 0;
    let wake = () => {};
    let over = false;
    let failure: unknown;
    sent(async (size) => {
      queue.push(body.subarray(position, position + size));
      position += size;
      wake();
      await new Promise((resolve) => setTimeout(resolve, 5));
    }).then(
      () => {
        over = true;
        wake();
      },
      (error) => {
        failure = error;
        wake();
      },
    );
    while (true) {
      const next = queue.shift();
      if (next) yield next;
      else if (failure) throw failure;
      else if (over) return;
      else await new Promise<void>((resolve) => (wake = resolve));
    }
  }
  const content: BlobContent = { descriptor, content: { kind: "stream", open: () => Readable.from(chunks()) } };
  const source: Registry = {
    ...registry,
    resolveBlob: async (repository) =>
      repository === "app" ? { kind: "found", value: descriptor, served: { member: ["origin"] } } : { kind: "absent" },
    getBlob: async (repository, _digest) => {
      calls.push(`getBlob ${repository}`);
      return repository === "app" ? { kind: "found", value: content, served: { member: ["origin"] } } : { kind: "absent" };
    },
  };
  return { source, digest, calls };
}

describe.each([
  ["a store that reads what is staged", () => memoryStorage()],
  ["files", () => fileStorage(temporaryFolder())],
  ["an object store", () => ({ blobs: partBlobStore(), metadata: memoryStorage().metadata })],
])("a blob on its way into %s", (_, storage) => {
  const bytes = randomBytes(1_000_000);

  test("is read while it comes, by many, from one transfer; its end waits for the verification", async () => {
    let finish = () => {};
    const gate = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const { source, digest, calls } = streaming(bytes, async (push) => {
      await push(999_999);
      await gate;
      await push(1);
    });
    const hub = cached(source, { storage: storage(), name: "hub" });
    const readers = await Promise.all(
      Array.from({ length: 10 }, (_, index) => hub.getBlob("app", digest, index === 0 ? { range: { start: 10, end: 19 } } : {})),
    );
    const sizes = readers.map(() => 0);
    const reading = readers.map(async (lookup, index) => {
      const { content } = orThrow(lookup);
      const hashed: Uint8Array[] = [];
      if (content.kind !== "stream") throw new Error("expected a stream");
      for await (const chunk of content.open()) {
        hashed.push(chunk);
        sizes[index] = (sizes[index] ?? 0) + chunk.byteLength;
      }
      return Buffer.concat(hashed);
    });
    await eventually(
      async () => sizes.slice(1).every((size) => size === bytes.byteLength - 64 * 1024),
      "everything but the last chunk is out",
    );
    expect(sizes[0]).toBe(0);
    finish();
    const [part, ...all] = await Promise.all(reading);
    expect(part).toEqual(bytes.subarray(10, 20));
    for (const one of all) expect(one.equals(bytes)).toBe(true);
    expect(calls.filter((call) => call === "getBlob app")).toHaveLength(1);
    expect((await hub.getBlob("app", digest)).kind === "found").toBe(true);
  });

  test("wrong bytes are never complete for anyone and never stored", async () => {
    const { source, digest } = streaming(bytes, (push) => push(bytes.byteLength), true);
    const hub = cached(source, { storage: storage(), name: "hub" });
    const lookup = await hub.getBlob("app", digest);
    await expect(bytesOf(lookup)).rejects.toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("other bytes") });
    expect(await hub.completeness("app", digest).catch((error) => error.code)).toBe("MANIFEST_UNKNOWN");
    const small = streaming(bytes.subarray(0, 100), (push) => push(100), true);
    expect(await cached(small.source, { storage: storage(), name: "hub" }).getBlob("app", small.digest)).toMatchObject({
      kind: "unavailable",
    });
  });

  test("a reader that leaves does not stop it; a transfer that breaks can be tried again", async () => {
    let broken = true;
    const { source, digest } = streaming(bytes, async (push) => {
      await push(500_000);
      if (broken) throw new Error("cut");
      await push(500_000);
    });
    const store = storage();
    const hub = cached(source, { storage: store, name: "hub" });
    await expect(bytesOf(await hub.getBlob("app", digest))).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect((await store.blobs.listStaged({ limit: 10 })).items).toEqual([]);
    broken = false;
    const { content } = orThrow(await hub.getBlob("app", digest));
    if (content.kind === "stream") content.open().destroy();
    await eventually(
      async () => (await hub.getBlob("app", digest)).kind === "found" && (await store.blobs.list({ limit: 10 })).items.length === 1,
      "stored",
    );
    expect((await bytesOf(await hub.getBlob("app", digest))).equals(bytes)).toBe(true);
  });

  test("is not shown to a repository that the source does not show it to", async () => {
    const { source, digest } = streaming(bytes, (push) => push(bytes.byteLength));
    const hub = cached(source, { storage: storage(), name: "hub" });
    const running = hub.getBlob("app", digest);
    expect((await hub.getBlob("other", digest)).kind).toBe("absent");
    await bytesOf(await running);
    expect((await hub.getBlob("other", digest)).kind).toBe("absent");
  });
});

test("it takes no pushes", async () => {
  const { hub } = setUp();
  await expect(hub.startUpload("app")).rejects.toMatchObject({ code: "UNSUPPORTED" });
  await expect(hub.putBlob("app", { digest: digestOf(Buffer.from("x")) }, chunksOf(Buffer.from("x")))).rejects.toMatchObject({
    code: "UNSUPPORTED",
  });
});

test("over HTTP: a stampede of 30 clients costs one transfer a blob", async () => {
  const upstream = await fakeUpstream();
  const { digest, layers } = upstream.addImage("library/app", "1", { layers: [randomBytes(2_000_000)] });
  const hub = cached(remoteRegistry(upstream.url), { storage: memoryStorage(), name: "hub" });
  const layer = layers[0]?.digest ?? "";
  await Promise.all(
    Array.from({ length: 30 }, async () => {
      expect(orThrow(await hub.getManifest("library/app", "1")).descriptor.digest).toBe(digest);
      expect(digestOf(await bytesOf(await hub.getBlob("library/app", layer)))).toBe(layer);
    }),
  );
  expect(upstream.requests.filter(({ method, url }) => method === "GET" && url.includes(layer))).toHaveLength(1);
  expect(upstream.requests.filter(({ method, url }) => method === "GET" && url.includes("/manifests/"))).toHaveLength(1);
  await hub.close();
  await upstream.close();
});
