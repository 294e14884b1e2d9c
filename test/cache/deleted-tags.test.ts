import { type CachedOptions, orThrow } from "oci-manifold";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { bytesOf } from "../fixtures/read.js";
import { caching, minutes, settled, whole } from "./support.js";

/** A cache whose one tag its source has no more, at the end of the tag's time to live. */
async function deleted(options: Partial<CachedOptions> = {}) {
  const all = caching(options);
  const image = await pushImage(all.origin, "app", "old", makeImage([100_000]));
  orThrow(await all.hub.getManifest("app", "old"));
  await whole(all.hub, "app", "old");
  await all.origin.deleteManifest("app", "old");
  await all.clock.advance(minutes(5));
  all.calls.length = 0;
  return { ...all, image };
}

describe("forget", () => {
  test("takes the tag away and says so once; its digest still gives the whole image", async () => {
    const { hub, sink, image, switchOff, calls } = await deleted();
    expect(await hub.getManifest("app", "old")).toEqual({ kind: "absent" });
    expect(await hub.resolveManifest("app", "old")).toEqual({ kind: "absent" });
    expect(calls).toEqual(["resolveManifest app old"]);
    expect(sink.of("stale")).toMatchObject([{ why: "gone", repository: "app", tag: "old", age: minutes(5) }]);
    switchOff();
    expect(Buffer.from(orThrow(await hub.getManifest("app", image.digest)).bytes)).toEqual(Buffer.from(image.manifest));
    for (const [digest, bytes] of image.blobs) expect((await bytesOf(await hub.getBlob("app", digest))).equals(bytes)).toBe(true);
    expect((await hub.completeness("app", image.digest)).complete).toBe(true);
    await expect(hub.completeness("app", "old")).rejects.toMatchObject({ code: "MANIFEST_UNKNOWN" });
  });

  test("leaves nothing that an outage could bring back", async () => {
    const { hub, switchOff, clock, restart } = await deleted();
    await hub.getManifest("app", "old");
    switchOff();
    await clock.advance(minutes(1));
    expect((await hub.getManifest("app", "old")).kind).toBe("unavailable");
    expect((await restart().getManifest("app", "old")).kind).toBe("unavailable");
  });

  test("leaves the tag alone while its source cannot be asked", async () => {
    const { hub, switchOff } = await deleted();
    switchOff();
    expect(await hub.getManifest("app", "old")).toMatchObject({ kind: "found", served: { cache: "stale" } });
  });

  test("is undone by the next push", async () => {
    const { hub, origin, clock, image } = await deleted();
    await hub.getManifest("app", "old");
    await origin.putManifest("app", "old", { bytes: image.manifest });
    await clock.advance(5001);
    expect(await hub.getManifest("app", "old")).toMatchObject({ kind: "found" });
  });

  test("also by a question in the background", async () => {
    const { hub, sink } = await deleted({ staleWhileRevalidate: "1h" });
    expect((await hub.getManifest("app", "old")).kind).toBe("found");
    await settled();
    expect(sink.of("stale").map(({ why }) => why)).toEqual(["stale", "gone"]);
    expect((await hub.getManifest("app", "old")).kind).toBe("absent");
  });

  test("only what the source had: a tag that moved meanwhile, by another process, stays", async () => {
    const { hub, answers, restart, origin, image } = await deleted();
    const next = makeImage([20]);
    answers(async () => {
      answers(() => undefined);
      await pushImage(origin, "app", "old", next);
      await restart().refresh("app", "old");
      return { kind: "absent" };
    });
    expect((await hub.getManifest("app", "old")).kind).toBe("absent");
    expect(image.digest).not.toBe(next.digest);
    expect(orThrow(await restart().getManifest("app", "old")).descriptor.digest).toBe(next.digest);
  });
});

describe("keep", () => {
  test("goes on serving the tag, each time with a warning, and asks once a tagTtl", async () => {
    const { hub, sink, calls, clock, image, restart } = await deleted({ deletedTags: "keep" });
    const kept = (age: number, ttl: number) => ({
      kind: "found",
      value: { descriptor: { digest: image.digest } },
      served: { cache: "stale", age, ttl, warnings: ["the source has this tag no more; it is kept here"] },
    });
    expect(await hub.getManifest("app", "old")).toMatchObject(kept(minutes(5), minutes(5)));
    await clock.advance(minutes(1));
    expect(await hub.getManifest("app", "old")).toMatchObject(kept(minutes(6), minutes(4)));
    expect(await restart({ deletedTags: "keep" }).getManifest("app", "old")).toMatchObject(kept(minutes(6), minutes(4)));
    expect(calls).toEqual(["resolveManifest app old"]);
    await clock.advance(minutes(4));
    expect(await hub.getManifest("app", "old")).toMatchObject(kept(minutes(10), minutes(5)));
    expect(calls).toHaveLength(2);
    expect(sink.of("stale").filter(({ why }) => why === "gone")).toHaveLength(1);
  });

  test("lists the tag with those of the source", async () => {
    const { hub, origin } = await deleted({ deletedTags: "keep" });
    await pushImage(origin, "app", "new", makeImage([10]));
    expect(orThrow(await hub.listTags("app", { limit: 10 })).items).toEqual(["new", "old"]);
    expect(orThrow(await hub.listTags("app", { limit: 1 }))).toMatchObject({ items: ["new"], next: "new" });
    expect(orThrow(await hub.listTags("app", { limit: 1, after: "new" })).items).toEqual(["old"]);
  });

  test("serves it through an outage, and as the source's own once it is back", async () => {
    const { hub, switchOff, switchOn, clock, origin, image } = await deleted({ deletedTags: "keep" });
    await hub.getManifest("app", "old");
    switchOff();
    await clock.advance(minutes(6));
    expect(await hub.getManifest("app", "old")).toMatchObject({
      served: {
        cache: "stale",
        age: minutes(11),
        warnings: [expect.stringContaining("kept here"), expect.stringContaining("connection refused")],
      },
    });
    switchOn();
    await origin.putManifest("app", "old", { bytes: image.manifest });
    const back = await hub.getManifest("app", "old");
    expect(back).toMatchObject({ served: { cache: "hit", age: 0 } });
    expect(back).not.toHaveProperty("served.warnings");
  });
});
