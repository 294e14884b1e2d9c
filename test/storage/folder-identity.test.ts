import { existsSync } from "node:fs";
import { cp, mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, localRegistry, mediaTypes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { collectGarbage } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { makeIndex } from "../fixtures/images.js";
import { withoutClock } from "../fixtures/without-clock.js";
import { recorder, site } from "../http/support.js";
import { temporaryFolder } from "./temporary-folder.js";

const bytes = Buffer.from("layer".repeat(20_000));
const digest = digestOf(bytes);
const day = 24 * 3_600_000;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder.remove());

const open = (o: Parameters<typeof fileStorage>[1] = {}) => {
  const storage = fileStorage(folder.path, o);
  return { storage, registry: localRegistry({ storage, name: "release" }) };
};

async function withBlob() {
  const { registry } = open();
  await registry.ready();
  await registry.putBlob("app", { digest }, chunksOf(bytes));
  await registry.close();
}

/** Nobody else uses the storage: nothing has to be waited for. */
const daysLater = (days: number): Clock => ({
  now: () => Date.now() + days * day,
  elapsed: () => performance.now(),
  sleep: async () => {},
});

const withoutDatabase = async () => {
  for (const name of await readdir(folder.path)) if (name.startsWith("metadata.sqlite")) await rm(join(folder.path, name));
};

describe("a database without records beside blobs", () => {
  const losses: [string, () => Promise<void>][] = [
    ["the file is gone", withoutDatabase],
    [
      "the file is empty",
      async () => {
        await withoutDatabase();
        await writeFile(join(folder.path, "metadata.sqlite"), "");
      },
    ],
    [
      "file and identity are gone",
      async () => {
        await withoutDatabase();
        await rm(join(folder.path, "identity"));
      },
    ],
  ];
  test.each(losses)("is refused, and nothing changes: %s", async (_, lose) => {
    await withBlob();
    await lose();
    for (let tries = 0; tries < 2; tries++) {
      const { registry } = open();
      await expect(registry.ready()).rejects.toMatchObject({
        code: "UNAVAILABLE",
        message: expect.stringMatching(/has no records.*acceptEmptyDatabase/),
      });
      await registry.close();
    }
    expect(await readdir(join(folder.path, "blobs/sha256", digest.slice(7, 9)))).toHaveLength(1);
  });

  test("is taken where the host says so; garbage collection spares the bytes for 30 days", async () => {
    await withBlob();
    await withoutDatabase();
    const { storage, registry } = open({ acceptEmptyDatabase: true });
    await registry.ready();
    expect((await registry.resolveBlob("app", digest)).kind).toBe("absent");
    const files = () => readdir(join(folder.path, "blobs/sha256", digest.slice(7, 9)));
    await collectGarbage(withoutClock(storage), { clock: daysLater(29) });
    expect(await files()).toHaveLength(1);
    await registry.close();
    // From then on it is the folder's database.
    const again = open();
    await again.registry.ready();
    await collectGarbage(withoutClock(again.storage), { clock: daysLater(31) });
    expect(await files()).toHaveLength(0);
    await again.registry.close();
  });

  test("is what a new folder has, and one whose blobs were all removed", async () => {
    await withBlob();
    await withoutDatabase();
    await rm(join(folder.path, "blobs"), { recursive: true });
    const { registry } = open();
    await registry.ready();
    await registry.putBlob("app", { digest }, chunksOf(bytes));
    await registry.close();
  });
});

test("a new folder takes a blob before anything else", async () => {
  const { registry } = open();
  await registry.putBlob("app", { digest }, chunksOf(bytes));
  await registry.close();
  const again = open();
  expect((await again.registry.resolveBlob("app", digest)).kind).toBe("found");
  await again.registry.close();
});

test("a folder from before there were identities gets one", async () => {
  await withBlob();
  const { storage } = open();
  await storage.metadata.ready();
  await storage.metadata.close();
  await rm(join(folder.path, "identity"));
  const again = open();
  expect((await again.registry.resolveBlob("app", digest)).kind).toBe("found");
  await again.registry.close();
  expect(existsSync(join(folder.path, "identity"))).toBe(true);
});

test("the database of another folder is refused", async () => {
  await withBlob();
  const other = await temporaryFolder();
  const { metadata } = fileStorage(other.path);
  await metadata.ready();
  await metadata.close();
  await withoutDatabase();
  for (const name of await readdir(other.path))
    if (name.startsWith("metadata.sqlite")) await cp(join(other.path, name), join(folder.path, name));
  const { registry } = open();
  await expect(registry.ready()).rejects.toThrow(/the database of another folder/);
  await registry.close();
  await other.remove();
});

describe("while it is in use", () => {
  async function running() {
    const events = recorder();
    const { registry } = open();
    await registry.ready();
    await registry.putBlob("app", { digest }, chunksOf(bytes));
    const served = await site(registry, { anonymousWrites: true, events });
    const faults = () => events.of("fault").map(({ message }) => message);
    return { ...served, faults };
  }
  const start = (fetch: (path: string, init?: RequestInit) => Promise<Response>) => fetch("/v2/app/blobs/uploads/", { method: "POST" });

  test.each([
    ["deleted", withoutDatabase],
    [
      "replaced by another",
      async () => {
        const path = join(folder.path, "metadata.sqlite");
        await cp(path, `${path}.copy`);
        await rename(`${path}.copy`, path);
      },
    ],
  ])("a database that is %s takes no push", async (_, lose) => {
    const { fetch, faults } = await running();
    await lose();
    const { bytes: body } = makeIndex([]);
    const headers = { "Content-Type": mediaTypes.ociIndex };
    const pushed = await fetch("/v2/app/manifests/late", { method: "PUT", body, headers });
    expect([pushed.status, faults().at(-1)]).toEqual([
      503,
      expect.stringMatching(/metadata\.sqlite was (?:deleted|replaced) while it was in use/),
    ]);
    expect((await start(fetch)).status).toBe(503);
  });

  test("without its blobs, GET is 503 and says so to the host; without uploads a push is", async () => {
    const { fetch, faults } = await running();
    await rm(join(folder.path, "blobs"), { recursive: true });
    const got = async () => [(await fetch(`/v2/app/blobs/${digest}`)).status, faults().at(-1)];
    expect(await got()).toEqual([503, expect.stringMatching(/blobs was deleted while it was in use/)]);
    // A folder of the same name is another.
    await mkdir(join(folder.path, "blobs"));
    expect(await got()).toEqual([503, expect.stringMatching(/blobs was replaced while it was in use/)]);
    await rm(join(folder.path, "uploads"), { recursive: true });
    expect([(await start(fetch)).status, faults().at(-1)]).toEqual([503, expect.stringMatching(/uploads was deleted while it was in use/)]);
  });
});
