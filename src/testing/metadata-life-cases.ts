import { deepEqual, equal, ok } from "node:assert/strict";
import { type Digest, digestOf } from "../core/digest.js";
import { recordKey } from "../core/records.js";
import type { MetadataCase } from "./contract.js";

const digest = (text: string): Digest => digestOf(Buffer.from(text));
const tag = (name: string) => recordKey.tag("release", "team/app", name);
const putTag = (name: string, updatedAt = 1) => ({ put: tag(name), value: { digest: digest(name), updatedAt } }) as const;

/** What records may hold, whose they are once read, and how a store ends. */
export function metadataLifeCases(contract: MetadataCase): void {
  contract("any text that JSON has comes back as it was", async (metadata) => {
    const annotations = {
      nul: "a\u0000b",
      control: "\u0001\u001f\u007f\r\n\t",
      surrogate: "\ud83d",
      astral: "\u{1f40b}",
      backslash: "\\u0000 \\",
      "": "",
      quote: `"'\``,
    };
    const descriptor = { mediaType: "a/b", digest: digest("x"), size: 3, annotations };
    const key = recordKey.referrer("release", "team/app", digest("s"), digest("x"));
    await metadata.commit([], [{ put: key, value: { descriptor } }]);
    deepEqual((await metadata.get(key))?.value, { descriptor });
    deepEqual((await metadata.page({ kind: "referrer", under: [], limit: 1 }))[0]?.value, { descriptor });
  });
  contract("numbers come back exactly, times and sizes beyond 32 bits too", async (metadata) => {
    for (const size of [0, 2 ** 31, 2 ** 32 + 1, 5 * 2 ** 40, Number.MAX_SAFE_INTEGER]) {
      const value = { location: "somewhere", size, committedAt: 1_767_225_600_123.5 };
      await metadata.commit([], [{ put: recordKey.blob(digest("x")), value }]);
      deepEqual((await metadata.get(recordKey.blob(digest("x"))))?.value, value);
    }
  });
  contract("keys are as long as names, digests and tags can be", async (metadata) => {
    const name = `${"a".repeat(120)}/${"b".repeat(134)}`;
    const long = digestOf(Buffer.from("x"), "sha512");
    const key = recordKey.tagByDigest("registry-name.example", name, long, "t".repeat(128));
    await metadata.commit([], [{ put: key, value: {} }]);
    deepEqual((await metadata.get(key))?.value, {});
    deepEqual(await metadata.names({ kind: "tagByDigest", under: ["registry-name.example", name, long], limit: 2 }), ["t".repeat(128)]);
  });
  contract("what was read does not change with what is written later", async (metadata) => {
    const key = recordKey.manifest("release", "team/app", digest("m"));
    const [first, second] = [
      { mediaType: "a/b", pushedAt: 1 },
      { mediaType: "c/d", pushedAt: 2 },
    ];
    await metadata.commit([], [{ put: key, value: first, bytes: Buffer.from("first") }]);
    const read = await metadata.get(key);
    const [listed] = await metadata.page({ kind: "manifest", under: [], limit: 1 });
    await metadata.commit([], [{ put: key, value: second, bytes: Buffer.from("other") }]);
    deepEqual(read?.value, first);
    deepEqual(listed?.value, first);
    equal(Buffer.from(read?.bytes ?? []).toString(), "first");
  });
  contract("a loop over reads lets timers run", async (metadata) => {
    await metadata.commit([], [putTag("v1")]);
    const range = { kind: "tag", under: ["release", "team/app"], limit: 10 } as const;
    for (const read of [
      () => metadata.get(tag("v1")),
      () => metadata.get(tag("none")),
      () => metadata.page(range),
      () => metadata.names(range),
    ]) {
      let ticked = false;
      setTimeout(() => {
        ticked = true;
      }, 1);
      // Where every answer is a microtask no timer runs, however many there are.
      for (let reads = 0; !ticked && reads < 100_000; reads++) await read();
      ok(ticked, "no timer ran during 100,000 reads");
    }
  });
  contract("a page of any length is whole and in order", async (metadata) => {
    const names = Array.from({ length: 1200 }, (_, index) => `v${String(index).padStart(4, "0")}`);
    await metadata.commit(
      [],
      names.map((name) => putTag(name)),
    );
    const range = { kind: "tag", under: ["release", "team/app"] } as const;
    for (const limit of [499, 500, 501, 1199, 1200, 1201, 100_000]) {
      deepEqual(
        (await metadata.page({ ...range, limit })).map(({ key }) => key.parts[2]),
        names.slice(0, limit),
      );
      deepEqual(await metadata.names({ ...range, limit, after: "v0001" }), names.slice(2, 2 + limit));
    }
  });
  contract("many records are read at once", async (metadata) => {
    const names = Array.from({ length: 500 }, (_, index) => `v${index}`);
    await metadata.commit(
      [],
      names.map((name, index) => putTag(name, index)),
    );
    const read = await Promise.all([...names, "none"].map((name) => metadata.get(tag(name))));
    deepEqual(
      read.map((record) => record?.value.updatedAt),
      [...names.keys(), undefined],
    );
  });
  contract("ready is idempotent", async (metadata) => {
    await metadata.ready();
    await Promise.all([metadata.ready(), metadata.ready()]);
  });
  contract("close waits for the commits that run", async (metadata) => {
    const outcomes: unknown[] = [];
    const commits = Array.from({ length: 20 }, async (_, index) => {
      outcomes.push(await metadata.commit([], [putTag(`v${index}`)]));
    });
    await metadata.close();
    await Promise.race([Promise.all(commits), new Promise((resolve) => setImmediate(resolve))]);
    deepEqual(
      outcomes,
      Array.from({ length: 20 }, () => true),
    );
  });
  contract("what is asked after close is refused by an error, or answered", async (metadata) => {
    await metadata.commit([], [putTag("a")]);
    await metadata.close();
    const key = tag("a");
    for (const ask of [
      () => metadata.get(key),
      () => metadata.names({ kind: "tag", under: [], limit: 1 }),
      () => metadata.commit([], []),
    ]) {
      const answer = await ask().catch((error: unknown) => error);
      ok(!(answer instanceof Error) || answer.message.length > 0);
    }
  });
}
