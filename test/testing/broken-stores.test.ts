import type { BlobStore, MetadataStore, Staged } from "oci-manifold/extend";
import { memoryBlobStore, memoryMetadataStore } from "oci-manifold/storage/memory";
import { blobStoreContract, metadataStoreContract } from "oci-manifold/testing";
import { expect, test } from "vitest";

type Cases = { name: string; run: () => Promise<void> }[];

/** @param only the one case to run; absent: all. */
async function failingOf(cases: Cases, only?: string): Promise<string[]> {
  const failed: string[] = [];
  for (const { name, run } of cases) if (only === undefined || name === only) await run().catch(() => failed.push(name));
  return failed;
}

/** The names of the cases that a store with these faults fails. */
async function failingBlobs(fault: (sound: BlobStore) => Partial<BlobStore>, only?: string): Promise<string[]> {
  const cases: Cases = [];
  const create = async () => {
    const sound = memoryBlobStore();
    return { store: Object.assign({ ...sound }, fault(sound)), dispose: async () => {} };
  };
  blobStoreContract({ test: (name, run) => cases.push({ name, run }), create, capabilities: { readStaged: true } });
  return failingOf(cases, only);
}

async function failingMetadata(fault: (sound: MetadataStore) => Partial<MetadataStore>, only?: string): Promise<string[]> {
  const cases: Cases = [];
  const create = async () => {
    const sound = memoryMetadataStore();
    return { store: Object.assign({ ...sound }, fault(sound)), dispose: async () => {} };
  };
  metadataStoreContract({ test: (name, run) => cases.push({ name, run }), create });
  return failingOf(cases, only);
}

const changed = (staged: Staged, methods: Partial<Staged>): Staged =>
  Object.defineProperties(Object.create(staged), Object.getOwnPropertyDescriptors(methods));

test("sound stores fail nothing", async () => {
  expect(await failingBlobs(() => ({}))).toEqual([]);
  expect(await failingMetadata(() => ({}))).toEqual([]);
});

test.each<[what: string, caught: string, fault: (sound: BlobStore) => Partial<BlobStore>]>([
  [
    "throws where the stream should fail",
    "a location that never was fails on the stream, and its deletion hits nothing",
    (sound) => ({
      read(location, o) {
        if (!location.includes("/")) throw new Error("no such location");
        return sound.read(location, o);
      },
    }),
  ],
  [
    "takes the end of a range for exclusive",
    "ranges are inclusive at both ends",
    (sound) => ({ read: (location, o) => sound.read(location, o?.range && { range: { ...o.range, end: o.range.end - 1 } }) }),
  ],
  [
    "lists without order",
    "committed blobs are listed in pages, in ASCII order, with size and time",
    (sound) => ({
      async list(page) {
        const listed = await sound.list(page);
        return { ...listed, items: [...listed.items].reverse() };
      },
    }),
  ],
  [
    "tells times in seconds",
    "staged uploads are listed in pages, in ASCII order",
    (sound) => ({
      async listStaged(page) {
        const listed = await sound.listStaged(page);
        return { ...listed, items: listed.items.map((item) => ({ ...item, modifiedAt: item.modifiedAt / 1000 })) };
      },
    }),
  ],
  [
    "has a location for each digest",
    "a location is not used again after it was deleted",
    (sound) => {
      const first = new Map<string, string>();
      return {
        stage: async (id) => {
          const staged = await sound.stage(id);
          return changed(staged, {
            async commit(digest) {
              const location = await staged.commit(digest);
              if (!first.has(digest)) first.set(digest, location);
              return first.get(digest) ?? location;
            },
          });
        },
      };
    },
  ],
  [
    "goes on with bytes that the state does not know",
    "reopening with an older state answers no more than it, and goes on from there",
    (sound) => ({ reopen: (id) => sound.reopen(id, {}) }),
  ],
  [
    "presigns though it says that it cannot",
    "says what it can do, and has what belongs to it",
    () => ({ presign: async () => "http://127.0.0.1/" }),
  ],
])("a blob store that %s is caught", async (_, caught, fault) => {
  expect(await failingBlobs(fault, caught)).toEqual([caught]);
});

test.each<[what: string, caught: string, fault: (sound: MetadataStore) => Partial<MetadataStore>]>([
  [
    "makes changes without their conditions",
    "absent holds only while there is no record",
    (sound) => ({ commit: (_, changes) => sound.commit([], changes) }),
  ],
  [
    "makes changes in another order",
    "of two changes to one key in a commit the later counts",
    (sound) => ({ commit: (conditions, changes) => sound.commit(conditions, [...changes].reverse()) }),
  ],
  [
    "makes each change by itself",
    "a page shows all of a commit or nothing of it",
    (sound) => ({
      async commit(conditions, changes) {
        if (!(await sound.commit(conditions, []))) return false;
        for (const change of changes) {
          await new Promise((resolve) => setImmediate(resolve));
          await sound.commit([], [change]);
        }
        return true;
      },
    }),
  ],
  [
    "counts versions for each record anew",
    "versions change with every write and never come back",
    (sound) => ({
      async get(key) {
        const record = await sound.get(key);
        return record && { ...record, version: 1 };
      },
    }),
  ],
  [
    "sorts as people do",
    "parts sort in ASCII order, one after the other",
    (sound) => ({
      async page(range) {
        return [...(await sound.page(range))].sort((a, b) => a.key.parts.join(" ").localeCompare(b.key.parts.join(" ")));
      },
    }),
  ],
  [
    "loses what a text column cannot hold",
    "any text that JSON has comes back as it was",
    (sound) => ({
      commit: (conditions, changes) => sound.commit(conditions, JSON.parse(JSON.stringify(changes).replaceAll("\\u0000", ""))),
    }),
  ],
  [
    "answers before it is done, and closes",
    "close waits for the commits that run",
    (sound) => {
      let closed = false;
      return {
        async commit(conditions, changes) {
          await new Promise((resolve) => setImmediate(resolve));
          if (closed) throw new Error("closed");
          return sound.commit(conditions, changes);
        },
        async close() {
          closed = true;
        },
      };
    },
  ],
])("a metadata store that %s is caught", async (_, caught, fault) => {
  expect(await failingMetadata(fault, caught)).toEqual([caught]);
});

test("a full store is caught where it says that it asks for space", async () => {
  const cases: Cases = [];
  const createFull = async () => {
    let full = true;
    const sound = memoryBlobStore();
    const stage: BlobStore["stage"] = async (id) => {
      const staged = await sound.stage(id);
      return changed(staged, {
        async append(source, o) {
          if (full) throw new Error("disk full");
          await staged.append(source, o);
        },
      });
    };
    const free = async () => {
      full = false;
    };
    return { store: { ...sound, stage }, free, dispose: async () => {} };
  };
  blobStoreContract({ test: (name, run) => cases.push({ name, run }), create: createFull, createFull, capabilities: { readStaged: true } });
  const failed = await failingOf(cases.filter(({ name }) => name.startsWith("a full store")));
  expect(failed).toHaveLength(3);
});
