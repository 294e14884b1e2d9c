import { deepEqual, equal, notEqual, ok, rejects } from "node:assert/strict";
import { type Digest, digestOf } from "../core/digest.js";
import type { MetadataStore } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import { type ContractTest, contractCases, type MetadataCase } from "./contract.js";
import { metadataCommitCases } from "./metadata-commit-cases.js";
import { metadataLifeCases } from "./metadata-life-cases.js";
import { metadataPageCases } from "./metadata-page-cases.js";

/** A store for one case. */
export interface MetadataStoreUnderTest {
  readonly store: MetadataStore;
  /** Called after the store was closed. */
  dispose(): Promise<void>;
}

export interface MetadataStoreContract {
  /** Registers a case with whatever runs the tests: `test` of `node:test` or vitest, `it` of mocha. */
  readonly test: ContractTest;
  /** An empty store for each case. */
  readonly create: () => Promise<MetadataStoreUnderTest>;
}

/**
 * The promises of a {@link MetadataStore}, each as a named case. An adapter that passes can hold a registry's metadata.
 *
 * @example
 * ```ts
 * import { test } from "node:test";
 * import { metadataStoreContract, transactionMetadataStore } from "oci-manifold/testing";
 * metadataStoreContract({ test, create: async () => ({ store: transactionMetadataStore(), dispose: async () => {} }) });
 * ```
 */
export function metadataStoreContract({ test, create }: MetadataStoreContract): void {
  const contract: MetadataCase = contractCases(
    test,
    create,
    ({ store }) => store,
    ({ store }) => store,
  );
  recordCases(contract);
  conditionCases(contract);
  concurrencyCases(contract);
  metadataPageCases(contract);
  metadataCommitCases(contract);
  metadataLifeCases(contract);
}

const digest = (text: string): Digest => digestOf(Buffer.from(text));
const tag = (name: string) => recordKey.tag("release", "team/app", name);
const manifest = (text: string) => recordKey.manifest("release", "team/app", digest(text));
const putTag = (name: string, updatedAt = 1) => ({ put: tag(name), value: { digest: digest(name), updatedAt } }) as const;

function recordCases(contract: MetadataCase): void {
  contract("what was never written is undefined", async (metadata) => {
    equal(await metadata.get(tag("latest")), undefined);
  });
  contract("a record is put, replaced and removed", async (metadata) => {
    equal(await metadata.commit([], [putTag("latest", 1)]), true);
    deepEqual((await metadata.get(tag("latest")))?.value, { digest: digest("latest"), updatedAt: 1 });
    equal(await metadata.commit([], [putTag("latest", 2)]), true);
    equal((await metadata.get(tag("latest")))?.value.updatedAt, 2);
    equal(await metadata.commit([], [{ remove: tag("latest") }]), true);
    equal(await metadata.get(tag("latest")), undefined);
    equal(await metadata.commit([], [{ remove: tag("latest") }]), true);
  });
  contract("nested values come back as they were", async (metadata) => {
    const value = {
      descriptor: { mediaType: "a/b", digest: digest("x"), size: 3, annotations: { "org.example": 'quotes " and \u{1f40b}' } },
    };
    const key = recordKey.referrer("release", "team/app", digest("s"), digest("x"));
    await metadata.commit([], [{ put: key, value }]);
    deepEqual((await metadata.get(key))?.value, value);
  });
  contract("one name in two kinds is two records", async (metadata) => {
    const parts = ["release", "team/app"];
    await metadata.commit([], [{ put: { kind: "repository", parts }, value: { updatedAt: 1 } }]);
    equal(await metadata.get({ kind: "lease", parts }), undefined);
  });
  contract("bytes come back exactly, and only with the record they belong to", async (metadata) => {
    const bytes = Buffer.from(Array.from({ length: 1000 }, (_, index) => index % 256));
    const value = { mediaType: "a/b", pushedAt: 1 };
    const second = Buffer.from("second");
    await metadata.commit(
      [],
      [putTag("before"), { put: manifest("m"), value, bytes }, { put: manifest("n"), value, bytes: second }, putTag("after")],
    );
    deepEqual([...((await metadata.get(manifest("m")))?.bytes ?? [])], [...bytes]);
    deepEqual([...((await metadata.get(manifest("n")))?.bytes ?? [])], [...second]);
    equal((await metadata.get(tag("before")))?.bytes, undefined);
    equal((await metadata.get(tag("after")))?.bytes, undefined);
    await metadata.commit([], [{ put: manifest("m"), value }]);
    equal((await metadata.get(manifest("m")))?.bytes, undefined);
  });
  contract("4 MiB of bytes are kept", async (metadata) => {
    const bytes = Buffer.alloc(4 * 2 ** 20, "manifold");
    await metadata.commit([], [{ put: manifest("big"), value: { mediaType: "a/b", pushedAt: 1 }, bytes }]);
    equal(Buffer.compare((await metadata.get(manifest("big")))?.bytes ?? Buffer.alloc(0), bytes), 0);
  });
  contract("what the writer does afterwards with its value and bytes changes nothing", async (metadata) => {
    const bytes = Buffer.from("original");
    const value = { mediaType: "a/b", pushedAt: 1 };
    await metadata.commit([], [{ put: manifest("m"), value, bytes }]);
    bytes.fill(0);
    value.pushedAt = 2;
    const again = await metadata.get(manifest("m"));
    equal(Buffer.from(again?.bytes ?? []).toString(), "original");
    equal(again?.value.pushedAt, 1);
  });
  contract("versions change with every write and never come back", async (metadata) => {
    const seen = new Set<number>();
    for (let round = 0; round < 20; round++) {
      await metadata.commit([], [putTag("latest")]);
      const version = (await metadata.get(tag("latest")))?.version;
      ok(version !== undefined && !seen.has(version));
      seen.add(version);
      if (round % 3 === 0) await metadata.commit([], [{ remove: tag("latest") }]);
    }
  });
  contract("a key that could not be kept in order is refused", async (metadata) => {
    await rejects(metadata.commit([], [{ put: { kind: "lease", parts: ["a\u0001b"] }, value: { holder: "h", expiresAt: 1 } }]));
    await rejects(metadata.commit([], [{ put: { kind: "lease", parts: [] }, value: { holder: "h", expiresAt: 1 } }]));
  });
}

function conditionCases(contract: MetadataCase): void {
  contract("absent holds only while there is no record", async (metadata) => {
    equal(await metadata.commit([{ key: tag("a"), is: "absent" }], [putTag("a", 1)]), true);
    equal(await metadata.commit([{ key: tag("a"), is: "absent" }], [putTag("a", 2)]), false);
    equal((await metadata.get(tag("a")))?.value.updatedAt, 1);
  });
  contract("present holds only while there is a record", async (metadata) => {
    equal(await metadata.commit([{ key: tag("a"), is: "present" }], [putTag("b")]), false);
    await metadata.commit([], [putTag("a")]);
    equal(await metadata.commit([{ key: tag("a"), is: "present" }], [putTag("b")]), true);
  });
  contract("a version holds only until the next write", async (metadata) => {
    await metadata.commit([], [putTag("a", 1)]);
    const version = (await metadata.get(tag("a")))?.version ?? -1;
    equal(await metadata.commit([{ key: tag("a"), is: "version", version }], [putTag("a", 2)]), true);
    equal(await metadata.commit([{ key: tag("a"), is: "version", version }], [putTag("a", 3)]), false);
    await metadata.commit([], [{ remove: tag("a") }]);
    equal(await metadata.commit([{ key: tag("a"), is: "version", version }], [putTag("a", 4)]), false);
    equal(await metadata.get(tag("a")), undefined);
  });
  contract("all changes or none", async (metadata) => {
    await metadata.commit([], [putTag("a", 1)]);
    const conditions = [
      { key: tag("a"), is: "present" },
      { key: tag("b"), is: "present" },
    ] as const;
    equal(await metadata.commit(conditions, [putTag("a", 2), putTag("c"), { remove: tag("a") }]), false);
    equal((await metadata.get(tag("a")))?.value.updatedAt, 1);
    equal(await metadata.get(tag("c")), undefined);
  });
  contract("conditions without changes are a question", async (metadata) => {
    equal(await metadata.commit([{ key: tag("a"), is: "absent" }], []), true);
    equal(await metadata.commit([{ key: tag("a"), is: "present" }], []), false);
  });
}

function concurrencyCases(contract: MetadataCase): void {
  contract("of many compare-and-sets on one record exactly one wins each round", async (metadata) => {
    await metadata.commit([], [putTag("contested", 0)]);
    for (let round = 1; round <= 10; round++) {
      const version = (await metadata.get(tag("contested")))?.version ?? -1;
      const attempts = Array.from({ length: 40 }, (_, writer) =>
        metadata.commit([{ key: tag("contested"), is: "version", version }], [putTag("contested", round * 100 + writer)]),
      );
      const winners = (await Promise.all(attempts)).flatMap((won, writer) => (won ? [writer] : []));
      equal(winners.length, 1);
      equal((await metadata.get(tag("contested")))?.value.updatedAt, round * 100 + (winners[0] ?? -1));
    }
  });
  contract("many commits at once are all kept, with versions of their own", async (metadata) => {
    const names = Array.from({ length: 300 }, (_, index) => `v${index}`);
    const outcomes = await Promise.all(names.map((name) => metadata.commit([{ key: tag(name), is: "absent" }], [putTag(name)])));
    deepEqual(new Set(outcomes), new Set([true]));
    for (const name of names) notEqual(await metadata.get(tag(name)), undefined);
  });
  contract("a commit that cannot be made leaves those beside it alone", async (metadata) => {
    const bad = { put: { kind: "lease", parts: ["\n"] }, value: { holder: "h", expiresAt: 1 } } as const;
    await metadata.commit([], [putTag("before")]);
    const outcomes = await Promise.allSettled([
      metadata.commit([], [putTag("a")]),
      metadata.commit([], [putTag("b"), bad]),
      metadata.commit([{ key: tag("none"), is: "present" }], [putTag("c")]),
      metadata.commit([{ key: tag("before"), is: "present" }], [putTag("d")]),
    ]);
    deepEqual(
      outcomes.map((outcome) => (outcome.status === "fulfilled" ? outcome.value : "rejected")),
      [true, "rejected", false, true],
    );
    equal(await metadata.get(tag("b")), undefined);
  });
}
