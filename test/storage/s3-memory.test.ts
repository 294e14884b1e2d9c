import { randomBytes } from "node:crypto";
import type { RegistryError } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { fakeClock } from "oci-manifold/testing";
import { expect, test, vi } from "vitest";
import { FakeS3, fakeSdk } from "./fake-s3.js";
import { bytesOf, id, inChunks, MiB, stagedKeys } from "./s3-support.js";

const chunk = 64 * 1024;

function storeWith(maxBuffered: `${number}MiB`) {
  const client = new FakeS3();
  const clock = fakeClock();
  const blobs = s3BlobStore({ client, sdk: fakeSdk, bucket: "images", maxBuffered, clock });
  return { client, clock, blobs };
}

/** A client that sends a part of its body, and the rest when it is told to. */
class Stalling {
  readonly data: Buffer;
  readonly #before: number;
  taken = 0;
  goOn = () => {};
  readonly #goesOn = new Promise<void>((resolve) => {
    this.goOn = resolve;
  });

  constructor(size: number, before: number) {
    this.data = randomBytes(size);
    this.#before = before;
  }

  async *body(from = 0): AsyncGenerator<Uint8Array> {
    for (let at = from; at < this.data.byteLength; at += chunk) {
      if (at >= this.#before) await this.#goesOn;
      const piece = this.data.subarray(at, at + chunk);
      this.taken += piece.byteLength;
      yield piece;
    }
  }
}

const storedIn = ({ objects }: FakeS3) => [...objects.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);

test("200 uploads whose clients stop in the middle hold a bounded memory, keep nobody out, and can go on", async () => {
  const { client, clock, blobs } = storeWith("160MiB");
  const clients = Array.from({ length: 200 }, () => new Stalling(768 * 1024, MiB / 2));
  const uploads = await Promise.all(clients.map(async (one) => ({ one, staged: await blobs.stage(id()) })));
  const appends = uploads.map(({ one, staged }) => staged.append(one.body()));
  for (const append of appends) append.catch(() => {});
  const taken = () => clients.reduce((sum, one) => sum + one.taken, 0);
  // Twenty parts, and what every upload may have without a reservation, with the piece that waits.
  await vi.waitFor(() => expect(clients.filter((one) => one.taken === MiB / 2)).toHaveLength(20));
  expect(taken() - storedIn(client)).toBeLessThanOrEqual(20 * (MiB / 2) + 180 * 2 * chunk);

  const other = randomBytes(20 * MiB);
  const staged = await blobs.stage(id());
  let stored = false;
  const pushed = staged.append(inChunks(other)).then(() => {
    stored = true;
  });
  await vi.waitFor(
    async () => {
      await clock.advance(1000);
      expect(taken() - storedIn(client)).toBeLessThanOrEqual(160 * MiB + 200 * 2 * chunk);
      expect(stored).toBe(true);
    },
    { timeout: 20_000, interval: 1 },
  );
  await pushed;
  expect((await bytesOf(blobs.read(await staged.commit(digestOf(other))))).equals(other)).toBe(true);

  for (const one of clients) one.goOn();
  for (const [index, { one, staged: half }] of uploads.entries()) {
    await appends[index];
    expect((await bytesOf(blobs.read(await half.commit(digestOf(one.data))))).equals(one.data)).toBe(true);
  }
  expect([stagedKeys(client), client.uploads.size]).toEqual([[], 0]);
}, 30_000);

test("an upload that finds no memory for a minute is refused with 429, and goes on from what it has", async () => {
  const { client, clock, blobs } = storeWith("8MiB");
  const held = await blobs.stage(id());
  let answer = () => {};
  // A store that answers late: its client has sent everything, so nothing of it can be stored earlier.
  client.intercept = async (request) => {
    if (request.command === "UploadPart") await new Promise<void>((resolve) => (answer = resolve));
    return request.answer();
  };
  const first = randomBytes(8 * MiB);
  const appended = held.append(inChunks(first));
  await vi.waitFor(() => expect(client.countOf("UploadPart")).toBe(1));
  const data = randomBytes(MiB);
  const refused = await blobs.stage(id());
  const outcome = refused.append(inChunks(data, chunk)).then(
    () => undefined,
    (error: RegistryError) => error,
  );
  let error: RegistryError | undefined;
  void outcome.then((one) => {
    error = one;
  });
  await vi.waitFor(async () => {
    await clock.advance(5000);
    expect(error).toMatchObject({ code: "TOOMANYREQUESTS", status: 429 });
  });
  expect(refused.size).toBe(chunk);
  answer();
  await appended;
  await refused.append(inChunks(data.subarray(refused.size)));
  expect((await bytesOf(blobs.read(await refused.commit(digestOf(data))))).equals(data)).toBe(true);
});
