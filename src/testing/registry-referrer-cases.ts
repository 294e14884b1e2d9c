import { deepEqual, equal } from "node:assert/strict";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, digestOf } from "../core/digest.js";
import { allPages } from "../core/page.js";
import {
  imageOf,
  itemsOf,
  pushImage,
  type RegistryCapabilities,
  type RegistryCase,
  type TestImage,
  valueFrom,
} from "./registry-fixtures.js";

const signature = "application/vnd.example.signature";
const report = "application/vnd.example.report";

function referrerTo(subject: Descriptor, artifactType: string, annotations?: Record<string, string>): TestImage {
  return imageOf({ layers: [10], subject, artifactType, ...(annotations && { annotations }) });
}

function subjectOf({ mediaType, digest, bytes }: TestImage): Descriptor {
  return { mediaType, digest, size: bytes.byteLength };
}

const digests = (items: readonly Descriptor[]): Digest[] => items.map(({ digest }) => digest);

export function referrerCases(contract: RegistryCase, { referrers, delete: deletes, push }: RegistryCapabilities): void {
  if (!referrers) {
    contract("referrers that are not had are an empty page or a refusal, and no throw", async ({ registry, seed, at }) => {
      const subject = subjectOf(await pushImage(seed, at("app"), "1"));
      await pushImage(seed, at("app"), undefined, referrerTo(subject, signature));
      const lookup = await registry.listReferrers(at("app"), subject.digest, { limit: 10 });
      if (lookup.kind === "found") deepEqual(lookup.value.items, []);
    });
    return;
  }
  contract("a referrer is listed with its type, size, artifact type and annotations", async ({ registry, seed, at }) => {
    const subject = subjectOf(await pushImage(seed, at("app"), "1"));
    const annotations = { "org.example.by": "ann", "org.example.note": 'quotes " and \u{1f40b}' };
    const image = await pushImage(seed, at("app"), undefined, referrerTo(subject, signature, annotations));
    const [listed, ...others] = valueFrom(await registry.listReferrers(at("app"), subject.digest, { limit: 10 })).items;
    equal(others.length, 0);
    deepEqual(
      { ...listed },
      { mediaType: image.mediaType, digest: image.digest, size: image.bytes.byteLength, artifactType: signature, annotations },
    );
  });
  contract("a manifest without an artifact type of its own has that of its config", async ({ registry, seed, at }) => {
    const subject = subjectOf(await pushImage(seed, at("app"), "1"));
    const image = await pushImage(seed, at("app"), undefined, imageOf({ layers: [10], subject }));
    const [listed] = valueFrom(await registry.listReferrers(at("app"), subject.digest, { limit: 10 })).items;
    equal(listed?.artifactType, image.config.mediaType);
  });
  contract("referrers come in order of their digests, in pages, filtered by artifact type", async ({ registry, seed, at }) => {
    const subject = subjectOf(await pushImage(seed, at("app"), "1"));
    const images: TestImage[] = [];
    for (let count = 0; count < 7; count++) {
      images.push(await pushImage(seed, at("app"), undefined, referrerTo(subject, count < 4 ? signature : report)));
    }
    for (const [artifactType, expected] of [
      [undefined, images],
      [signature, images.slice(0, 4)],
      [report, images.slice(4)],
      ["application/vnd.example.other", []],
    ] as const) {
      const sorted = expected.map(({ digest }) => digest).sort();
      const filter = artifactType === undefined ? {} : { artifactType };
      for (const limit of [1, 2, 3, 100]) {
        const listed: Descriptor[] = [];
        const list = (page: { after?: string; limit: number }) => registry.listReferrers(at("app"), subject.digest, { ...page, ...filter });
        for await (const item of allPages(async (page) => valueFrom(await list(page)), limit)) listed.push(item);
        deepEqual(digests(listed), sorted, `${artifactType} in pages of ${limit}`);
      }
    }
  });
  contract("a page of no referrers is empty, and the last", async ({ registry, seed, at }) => {
    const subject = subjectOf(await pushImage(seed, at("app"), "1"));
    for (let count = 0; count < 3; count++) await pushImage(seed, at("app"), undefined, referrerTo(subject, signature));
    const { items, next } = valueFrom(await registry.listReferrers(at("app"), subject.digest, { limit: 0 }));
    deepEqual({ items, next }, { items: [], next: undefined });
  });
  contract("a subject that nothing refers to has no referrers, whether it is there or not", async ({ registry, seed, at }) => {
    const image = await pushImage(seed, at("app"), "1");
    for (const digest of [image.digest, digestOf(Buffer.from("nowhere"))]) {
      deepEqual(itemsOf(await registry.listReferrers(at("app"), digest, { limit: 10 })), []);
      deepEqual(itemsOf(await registry.listReferrers(at("other"), digest, { limit: 10 })), []);
    }
  });
  contract("a referrer may come before its subject, and is listed in its own repository only", async ({ registry, seed, at }) => {
    const image = imageOf();
    const referrer = await pushImage(seed, at("app"), undefined, referrerTo(subjectOf(image), signature));
    await pushImage(seed, at("app"), "1", image);
    await pushImage(seed, at("other"), "1", image);
    deepEqual(digests(itemsOf(await registry.listReferrers(at("app"), image.digest, { limit: 10 }))), [referrer.digest]);
    deepEqual(itemsOf(await registry.listReferrers(at("other"), image.digest, { limit: 10 })), []);
  });
  if (deletes && push) {
    contract("a referrer that is deleted is listed no more", async ({ registry, at }) => {
      const subject = subjectOf(await pushImage(registry, at("app"), "1"));
      const [one, two] = [referrerTo(subject, signature), referrerTo(subject, report)];
      for (const image of [one, two]) await pushImage(registry, at("app"), undefined, image);
      const listed = async () => digests(itemsOf(await registry.listReferrers(at("app"), subject.digest, { limit: 10 })));
      deepEqual(await listed(), [one.digest, two.digest].sort());
      await registry.deleteManifest(at("app"), one.digest);
      deepEqual(await listed(), [two.digest]);
      await registry.deleteManifest(at("app"), two.digest);
      deepEqual(await listed(), []);
    });
  }
}
