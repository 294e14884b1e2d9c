import { deepEqual, equal, ok } from "node:assert/strict";
import { digestOf } from "../core/digest.js";
import { isRegistryError } from "../core/errors.js";
import type { Lookup } from "../core/lookup.js";
import { mediaTypes } from "../core/media-types.js";
import { sameBytes } from "./blob-fixtures.js";
import {
  fixtureIndex,
  fixtureNames,
  imageOf,
  pushBlobs,
  pushImage,
  type RegistryCase,
  servedValue,
  valueFrom,
} from "./registry-fixtures.js";

const nowhere = digestOf(Buffer.from("nowhere"));

/** Refused with the code, or absent: never an answer, and nothing else. */
async function refusedOrAbsent(work: Promise<Lookup<unknown>>, code: string): Promise<void> {
  const outcome = await work.then(
    (lookup) => ("error" in lookup && lookup.error ? lookup.error.code : lookup.kind),
    (error: unknown) => {
      if (!isRegistryError(error)) throw error;
      return error.code;
    },
  );
  ok(outcome === "absent" || outcome === code, `${code} or absent was expected, it was ${outcome}`);
}

/** What is pulled is what was pushed, and what is not there is absent. */
export function manifestCases(contract: RegistryCase): void {
  contract("a manifest comes back byte by byte, by tag and by digest", async ({ registry, seed, at }) => {
    const image = await pushImage(seed, at("team/app"), "1.0");
    for (const reference of ["1.0", image.digest]) {
      const { descriptor, bytes } = servedValue(await registry.getManifest(at("team/app"), reference));
      sameBytes(bytes, image.bytes);
      deepEqual(fixtureNames(descriptor), { mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.bytes.byteLength });
    }
  });
  contract("what a manifest resolves to is what it is got as", async ({ registry, seed, at }) => {
    const image = await pushImage(seed, at("app"), "1");
    for (const reference of ["1", image.digest]) {
      const resolved = servedValue(await registry.resolveManifest(at("app"), reference));
      deepEqual(fixtureNames(resolved), fixtureNames(valueFrom(await registry.getManifest(at("app"), reference)).descriptor));
    }
  });
  contract("an index and Docker's manifests keep their types", async ({ registry, seed, at }) => {
    const image = await pushImage(seed, at("app"), "1", imageOf({ mediaType: mediaTypes.dockerManifest }));
    for (const mediaType of [mediaTypes.ociIndex, mediaTypes.dockerList]) {
      const index = fixtureIndex([image], mediaType);
      await seed.putManifest(at("app"), "all", { bytes: index.bytes, mediaType });
      const { descriptor, bytes } = valueFrom(await registry.getManifest(at("app"), index.digest));
      equal(descriptor.mediaType, mediaType);
      sameBytes(bytes, index.bytes);
    }
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).mediaType, mediaTypes.dockerManifest);
  });
  contract("a manifest that does not name its type is known by its body", async ({ registry, seed, at }) => {
    const image = imageOf({ mediaType: undefined });
    await pushBlobs(seed, at("app"), image);
    await seed.putManifest(at("app"), "1", { bytes: image.bytes });
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).mediaType, mediaTypes.ociManifest);
  });
  contract("an unknown repository, tag or digest is absent, and no throw", async ({ registry, seed, at }) => {
    await pushImage(seed, at("app"), "1");
    for (const [repository, reference] of [
      ["app", "2"],
      ["app", nowhere],
      ["other", "1"],
      ["app/1", "1"],
    ] as const) {
      equal((await registry.resolveManifest(at(repository), reference)).kind, "absent");
      equal((await registry.getManifest(at(repository), reference)).kind, "absent");
    }
  });
  contract("a manifest is seen only in its repository", async ({ registry, seed, at }) => {
    const image = await pushImage(seed, at("app"), "1");
    await pushImage(seed, at("app/other"), "1");
    equal((await registry.getManifest(at("app/other"), image.digest)).kind, "absent");
    ok(valueFrom(await registry.resolveManifest(at("app/other"), "1")).digest !== image.digest);
  });
  contract("a malformed name, tag or digest is refused or absent in every read", async ({ registry, seed, at }) => {
    await pushImage(seed, at("app"), "1");
    const page = { limit: 10 };
    for (const name of ["App", "a//b", "../app", "", "a".repeat(300)]) {
      await refusedOrAbsent(registry.resolveManifest(name, "1"), "NAME_INVALID");
      await refusedOrAbsent(registry.getManifest(name, "1"), "NAME_INVALID");
      await refusedOrAbsent(registry.resolveBlob(name, nowhere), "NAME_INVALID");
      await refusedOrAbsent(registry.getBlob(name, nowhere), "NAME_INVALID");
      await refusedOrAbsent(registry.listTags(name, page), "NAME_INVALID");
    }
    for (const tag of ["-1", "a b", "", "a/b", "x".repeat(200)]) {
      await refusedOrAbsent(registry.resolveManifest(at("app"), tag), "MANIFEST_INVALID");
      await refusedOrAbsent(registry.getManifest(at("app"), tag), "MANIFEST_INVALID");
    }
    for (const digest of ["sha256:AB", "md5:d41d8cd98f00b204e9800998ecf8427e", `sha256:${"A".repeat(64)}`]) {
      await refusedOrAbsent(registry.resolveManifest(at("app"), digest), "DIGEST_INVALID");
      await refusedOrAbsent(registry.getManifest(at("app"), digest), "DIGEST_INVALID");
      await refusedOrAbsent(registry.resolveBlob(at("app"), digest), "DIGEST_INVALID");
      await refusedOrAbsent(registry.getBlob(at("app"), digest), "DIGEST_INVALID");
    }
  });
}
