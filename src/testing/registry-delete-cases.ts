import { deepEqual, equal } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { digestOf } from "../core/digest.js";
import { sameBytes } from "./blob-fixtures.js";
import { refused } from "./contract.js";
import {
  blobBytes,
  fixtureIndex,
  itemsOf,
  pushFixtureBlob,
  pushImage,
  type RegistryCapabilities,
  type RegistryCase,
  valueFrom,
} from "./registry-fixtures.js";

const nowhere = digestOf(Buffer.from("nowhere"));

export function deleteCases(contract: RegistryCase, { delete: deletes, push, catalog }: RegistryCapabilities): void {
  if (!deletes) {
    contract("deletes are refused, and nothing is gone", async ({ registry, seed, at }) => {
      const image = await pushImage(seed, at("app"), "1");
      for (const reference of ["1", image.digest]) await refused(registry.deleteManifest(at("app"), reference), "UNSUPPORTED", "DENIED");
      await refused(registry.deleteBlob(at("app"), image.config.digest), "UNSUPPORTED", "DENIED");
      equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, image.digest);
      equal((await registry.resolveBlob(at("app"), image.config.digest)).kind, "found");
    });
    return;
  }
  if (!push) return;
  contract("a deleted tag is gone, the manifest and its other tags stay", async ({ registry, at }) => {
    const image = await pushImage(registry, at("app"), "1");
    await registry.putManifest(at("app"), "2", { bytes: image.bytes });
    await registry.deleteManifest(at("app"), "1");
    equal((await registry.resolveManifest(at("app"), "1")).kind, "absent");
    for (const reference of ["2", image.digest])
      equal(valueFrom(await registry.resolveManifest(at("app"), reference)).digest, image.digest);
    deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, ["2"]);
  });
  contract("a deleted manifest takes every tag on it along, and no other", async ({ registry, at }) => {
    const image = await pushImage(registry, at("app"), "1");
    await registry.putManifest(at("app"), "2", { bytes: image.bytes });
    const other = await pushImage(registry, at("app"), "3");
    await registry.deleteManifest(at("app"), image.digest);
    for (const reference of ["1", "2", image.digest]) {
      equal((await registry.resolveManifest(at("app"), reference)).kind, "absent");
      equal((await registry.getManifest(at("app"), reference)).kind, "absent");
    }
    equal(valueFrom(await registry.resolveManifest(at("app"), "3")).digest, other.digest);
    deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, ["3"]);
  });
  contract("a tag that moved on is not deleted with the manifest that it left", async ({ registry, at }) => {
    const first = await pushImage(registry, at("app"), "latest");
    const second = await pushImage(registry, at("app"), "latest");
    await registry.deleteManifest(at("app"), first.digest);
    equal(valueFrom(await registry.resolveManifest(at("app"), "latest")).digest, second.digest);
  });
  contract("a manifest is deleted in its repository only", async ({ registry, at }) => {
    const image = await pushImage(registry, at("one"), "1");
    await pushImage(registry, at("two"), "1", image);
    await registry.deleteManifest(at("one"), image.digest);
    equal((await registry.resolveManifest(at("one"), "1")).kind, "absent");
    equal(valueFrom(await registry.resolveManifest(at("two"), "1")).digest, image.digest);
  });
  contract("a repository whose last manifest is deleted is gone, and can come again", async ({ registry, at }) => {
    const image = await pushImage(registry, at("app"), "1");
    await registry.deleteManifest(at("app"), image.digest);
    equal((await registry.listTags(at("app"), { limit: 10 })).kind, "absent");
    if (catalog) deepEqual(itemsOf(await registry.listRepositories({ limit: 10 })), []);
    await pushImage(registry, at("app"), "1", image);
    deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, ["1"]);
  });
  contract("a conditional delete happens only where the reference points to the digest", async ({ registry, at }) => {
    const [one, two] = [await pushImage(registry, at("app"), "1"), await pushImage(registry, at("app"), "2")];
    await refused(registry.deleteManifest(at("app"), "1", { ifMatch: two.digest }), "PRECONDITION_FAILED");
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, one.digest);
    await registry.deleteManifest(at("app"), "1", { ifMatch: one.digest });
    equal((await registry.resolveManifest(at("app"), "1")).kind, "absent");
  });
  contract("what is not there cannot be deleted: MANIFEST_UNKNOWN and BLOB_UNKNOWN", async ({ registry, at }) => {
    const image = await pushImage(registry, at("app"), "1");
    for (const [repository, reference] of [
      ["app", "2"],
      ["app", nowhere],
      ["other", "1"],
      ["other", image.digest],
    ] as const) {
      await refused(registry.deleteManifest(at(repository), reference), "MANIFEST_UNKNOWN", "NAME_UNKNOWN");
    }
    await refused(registry.deleteBlob(at("app"), nowhere), "BLOB_UNKNOWN", "NAME_UNKNOWN");
    await refused(registry.deleteBlob(at("other"), image.config.digest), "BLOB_UNKNOWN", "NAME_UNKNOWN");
    await registry.deleteManifest(at("app"), image.digest);
    await refused(registry.deleteManifest(at("app"), image.digest), "MANIFEST_UNKNOWN", "NAME_UNKNOWN");
  });
  contract(
    "a delete by digest asks about every tag that it would remove, and removes nothing unless all may go",
    async ({ registry, at }) => {
      const image = await pushImage(registry, at("app"), "1");
      await registry.putManifest(at("app"), "2", { bytes: image.bytes });
      await pushImage(registry, at("app"), "3");
      await refused(registry.deleteManifest(at("app"), image.digest, { permits: (tag) => tag !== "2" }), "DENIED", "UNSUPPORTED");
      for (const tag of ["1", "2"]) equal(valueFrom(await registry.resolveManifest(at("app"), tag)).digest, image.digest);
      const asked: string[] = [];
      const permits = async (tag: string) => asked.push(tag) > 0;
      const outcome = await registry.deleteManifest(at("app"), image.digest, { permits }).catch((error: unknown) => error);
      if (outcome === undefined) deepEqual(asked.sort(), ["1", "2"]);
      else await refused(Promise.reject(outcome), "UNSUPPORTED");
    },
  );
  contract("what a protected tag reaches is not deleted by digest", async ({ registry, at }) => {
    const child = await pushImage(registry, at("app"));
    const index = fixtureIndex([child]);
    await registry.putManifest(at("app"), "1", { bytes: index.bytes });
    const protects = (tag: string) => tag === "1";
    for (const digest of [index.digest, child.digest])
      await refused(registry.deleteManifest(at("app"), digest, { protects }), "DENIED", "UNSUPPORTED");
    await refused(registry.deleteBlob(at("app"), child.config.digest, { protects }), "DENIED", "UNSUPPORTED");
    equal(valueFrom(await registry.resolveManifest(at("app"), child.digest)).digest, child.digest);
    equal((await registry.resolveBlob(at("app"), child.config.digest)).kind, "found");
  });
  contract("malformed references cannot be deleted", async ({ registry, at }) => {
    const image = await pushImage(registry, at("app"), "1");
    await refused(registry.deleteManifest(at("app"), "-1"), "MANIFEST_INVALID");
    await refused(registry.deleteManifest(at("app"), "sha256:AB"), "DIGEST_INVALID");
    await refused(registry.deleteBlob(at("app"), "sha256:AB"), "DIGEST_INVALID");
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, image.digest);
  });
  contract("a deleted blob is gone from its repository, and from no other", async ({ registry, at }) => {
    const bytes = randomBytes(100_000);
    const { digest } = await pushFixtureBlob(registry, at("one"), bytes);
    await pushFixtureBlob(registry, at("two"), bytes);
    await registry.deleteBlob(at("one"), digest);
    equal((await registry.resolveBlob(at("one"), digest)).kind, "absent");
    equal((await registry.getBlob(at("one"), digest)).kind, "absent");
    sameBytes(await blobBytes(await registry.getBlob(at("two"), digest)), bytes);
    await refused(registry.deleteBlob(at("one"), digest), "BLOB_UNKNOWN");
    await pushFixtureBlob(registry, at("one"), bytes);
    sameBytes(await blobBytes(await registry.getBlob(at("one"), digest)), bytes);
  });
}
