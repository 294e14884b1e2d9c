import { deepEqual, equal, notEqual } from "node:assert/strict";
import { type Digest, digestOf } from "../core/digest.js";
import type { Condition } from "../core/metadata-store.js";
import { recordKey } from "../core/records.js";
import type { MetadataCase } from "./contract.js";

const digest = (text: string): Digest => digestOf(Buffer.from(text));
const tag = (name: string) => recordKey.tag("release", "team/app", name);
const manifest = (text: string) => recordKey.manifest("release", "team/app", digest(text));
const putTag = (name: string, updatedAt = 1) => ({ put: tag(name), value: { digest: digest(name), updatedAt } }) as const;

/** What one commit is: in order, of one moment, of any size. */
export function metadataCommitCases(contract: MetadataCase): void {
  contract("of two changes to one key in a commit the later counts", async (metadata) => {
    const value = { mediaType: "a/b", pushedAt: 1 };
    await metadata.commit([], [putTag("a", 1), putTag("a", 2)]);
    equal((await metadata.get(tag("a")))?.value.updatedAt, 2);
    await metadata.commit([], [putTag("a", 3), { remove: tag("a") }]);
    equal(await metadata.get(tag("a")), undefined);
    await metadata.commit([], [putTag("a", 4)]);
    await metadata.commit([], [{ remove: tag("a") }, putTag("a", 5)]);
    equal((await metadata.get(tag("a")))?.value.updatedAt, 5);
    await metadata.commit(
      [],
      [
        { put: manifest("m"), value, bytes: Buffer.from("first") },
        { put: manifest("m"), value },
      ],
    );
    equal((await metadata.get(manifest("m")))?.bytes, undefined);
    await metadata.commit(
      [],
      [
        { put: manifest("m"), value },
        { put: manifest("m"), value, bytes: Buffer.from("second") },
      ],
    );
    equal(Buffer.from((await metadata.get(manifest("m")))?.bytes ?? []).toString(), "second");
    equal((await metadata.names({ kind: "tag", under: ["release", "team/app"], limit: 10 })).length, 1);
  });
  contract("conditions speak of what was before the changes of their commit", async (metadata) => {
    equal(await metadata.commit([{ key: tag("a"), is: "absent" }], [putTag("a", 1)]), true);
    equal(await metadata.commit([{ key: tag("a"), is: "present" }], [{ remove: tag("a") }]), true);
    equal(await metadata.commit([{ key: tag("a"), is: "present" }], [putTag("a", 2)]), false);
    equal(await metadata.get(tag("a")), undefined);
    await metadata.commit([], [putTag("a", 3)]);
    const version = (await metadata.get(tag("a")))?.version ?? -1;
    const twice: readonly Condition[] = [
      { key: tag("a"), is: "version", version },
      { key: tag("a"), is: "present" },
    ];
    equal(await metadata.commit(twice, [{ remove: tag("a") }, putTag("a", 4)]), true);
    notEqual((await metadata.get(tag("a")))?.version, version);
    equal(await metadata.commit([{ key: tag("a"), is: "absent" }, ...twice.slice(1)], [putTag("a", 5)]), false);
  });
  contract("a commit may have thousands of conditions and changes", async (metadata) => {
    const names = Array.from({ length: 3000 }, (_, index) => `v${index}`);
    const absent = names.map((name) => ({ key: tag(name), is: "absent" }) as const);
    equal(
      await metadata.commit(
        absent,
        names.map((name) => putTag(name)),
      ),
      true,
    );
    const removals = names.map((name) => ({ remove: tag(name) }));
    const conditions = names.map((name) => ({ key: tag(name), is: "present" }) as const);
    equal(await metadata.commit([...conditions, { key: tag("other"), is: "present" }], removals), false);
    equal((await metadata.names({ kind: "tag", under: ["release", "team/app"], limit: 5000 })).length, 3000);
    equal(await metadata.commit(conditions, removals), true);
    deepEqual(await metadata.names({ kind: "tag", under: ["release", "team/app"], limit: 5000 }), []);
  });
  contract("a page shows all of a commit or nothing of it", async (metadata) => {
    const names = ["a", "b", "c", "d"];
    const write = (round: number) =>
      metadata.commit(
        [],
        names.map((name) => putTag(name, round)),
      );
    await write(0);
    const writes = Array.from({ length: 20 }, (_, round) => write(round + 1));
    const pages = Array.from({ length: 40 }, async (_, index) => {
      for (let turn = 0; turn < index % 5; turn++) await new Promise((resolve) => setImmediate(resolve));
      return metadata.page({ kind: "tag", under: ["release", "team/app"], limit: 10 });
    });
    for (const page of await Promise.all(pages)) {
      equal(page.length, names.length);
      equal(new Set(page.map(({ value }) => value.updatedAt)).size, 1);
    }
    deepEqual(new Set(await Promise.all(writes)), new Set([true]));
  });
}
