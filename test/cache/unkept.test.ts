import { orThrow, RegistryError } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { caching, minutes, warmed } from "./support.js";

describe("what cannot be kept is passed on", () => {
  test("a manifest of an unknown type", async () => {
    const { hub, source, sink, storage } = caching();
    const bytes = Buffer.from('{"schemaVersion":1,"name":"old"}');
    const descriptor = {
      mediaType: "application/vnd.docker.distribution.manifest.v1+json",
      digest: digestOf(bytes),
      size: bytes.byteLength,
    };
    const served = { member: ["origin"] };
    source.resolveManifest = async () => ({ kind: "found", value: descriptor, served });
    source.getManifest = async () => ({ kind: "found", value: { descriptor, bytes }, served });
    expect(await hub.getManifest("app", "1")).toMatchObject({ kind: "found", value: { bytes }, served: { cache: "miss" } });
    expect(sink.of("fault")).toMatchObject([{ message: expect.stringContaining("could not be kept") }]);
    expect(await storage.metadata.page({ kind: "manifest", under: ["hub"], limit: 1 })).toEqual([]);
  });

  test("a manifest for which the disk is full; the tag's age is known all the same", async () => {
    const { hub, origin, storage, sink, clock, image } = await warmed();
    const { commit } = storage.metadata;
    storage.metadata.commit = async () => {
      throw new RegistryError("INSUFFICIENT_STORAGE", "the disk is full");
    };
    await clock.advance(minutes(6));
    expect(await hub.getManifest("app", "1")).toMatchObject({
      value: { descriptor: { digest: image.digest } },
      served: { cache: "hit", age: 0 },
    });
    expect(await hub.getManifest("app", "1")).toMatchObject({ served: { cache: "hit", age: 0 } });
    const next = await pushImage(origin, "app", "2", makeImage([70]));
    expect(orThrow(await hub.getManifest("app", "2")).descriptor.digest).toBe(next.digest);
    expect(sink.of("fault").map(({ message }) => message)).toEqual([
      "the confirmation of app:1 could not be kept: the disk is full",
      `${next.digest} of app could not be kept: the disk is full`,
    ]);
    storage.metadata.commit = commit;
  });

  test("but not other bytes than the digest says", async () => {
    const { hub, origin, source, image, clock } = await warmed();
    const next = await pushImage(origin, "app", "1", makeImage([80]));
    source.getManifest = async (repository) => origin.getManifest(repository, image.digest);
    expect(await hub.getManifest("app", next.digest)).toMatchObject({
      kind: "unavailable",
      error: { message: expect.stringContaining("other bytes") },
    });
    await clock.advance(minutes(6));
    expect(await hub.getManifest("app", "1")).toMatchObject({
      value: { descriptor: { digest: image.digest } },
      served: { cache: "stale" },
    });
  });
});
