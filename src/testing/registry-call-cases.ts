import { deepEqual, equal, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { digestOf } from "../core/digest.js";
import type { Registry } from "../core/registry.js";
import { chunked, sameBytes } from "./blob-fixtures.js";
import { refused } from "./contract.js";
import {
  blobBytes,
  imageOf,
  pushBlobs,
  pushFixtureBlob,
  pushImage,
  type RegistryAlias,
  type RegistryCapabilities,
  type RegistryCase,
  untouched,
  valueFrom,
} from "./registry-fixtures.js";

const reason = new Error("the client left");

/** Calls and lives: signals, many at once, ready and close, names. */
export function callCases(contract: RegistryCase, capabilities: RegistryCapabilities, alias: RegistryAlias | undefined): void {
  contract("ready can be called again", async ({ registry }) => {
    await registry.ready();
    await Promise.all([registry.ready(), registry.ready()]);
  });
  contract("close can be called at the same time as close", async ({ registry, seed, at }) => {
    await pushImage(seed, at("app"), "1");
    await Promise.all([registry.close(), registry.close({ deadline: "1s" })]);
  });
  contract("a host that is not known as a namespace has no registry", async ({ registry }) => {
    for (const host of ["unknown.example", "127.0.0.1:1", "", "__proto__", "constructor"]) equal(registry.forNamespace(host), undefined);
  });
  contract("many pulls at once are all right", async ({ registry, seed, at }) => {
    const images = await Promise.all(
      Array.from({ length: 8 }, (_, index) => pushImage(seed, at(`app/${index}`), "1", imageOf({ layers: [150_000] }))),
    );
    const pulls = Array.from({ length: 32 }, async (_, turn) => {
      const index = turn % images.length;
      const { bytes } = valueFrom(await registry.getManifest(at(`app/${index}`), "1"));
      sameBytes(bytes, images[index]?.bytes);
      for (const [digest, content] of images[index]?.blobs ?? []) {
        sameBytes(await blobBytes(await registry.getBlob(at(`app/${index}`), digest)), content);
      }
    });
    await Promise.all(pulls);
  });
  if (capabilities.live) {
    contract("what changes behind it is seen at once", async ({ registry, seed, at }) => {
      const first = await pushImage(seed, at("app"), "latest");
      equal(valueFrom(await registry.resolveManifest(at("app"), "latest")).digest, first.digest);
      const second = await pushImage(seed, at("app"), "latest");
      equal(valueFrom(await registry.resolveManifest(at("app"), "latest")).digest, second.digest);
      equal((await registry.resolveManifest(at("app"), "new")).kind, "absent");
      await pushImage(seed, at("app"), "new", second);
      deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, ["latest", "new"]);
      equal(valueFrom(await registry.getManifest(at("app"), "new")).descriptor.digest, second.digest);
    });
  }
  signalCases(contract, capabilities);
  nameCases(contract, alias);
}

function signalCases(contract: RegistryCase, { push, uploads, mount, catalog, delete: deletes }: RegistryCapabilities): void {
  const signal = AbortSignal.abort(reason);
  const stops = (work: Promise<unknown>) => rejects(work, (error) => error === reason);

  const readOrStopped = async (work: Promise<unknown>) => {
    const [outcome] = await Promise.allSettled([work]);
    if (outcome?.status === "rejected") equal(outcome.reason, reason);
  };

  contract("a read whose signal is aborted already rejects with its reason or was done", async ({ registry, seed, at }) => {
    const image = await pushImage(seed, at("app"), "1");
    await readOrStopped(registry.resolveManifest(at("app"), "1", { signal }));
    await readOrStopped(registry.getManifest(at("app"), image.digest, { signal }));
    await readOrStopped(registry.resolveBlob(at("app"), image.config.digest, { signal }));
    await readOrStopped(registry.getBlob(at("app"), image.config.digest, { signal }));
    await readOrStopped(registry.listTags(at("app"), { limit: 10 }, { signal }));
    await readOrStopped(registry.listReferrers(at("app"), image.digest, { limit: 10 }, { signal }));
    if (catalog) await readOrStopped(registry.listRepositories({ limit: 10 }, { signal }));
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, image.digest);
  });
  contract(
    "a read whose signal aborts midway rejects with its reason or was done, and others are not harmed",
    async ({ registry, seed, at }) => {
      const image = await pushImage(seed, at("app"), "1", imageOf({ layers: [300_000] }));
      const [layer] = image.layers;
      const digest = layer?.digest ?? "";
      for (let count = 0; count < 4; count++) {
        const controller = new AbortController();
        const o = { signal: controller.signal };
        const leaving = [
          registry.getManifest(at("app"), "1", o),
          registry.resolveBlob(at("app"), digest, o),
          registry.getBlob(at("app"), digest, o),
        ];
        const staying = registry.getBlob(at("app"), digest).then(blobBytes);
        if (count % 2 === 1) await new Promise((resolve) => setImmediate(resolve));
        controller.abort(reason);
        for (const outcome of await Promise.allSettled<unknown>(leaving)) if (outcome.status === "rejected") equal(outcome.reason, reason);
        sameBytes(await staying, image.blobs.get(layer?.digest ?? digestOf(new Uint8Array())));
      }
    },
  );
  if (push) {
    contract("a write whose signal is aborted already rejects with its reason and changes nothing", async ({ registry, at }) => {
      const image = imageOf();
      await pushBlobs(registry, at("app"), image);
      await stops(registry.putManifest(at("app"), "1", { bytes: image.bytes }, { signal }));
      await stops(registry.putBlob(at("app"), { digest: digestOf(Buffer.from("x")) }, untouched(), { signal }));
      if (uploads) await stops(registry.startUpload(at("app"), { signal }));
      if (mount) await stops(registry.mountBlob(at("other"), image.config.digest, { registry, repository: at("app") }, { signal }));
      equal((await registry.resolveBlob(at("other"), image.config.digest)).kind, "absent");
      equal((await registry.getManifest(at("app"), "1")).kind, "absent");
      if (!deletes) return;
      await registry.putManifest(at("app"), "1", { bytes: image.bytes });
      await stops(registry.deleteManifest(at("app"), "1", { signal }));
      await stops(registry.deleteBlob(at("app"), image.config.digest, { signal }));
      equal((await registry.resolveManifest(at("app"), "1")).kind, "found");
      equal((await registry.resolveBlob(at("app"), image.config.digest)).kind, "found");
    });
    contract("a push whose signal aborts midway rejects with its reason and stores nothing", async ({ registry, at }) => {
      const bytes = randomBytes(200_000);
      const controller = new AbortController();
      async function* source() {
        yield* chunked(bytes.subarray(0, 100_000), 10_000);
        controller.abort(reason);
        await new Promise((resolve) => setImmediate(resolve));
        yield* chunked(bytes.subarray(100_000), 10_000);
      }
      await stops(
        registry.putBlob(at("app"), { digest: digestOf(bytes), size: bytes.byteLength }, source(), { signal: controller.signal }),
      );
      equal((await registry.resolveBlob(at("app"), digestOf(bytes))).kind, "absent");
      await pushFixtureBlob(registry, at("app"), bytes);
    });
    contract("many pushes at once, of shared layers too, are all kept", async ({ registry, at }) => {
      const shared = imageOf({ layers: [100_000] });
      const images = Array.from({ length: 12 }, (_, index) => (index % 3 === 0 ? shared : imageOf({ layers: [1000, 20_000] })));
      await Promise.all(images.map((image, index) => pushImage(registry, at(`team/${index % 4}`), `v${index}`, image)));
      for (const [index, image] of images.entries()) {
        const repository = at(`team/${index % 4}`);
        equal(valueFrom(await registry.resolveManifest(repository, `v${index}`)).digest, image.digest);
        for (const [digest, bytes] of image.blobs) sameBytes(await blobBytes(await registry.getBlob(repository, digest)), bytes);
      }
    });
  } else refusalCases(contract);
}

/** Where nothing can be pushed. */
function refusalCases(contract: RegistryCase): void {
  contract("pushes are refused before their source is read, and nothing is stored", async ({ registry, seed, at }) => {
    const image = imageOf();
    await pushBlobs(seed, at("app"), image);
    const refusals = ["UNSUPPORTED", "DENIED"] as const;
    await refused(registry.putManifest(at("app"), "1", { bytes: image.bytes }), ...refusals);
    await refused(registry.putBlob(at("app"), { digest: image.config.digest }, untouched()), ...refusals);
    await refused(registry.startUpload(at("app")), ...refusals);
    await refused(registry.resumeUpload(at("app"), "0".repeat(32)), ...refusals, "BLOB_UPLOAD_UNKNOWN");
    await refused(registry.mountBlob(at("app"), image.config.digest, { registry, repository: at("app") }), ...refusals);
    equal((await registry.getManifest(at("app"), "1")).kind, "absent");
    equal((await seed.getManifest(at("app"), "1")).kind, "absent");
  });
}

function nameCases(contract: RegistryCase, alias: RegistryAlias | undefined): void {
  const canonicalIn = (registry: Registry, name: string) => registry.canonicalName?.(name) ?? name;

  contract("the canonical name of a canonical name is itself", async ({ registry, at }) => {
    for (const name of ["app", "team/app", "a/b/c"]) {
      const canonical = canonicalIn(registry, at(name));
      equal(canonicalIn(registry, canonical), canonical);
      if (!alias) equal(canonical, at(name));
    }
  });
  contract("an identity stays what it is", async ({ registry }) => {
    const { identity } = registry;
    await registry.ready();
    equal(registry.identity, identity);
  });
  if (!alias) return;
  contract("two names of one repository show the same", async ({ registry, seed }) => {
    const image = await pushImage(seed, alias.canonical, "1");
    equal(canonicalIn(registry, alias.name), alias.canonical);
    for (const name of [alias.name, alias.canonical]) {
      equal(valueFrom(await registry.resolveManifest(name, "1")).digest, image.digest);
      deepEqual(valueFrom(await registry.listTags(name, { limit: 10 })).items, ["1"]);
      for (const [digest, bytes] of image.blobs) sameBytes(await blobBytes(await registry.getBlob(name, digest)), bytes);
    }
  });
}
