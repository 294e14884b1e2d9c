import { deepEqual, equal } from "node:assert/strict";
import { digestOf } from "../core/digest.js";
import { manifestSizeLimit } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import { refused } from "./contract.js";
import {
  describe,
  fixtureIndex,
  fixtureNames,
  imageOf,
  itemsOf,
  pushBlobs,
  pushImage,
  type RegistryCapabilities,
  type RegistryCase,
  type RegistryOnTest,
  valueFrom,
} from "./registry-fixtures.js";

const nowhere = describe(Buffer.from("nowhere"), mediaTypes.ociManifest);

async function holdsNothing({ registry, at }: RegistryOnTest): Promise<void> {
  equal((await registry.listTags(at("app"), { limit: 10 })).kind, "absent");
}

/** Manifests: what is acknowledged is there, and what is refused leaves nothing. */
export function pushCases(contract: RegistryCase, { sparse, sha512, conditionalPuts }: RegistryCapabilities): void {
  contract("a manifest put by tag or by digest is answered with its descriptor, and is there", async ({ registry, at }) => {
    const image = imageOf();
    await pushBlobs(registry, at("app"), image);
    const expected = { mediaType: image.mediaType, digest: image.digest, size: image.bytes.byteLength };
    deepEqual(fixtureNames(await registry.putManifest(at("app"), image.digest, { bytes: image.bytes })), expected);
    deepEqual(fixtureNames(valueFrom(await registry.resolveManifest(at("app"), image.digest))), expected);
    deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, []);
    deepEqual(fixtureNames(await registry.putManifest(at("app"), "1", { bytes: image.bytes, mediaType: image.mediaType })), expected);
    deepEqual(fixtureNames(valueFrom(await registry.resolveManifest(at("app"), "1"))), expected);
  });
  contract("a put with further tags sets them all", async ({ registry, at }) => {
    const image = imageOf();
    await pushBlobs(registry, at("app"), image);
    await registry.putManifest(at("app"), image.digest, { bytes: image.bytes }, { tags: ["1", "1.0", "latest"] });
    deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, ["1", "1.0", "latest"]);
    for (const tag of ["1", "1.0", "latest"]) equal(valueFrom(await registry.resolveManifest(at("app"), tag)).digest, image.digest);
  });
  contract("the same put again changes nothing", async ({ registry, at }) => {
    const image = await pushImage(registry, at("app"), "1");
    for (const reference of ["1", image.digest]) await registry.putManifest(at("app"), reference, { bytes: image.bytes });
    deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, ["1"]);
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, image.digest);
  });
  contract("a tag moves, and what it stood on stays under its digest", async ({ registry, at }) => {
    const first = await pushImage(registry, at("app"), "latest");
    const second = await pushImage(registry, at("app"), "latest");
    equal(valueFrom(await registry.resolveManifest(at("app"), "latest")).digest, second.digest);
    equal(valueFrom(await registry.resolveManifest(at("app"), first.digest)).digest, first.digest);
  });
  contract("a put under a digest that is not the bytes' is DIGEST_INVALID and stores nothing", async (on) => {
    const image = imageOf();
    await pushBlobs(on.registry, on.at("app"), image);
    await refused(on.registry.putManifest(on.at("app"), nowhere.digest, { bytes: image.bytes }), "DIGEST_INVALID");
    await refused(on.registry.putManifest(on.at("app"), nowhere.digest, { bytes: image.bytes }, { tags: ["1"] }), "DIGEST_INVALID");
    equal((await on.registry.getManifest(on.at("app"), nowhere.digest)).kind, "absent");
    equal((await on.registry.getManifest(on.at("app"), image.digest)).kind, "absent");
    await holdsNothing(on);
  });
  contract("what is no manifest is MANIFEST_INVALID and stores nothing", async (on) => {
    const image = imageOf();
    await pushBlobs(on.registry, on.at("app"), image);
    for (const text of ["{", "[]", '"text"', "", '{"schemaVersion":2}']) {
      const content = { bytes: Buffer.from(text), mediaType: mediaTypes.ociManifest };
      await refused(on.registry.putManifest(on.at("app"), "1", content), "MANIFEST_INVALID");
    }
    const contradiction = { bytes: image.bytes, mediaType: mediaTypes.ociIndex };
    await refused(on.registry.putManifest(on.at("app"), "1", contradiction), "MANIFEST_INVALID");
    const padded = Buffer.concat([image.bytes, Buffer.alloc(manifestSizeLimit, " ")]);
    await refused(on.registry.putManifest(on.at("app"), "1", { bytes: padded }), "MANIFEST_INVALID");
    await holdsNothing(on);
  });
  contract("a malformed name, tag or digest is refused before anything is stored", async (on) => {
    const image = imageOf();
    await pushBlobs(on.registry, on.at("app"), image);
    const content = { bytes: image.bytes };
    for (const name of ["App", "a//b", "../etc", ""])
      await refused(on.registry.putManifest(name, "1", content), "NAME_INVALID", "NAME_UNKNOWN");
    for (const tag of ["-1", "a b", "x".repeat(200)])
      await refused(on.registry.putManifest(on.at("app"), tag, content), "MANIFEST_INVALID");
    await refused(on.registry.putManifest(on.at("app"), "sha256:AB", content), "DIGEST_INVALID");
    await refused(on.registry.putManifest(on.at("app"), image.digest, content, { tags: ["1", "-2"] }), "MANIFEST_INVALID");
    await holdsNothing(on);
  });
  contract("a layer that may not be distributed, and a subject, need not be there", async ({ registry, at }) => {
    const foreign = describe(Buffer.from("foreign"), "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    const image = imageOf();
    const { config, layers } = image;
    const body = { schemaVersion: 2, mediaType: image.mediaType, config, layers: [...layers, foreign], subject: nowhere };
    const bytes = Buffer.from(JSON.stringify(body));
    await pushBlobs(registry, at("app"), image);
    await registry.putManifest(at("app"), "1", { bytes });
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, digestOf(bytes));
  });
  contract("many puts of one tag at once all succeed, and the tag points to one of them", async ({ registry, at }) => {
    const images = Array.from({ length: 8 }, () => imageOf({ layers: [10] }));
    for (const image of images) await pushBlobs(registry, at("app"), image);
    await Promise.all(images.map(({ bytes }) => registry.putManifest(at("app"), "latest", { bytes })));
    const { digest } = valueFrom(await registry.resolveManifest(at("app"), "latest"));
    equal(images.filter((image) => image.digest === digest).length, 1);
    for (const image of images) equal((await registry.resolveManifest(at("app"), image.digest)).kind, "found");
  });
  referenceCases(contract, sparse);
  sha512Cases(contract, sha512);
  conditionCases(contract, conditionalPuts);
}

function referenceCases(contract: RegistryCase, sparse: boolean): void {
  if (sparse) {
    contract("a manifest is taken without what it refers to", async ({ registry, at }) => {
      const image = imageOf();
      await registry.putManifest(at("app"), "1", { bytes: image.bytes });
      await registry.putManifest(at("app"), "all", { bytes: fixtureIndex([imageOf()]).bytes });
      deepEqual(valueFrom(await registry.listTags(at("app"), { limit: 10 })).items, ["1", "all"]);
    });
    return;
  }
  contract("a manifest whose config or layer is missing is MANIFEST_BLOB_UNKNOWN and stores nothing", async (on) => {
    const image = imageOf();
    for (const missing of [image.config, ...image.layers]) {
      const repository = on.at(`app/${missing.digest.slice(7, 17)}`);
      const blobs = new Map([...image.blobs].filter(([digest]) => digest !== missing.digest));
      await pushBlobs(on.registry, repository, { ...image, blobs });
      for (const reference of ["1", image.digest]) {
        await refused(on.registry.putManifest(repository, reference, { bytes: image.bytes }), "MANIFEST_BLOB_UNKNOWN");
        equal((await on.registry.getManifest(repository, reference)).kind, "absent");
      }
    }
  });
  contract("a layer of another repository does not count", async (on) => {
    const image = await pushImage(on.registry, on.at("other"), "1");
    await refused(on.registry.putManifest(on.at("app"), "1", { bytes: image.bytes }), "MANIFEST_BLOB_UNKNOWN");
    await holdsNothing(on);
  });
  contract("an index needs its children", async (on) => {
    const image = imageOf();
    const index = fixtureIndex([image]);
    await refused(on.registry.putManifest(on.at("app"), "all", { bytes: index.bytes }), "MANIFEST_BLOB_UNKNOWN");
    await holdsNothing(on);
    await pushImage(on.registry, on.at("app"), undefined, image);
    await on.registry.putManifest(on.at("app"), "all", { bytes: index.bytes });
    equal(valueFrom(await on.registry.resolveManifest(on.at("app"), "all")).digest, index.digest);
  });
}

function sha512Cases(contract: RegistryCase, sha512: boolean): void {
  contract(sha512 ? "what was put by sha512 is named so" : "sha512 is refused", async ({ registry, at }) => {
    const image = imageOf();
    const digest = digestOf(image.bytes, "sha512");
    await pushBlobs(registry, at("app"), image);
    const put = registry.putManifest(at("app"), digest, { bytes: image.bytes });
    if (!sha512) return refused(put, "DIGEST_INVALID", "UNSUPPORTED");
    equal((await put).digest, digest);
    equal(valueFrom(await registry.resolveManifest(at("app"), digest)).digest, digest);
    equal(valueFrom(await registry.getManifest(at("app"), digest)).descriptor.digest, digest);
    const other = digestOf(Buffer.from("other"), "sha512");
    await refused(registry.putManifest(at("app"), other, { bytes: image.bytes }), "DIGEST_INVALID");
  });
}

function conditionCases(contract: RegistryCase, conditional: boolean): void {
  if (!conditional) {
    contract("a conditional put is refused, not made without its condition", async (on) => {
      const image = imageOf();
      await pushBlobs(on.registry, on.at("app"), image);
      const put = on.registry.putManifest(on.at("app"), "1", { bytes: image.bytes }, { ifMatch: nowhere.digest });
      await refused(put, "UNSUPPORTED", "PRECONDITION_FAILED");
      await holdsNothing(on);
    });
    return;
  }
  contract("ifMatch holds only where the reference points to that digest", async ({ registry, at }) => {
    const [one, two] = [await pushImage(registry, at("app"), "1"), imageOf()];
    await pushBlobs(registry, at("app"), two);
    const put = (tag: string, ifMatch: string) => registry.putManifest(at("app"), tag, { bytes: two.bytes }, { ifMatch });
    await refused(put("1", two.digest), "PRECONDITION_FAILED");
    await refused(put("none", one.digest), "PRECONDITION_FAILED");
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, one.digest);
    deepEqual(itemsOf(await registry.listTags(at("app"), { limit: 10 })), ["1"]);
    await put("1", one.digest);
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, two.digest);
  });
  contract("ifNoneMatch holds only where the reference points to nothing", async ({ registry, at }) => {
    const [one, two] = [await pushImage(registry, at("app"), "1"), imageOf()];
    await pushBlobs(registry, at("app"), two);
    const put = (reference: string) => registry.putManifest(at("app"), reference, { bytes: two.bytes }, { ifNoneMatch: "*" });
    await refused(put("1"), "PRECONDITION_FAILED");
    equal(valueFrom(await registry.resolveManifest(at("app"), "1")).digest, one.digest);
    await put("2");
    await refused(put(two.digest), "PRECONDITION_FAILED");
  });
  contract("of many puts under one condition exactly one succeeds", async ({ registry, at }) => {
    const images = Array.from({ length: 6 }, () => imageOf({ layers: [10] }));
    for (const image of images) await pushBlobs(registry, at("app"), image);
    const puts = images.map(({ bytes }) => registry.putManifest(at("app"), "1", { bytes }, { ifNoneMatch: "*" }));
    const outcomes = await Promise.allSettled(puts);
    equal(outcomes.filter(({ status }) => status === "fulfilled").length, 1);
    for (const put of puts) await put.catch((error: unknown) => refused(Promise.reject(error), "PRECONDITION_FAILED"));
  });
}
