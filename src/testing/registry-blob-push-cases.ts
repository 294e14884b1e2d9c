import { equal, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { digestOf } from "../core/digest.js";
import { chunked, failingAfter, sameBytes } from "./blob-fixtures.js";
import { refused } from "./contract.js";
import { blobBytes, pushFixtureBlob, type RegistryCapabilities, type RegistryCase, untouched, valueFrom } from "./registry-fixtures.js";

const nowhere = digestOf(Buffer.from("nowhere"));

export function blobPushCases(contract: RegistryCase, { sha512, mount }: RegistryCapabilities): void {
  contract("a blob put is answered with its descriptor, with its size given or not", async ({ registry, at }) => {
    const bytes = randomBytes(100_000);
    const digest = digestOf(bytes);
    for (const [repository, size] of [
      ["one", { size: bytes.byteLength }],
      ["two", {}],
    ] as const) {
      const descriptor = await registry.putBlob(at(repository), { digest, ...size }, chunked(bytes, 7_001));
      equal(descriptor.digest, digest);
      equal(descriptor.size, bytes.byteLength);
      sameBytes(await blobBytes(await registry.getBlob(at(repository), digest)), bytes);
    }
  });
  contract("the same blob again, and many times at once, is one blob", async ({ registry, at }) => {
    const bytes = randomBytes(100_000);
    const { digest } = await pushFixtureBlob(registry, at("app"), bytes);
    await Promise.all(Array.from({ length: 6 }, () => pushFixtureBlob(registry, at("app"), bytes)));
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
  });
  contract("a blob of other bytes or another size is refused and stores nothing", async ({ registry, at }) => {
    const [bytes, others] = [randomBytes(100_000), randomBytes(100_000)];
    const digest = digestOf(bytes);
    await refused(registry.putBlob(at("app"), { digest }, chunked(others, 10_000)), "DIGEST_INVALID");
    await refused(registry.putBlob(at("app"), { digest, size: 100_000 }, chunked(others, 10_000)), "DIGEST_INVALID");
    await refused(registry.putBlob(at("app"), { digest, size: 99_999 }, chunked(bytes, 10_000)), "SIZE_INVALID");
    await refused(registry.putBlob(at("app"), { digest, size: 100_001 }, chunked(bytes, 10_000)), "SIZE_INVALID");
    equal((await registry.resolveBlob(at("app"), digest)).kind, "absent");
    equal((await registry.resolveBlob(at("app"), digestOf(others))).kind, "absent");
    sameBytes(await blobBytes(await pushed()), bytes);
    async function pushed() {
      await pushFixtureBlob(registry, at("app"), bytes);
      return registry.getBlob(at("app"), digest);
    }
  });
  contract("a source that fails midway is thrown on and stores nothing", async ({ registry, at }) => {
    const bytes = randomBytes(100_000);
    const source = failingAfter(bytes.subarray(0, 40_000), 10_000, new Error("the line broke"));
    await rejects(registry.putBlob(at("app"), { digest: digestOf(bytes), size: bytes.byteLength }, source), /the line broke/);
    equal((await registry.resolveBlob(at("app"), digestOf(bytes))).kind, "absent");
  });
  contract("a malformed name or digest is refused before the source is read", async ({ registry, at }) => {
    for (const name of ["App", "a//b", "../etc", ""]) {
      await refused(registry.putBlob(name, { digest: nowhere }, untouched()), "NAME_INVALID", "NAME_UNKNOWN");
    }
    for (const digest of ["sha256:AB", "md5:d41d8cd98f00b204e9800998ecf8427e", ""]) {
      await refused(registry.putBlob(at("app"), { digest }, untouched()), "DIGEST_INVALID");
    }
  });
  if (sha512) {
    contract("a blob put by sha512 is named so", async ({ registry, at }) => {
      const bytes = randomBytes(100_000);
      const digest = digestOf(bytes, "sha512");
      equal((await registry.putBlob(at("app"), { digest }, chunked(bytes, 10_000))).digest, digest);
      equal(valueFrom(await registry.resolveBlob(at("app"), digest)).size, bytes.byteLength);
      sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
      await refused(registry.putBlob(at("app"), { digest }, chunked(randomBytes(10), 10)), "DIGEST_INVALID");
    });
  }
  if (mount) mountCases(contract);
  else {
    contract("a mount that cannot be made is answered by undefined, for the client to upload", async ({ registry, at }) => {
      const { digest } = await pushFixtureBlob(registry, at("one"), randomBytes(100));
      equal(await registry.mountBlob(at("two"), digest, { registry, repository: at("one") }), undefined);
      equal((await registry.resolveBlob(at("two"), digest)).kind, "absent");
    });
  }
}

function mountCases(contract: RegistryCase): void {
  contract("a mounted blob is seen without being sent, in the one repository", async ({ registry, at }) => {
    const bytes = randomBytes(100_000);
    const { digest } = await pushFixtureBlob(registry, at("one"), bytes);
    const mounted = await registry.mountBlob(at("two"), digest, { registry, repository: at("one") });
    equal(mounted?.digest, digest);
    equal(mounted?.size, bytes.byteLength);
    sameBytes(await blobBytes(await registry.getBlob(at("two"), digest)), bytes);
    equal((await registry.resolveBlob(at("three"), digest)).kind, "absent");
  });
  contract("a mount without source takes the blob from where the registry has it", async ({ registry, at }) => {
    const { digest } = await pushFixtureBlob(registry, at("one"), randomBytes(100));
    equal((await registry.mountBlob(at("two"), digest))?.digest, digest);
    equal(valueFrom(await registry.resolveBlob(at("two"), digest)).size, 100);
  });
  contract("a mount without source takes nothing that the caller may not read, and asks in its own names", async ({ registry, at }) => {
    const { digest } = await pushFixtureBlob(registry, at("one"), randomBytes(100));
    const asked: string[] = [];
    const permits = (repository: string) => asked.push(repository) < 0;
    equal(await registry.mountBlob(at("two"), digest, undefined, { permits }), undefined);
    equal((await registry.resolveBlob(at("two"), digest)).kind, "absent");
    for (const repository of asked) equal(repository, at("one"));
  });
  contract("a mount of what is not there is undefined, and makes nothing visible", async ({ registry, at }) => {
    const { digest } = await pushFixtureBlob(registry, at("one"), randomBytes(100));
    equal(await registry.mountBlob(at("two"), nowhere, { registry, repository: at("one") }), undefined);
    equal(await registry.mountBlob(at("two"), nowhere), undefined);
    equal(await registry.mountBlob(at("two"), digest, { registry, repository: at("none") }), undefined);
    equal((await registry.resolveBlob(at("two"), digest)).kind, "absent");
    await refused(registry.mountBlob("Two", digest, { registry, repository: at("one") }), "NAME_INVALID", "NAME_UNKNOWN");
    await refused(registry.mountBlob(at("two"), "sha256:AB", { registry, repository: at("one") }), "DIGEST_INVALID");
  });
}
