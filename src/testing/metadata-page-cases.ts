import { deepEqual, equal } from "node:assert/strict";
import { digestOf } from "../core/digest.js";
import type { MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import type { MetadataCase } from "./contract.js";

const digest = digestOf(Buffer.from("content"));

async function putTags(
  metadata: MetadataStore,
  all: readonly (readonly [registry: string, repository: string, tag: string])[],
): Promise<void> {
  await metadata.commit(
    [],
    all.map((parts) => ({ put: recordKey.tag(...parts), value: { digest, updatedAt: 1 } })),
  );
}

/** By records; where only the tags are left of the key, by names as well. */
async function pageOfTags(metadata: MetadataStore, under: readonly string[], limit = 100, after?: string): Promise<string[]> {
  const range = { kind: "tag", under, limit, ...(after !== undefined && { after }) } as const;
  const items = await metadata.page(range);
  if (under.length === 2) {
    deepEqual(
      await metadata.names(range),
      items.map(({ key }) => key.parts[2]),
    );
  }
  return items.map(({ key }) => key.parts.slice(under.length).join(" "));
}

/** The order and the bounds of pages: what every listing and every collection counts on. */
export function metadataPageCases(contract: MetadataCase): void {
  contract("an empty range is an empty page", async (metadata) => {
    deepEqual(await metadata.page({ kind: "tag", under: [], limit: 10 }), []);
    deepEqual(await metadata.names({ kind: "tag", under: ["release", "app"], limit: 10 }), []);
  });
  contract("a page has keys, values and versions, but no bytes", async (metadata) => {
    const key = recordKey.manifest("release", "app", digest);
    await metadata.commit([], [{ put: key, value: { mediaType: "a/b", pushedAt: 1 }, bytes: Buffer.from("bytes") }]);
    const version = (await metadata.get(key))?.version;
    deepEqual(await metadata.page({ kind: "manifest", under: ["release", "app"], limit: 10 }), [
      { key, value: { mediaType: "a/b", pushedAt: 1 }, version },
    ]);
  });
  contract("under matches whole parts only", async (metadata) => {
    await putTags(metadata, [
      ["r", "a", "1"],
      ["r", "a-b", "2"],
      ["r", "a/b", "3"],
      ["r", "a.b", "4"],
      ["r", "ab", "5"],
      ["r", "A", "6"],
      ["r-2", "a", "7"],
      ["q", "a", "8"],
    ]);
    deepEqual(await pageOfTags(metadata, ["r", "a"]), ["1"]);
    deepEqual(await pageOfTags(metadata, ["r", "a-b"]), ["2"]);
    deepEqual(await pageOfTags(metadata, ["r"]), ["A 6", "a 1", "a-b 2", "a.b 4", "a/b 3", "ab 5"]);
    deepEqual(await pageOfTags(metadata, ["r", "b"]), []);
    deepEqual(await pageOfTags(metadata, ["r", "a", "1"]), []);
  });
  contract("parts sort in ASCII order, one after the other", async (metadata) => {
    const names = ["a", "a b", "a!", "a-1", "a.1", "a/1", "a0", "a:1", "aA", "a_", "aa", "a~", "~", "-", "Z", "_"];
    await putTags(
      metadata,
      names.map((name) => ["r", name, "t"] as const),
    );
    deepEqual(
      await pageOfTags(metadata, ["r"]),
      [...names].sort().map((name) => `${name} t`),
    );
    await putTags(
      metadata,
      names.map((name) => ["s", "x", name] as const),
    );
    deepEqual(await pageOfTags(metadata, ["s", "x"]), [...names].sort());
  });
  contract("after is exclusive, over the part that follows, and need not exist", async (metadata) => {
    await putTags(metadata, [
      ["r", "a", "1"],
      ["r", "a", "2"],
      ["r", "a-b", "1"],
      ["r", "b", "1"],
    ]);
    deepEqual(await pageOfTags(metadata, ["r"], 100, "a"), ["a-b 1", "b 1"]);
    deepEqual(await pageOfTags(metadata, ["r"], 100, "a-"), ["a-b 1", "b 1"]);
    deepEqual(await pageOfTags(metadata, ["r"], 100, ""), ["a 1", "a 2", "a-b 1", "b 1"]);
    deepEqual(await pageOfTags(metadata, ["r"], 100, "b"), []);
    deepEqual(await pageOfTags(metadata, ["r", "a"], 100, "1"), ["2"]);
    deepEqual(await pageOfTags(metadata, [], 100, "q"), ["r a 1", "r a 2", "r a-b 1", "r b 1"]);
    deepEqual(await pageOfTags(metadata, [], 100, "r"), []);
  });
  contract("an after that no part could be still has a position in the order", async (metadata) => {
    await putTags(metadata, [
      ["r", "a", "x"],
      ["r", "aa", "x"],
      ["r", "b", "x"],
    ]);
    deepEqual(await pageOfTags(metadata, ["r"], 100, "a\u0000z"), ["aa x", "b x"]);
    deepEqual(await pageOfTags(metadata, ["r"], 100, "a\u0001x"), ["aa x", "b x"]);
    deepEqual(await pageOfTags(metadata, ["r"], 100, "a\u00e9"), ["b x"]);
  });
  contract("limit is the most there is", async (metadata) => {
    await putTags(metadata, [
      ["r", "a", "1"],
      ["r", "a", "2"],
      ["r", "a", "3"],
    ]);
    deepEqual(await pageOfTags(metadata, ["r", "a"], 2), ["1", "2"]);
    deepEqual(await pageOfTags(metadata, ["r", "a"], 0), []);
  });
  contract("records are seen in pages as soon as they are committed, and no longer than that", async (metadata) => {
    await putTags(metadata, [["r", "a", "2"]]);
    deepEqual(await pageOfTags(metadata, ["r", "a"]), ["2"]);
    await putTags(metadata, [["r", "a", "1"]]);
    deepEqual(await pageOfTags(metadata, ["r", "a"]), ["1", "2"]);
    await metadata.commit([], [{ remove: recordKey.tag("r", "a", "2") }]);
    deepEqual(await pageOfTags(metadata, ["r", "a"]), ["1"]);
  });
  contract("5,000 records are paged without a gap or a repetition", async (metadata) => {
    const names = Array.from({ length: 5000 }, (_, index) => `v${(index * 7919) % 5000}`);
    for (let at = 0; at < names.length; at += 500) {
      await putTags(
        metadata,
        names.slice(at, at + 500).map((name) => ["r", "a", name] as const),
      );
    }
    const listed: string[] = [];
    let after: string | undefined;
    do {
      const page = await pageOfTags(metadata, ["r", "a"], 700, after);
      listed.push(...page);
      after = page.at(-1);
    } while (after !== undefined);
    equal(listed.length, 5000);
    deepEqual(listed, names.sort());
  });
}
