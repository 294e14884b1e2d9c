import fc from "fast-check";
import { localRegistry, type Registry, tagRules } from "oci-manifold";
import { digestOf, type StoringRegistry } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, describe, expect, test } from "vitest";
import { makeImage, pushBlobs, pushImage } from "../fixtures/images.js";

let registry: StoringRegistry;
beforeEach(() => {
  registry = localRegistry({ storage: memoryStorage(), name: "r" });
});
const standsAt = async (tag: string, view: Registry = registry) => {
  const lookup = await view.resolveManifest("app", tag);
  return lookup.kind === "found" ? lookup.value.digest : lookup.kind;
};

describe("immutable", () => {
  test("a tag keeps what it has, and the same again is fine", async () => {
    const view = tagRules(registry, { immutable: { except: ["app:nightly"] } });
    const image = await pushImage(view, "app", "1.0");
    await pushImage(view, "app", "1.0", image);
    await expect(pushImage(view, "app", "1.0")).rejects.toMatchObject({ code: "DENIED", message: expect.stringContaining('"immutable"') });
    await expect(view.deleteManifest("app", "1.0")).rejects.toMatchObject({ code: "DENIED" });
    await expect(view.deleteManifest("app", image.digest)).rejects.toMatchObject({
      code: "DENIED",
      message: expect.stringContaining("app:1.0"),
    });
    expect(await standsAt("1.0")).toBe(image.digest);
    await pushImage(view, "app", "nightly");
    const nightly = await pushImage(view, "app", "nightly");
    await view.deleteManifest("app", nightly.digest);
    expect(await standsAt("nightly")).toBe("absent");
    const condition = (o: object) => view.putManifest("app", "1.0", { bytes: image.manifest }, o);
    await expect(condition({ ifNoneMatch: "*" })).rejects.toMatchObject({ code: "PRECONDITION_FAILED" });
    await expect(condition({ ifMatch: nightly.digest })).rejects.toMatchObject({ code: "PRECONDITION_FAILED" });
    await condition({ ifMatch: image.digest });
  });

  test("signatures and fallback tags are exempt", async () => {
    const view = tagRules(registry, { immutable: {}, semverOnly: {} });
    const image = await pushImage(view, "app", "1.0.0");
    for (const suffix of ["", ".sig", ".att", ".sbom"]) {
      const tag = image.digest.replace(":", "-") + suffix;
      await pushImage(view, "app", tag);
      const second = await pushImage(view, "app", tag);
      expect(await standsAt(tag)).toBe(second.digest);
      await view.deleteManifest("app", tag);
    }
    await expect(pushImage(view, "app", "sha256-abc")).rejects.toMatchObject({ code: "DENIED" });
  });

  test("of many writers one sets the tag", async () => {
    const view = tagRules(registry, { immutable: {} });
    const images = Array.from({ length: 8 }, () => makeImage([1]));
    for (const image of images) await pushBlobs(view, "app", image);
    const outcomes = await Promise.allSettled(images.map((image) => view.putManifest("app", "1", { bytes: image.manifest })));
    const won = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value.digest] : []));
    expect(won).toEqual([await standsAt("1")]);
    for (const outcome of outcomes) if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "DENIED" });
  });

  test("tags beside a digest are tags", async () => {
    const view = tagRules(registry, { immutable: { tags: ["**:1.*"] } });
    const [one, other] = [await pushImage(view, "app", "1.0"), makeImage()];
    await pushBlobs(view, "app", other);
    const push = (tags: string[]) => view.putManifest("app", other.digest, { bytes: other.manifest }, { tags });
    await expect(push(["free", "1.0"])).rejects.toMatchObject({ code: "DENIED" });
    expect([await standsAt("free"), await standsAt(other.digest), await standsAt("1.0")]).toEqual(["absent", "absent", one.digest]);
    await push(["free", "1.1", "1.2"]);
    for (const tag of ["free", "1.1", "1.2"]) expect(await standsAt(tag)).toBe(other.digest);
    const sha512 = digestOf(other.manifest, "sha512");
    await expect(view.putManifest("app", sha512, { bytes: other.manifest }, { tags: ["1.3"] })).rejects.toMatchObject({
      code: "UNSUPPORTED",
    });
    await view.putManifest("app", sha512, { bytes: other.manifest }, { tags: ["free"] });
    expect(await standsAt("free")).toBe(sha512);
  });
});

describe("semverOnly", () => {
  test("other tags are refused before anything is stored", async () => {
    const view = tagRules(registry, { semverOnly: { tags: ["app", "team/**"], except: ["**:dev-*"] } });
    const image = await pushImage(view, "app", "1.4.2");
    for (const tag of ["v1.4.2", "1.4.2-rc.1", "1.4.2-rc.1_build.5", "dev-ann"]) await pushImage(view, "app", tag, image);
    for (const tag of ["1.4", "1", "latest", "01.2.3", "1.2.3.4"]) {
      await expect(pushImage(view, "app", tag, image)).rejects.toMatchObject({
        code: "DENIED",
        message: expect.stringContaining('"semverOnly"'),
      });
    }
    const push = view.putManifest("app", image.digest, { bytes: image.manifest }, { tags: ["2.0.0", "newest"] });
    await expect(push).rejects.toMatchObject({ code: "DENIED" });
    expect(await standsAt("2.0.0")).toBe("absent");
    await pushImage(view, "free", "latest", image);
  });
});

describe("managed", () => {
  const managed = { latest: true, major: true, minor: true };

  test("latest, 1 and 1.4 follow the highest release, never a lower one", async () => {
    const view = tagRules(registry, { managed, immutable: {}, semverOnly: {} });
    const images = new Map<string, string>();
    const push = async (tag: string) => images.set(tag, (await pushImage(view, "app", tag)).digest);
    const expectTags = async (expected: Record<string, string>) => {
      for (const [tag, release] of Object.entries(expected))
        expect([tag, await standsAt(tag)]).toEqual([tag, images.get(release) ?? release]);
    };
    await push("1.4.2");
    await expectTags({ latest: "1.4.2", "1": "1.4.2", "1.4": "1.4.2" });
    await push("1.3.9");
    await expectTags({ latest: "1.4.2", "1": "1.4.2", "1.4": "1.4.2", "1.3": "1.3.9" });
    await push("1.4.10");
    await expectTags({ latest: "1.4.10", "1": "1.4.10", "1.4": "1.4.10" });
    await push("2.0.0-rc.1");
    await expectTags({ latest: "1.4.10", "2": "absent", "2.0": "absent" });
    await push("10.0.0");
    await push("9.0.0");
    await expectTags({ latest: "10.0.0", "10": "10.0.0", "9": "9.0.0", "1": "1.4.10" });
    await push("v11.0.0");
    await expectTags({ latest: "v11.0.0", v11: "v11.0.0", "v11.0": "v11.0.0", "11": "absent" });
  });

  test("nobody pushes or deletes them", async () => {
    const view = tagRules(registry, { managed: { ...managed, repositories: ["app"] } });
    const image = await pushImage(view, "app", "1.0.0");
    for (const tag of ["latest", "1", "1.0", "v1"]) {
      await expect(pushImage(view, "app", tag)).rejects.toMatchObject({ code: "DENIED", message: expect.stringContaining('"managed"') });
      await expect(view.deleteManifest("app", tag)).rejects.toMatchObject({ code: "DENIED" });
    }
    await expect(view.putManifest("app", image.digest, { bytes: image.manifest }, { tags: ["latest"] })).rejects.toMatchObject({
      code: "DENIED",
    });
    await pushImage(view, "other", "latest");
    const some = tagRules(registry, { managed: { latest: true } });
    await pushImage(some, "app", "1");
  });

  test("tags beside a digest are followed", async () => {
    const view = tagRules(registry, { managed });
    const image = makeImage();
    await pushBlobs(view, "app", image);
    await view.putManifest("app", image.digest, { bytes: image.manifest }, { tags: ["1.0.0", "stable"] });
    for (const tag of ["1.0.0", "stable", "latest", "1", "1.0"]) expect(await standsAt(tag)).toBe(image.digest);
  });

  test("a release that comes while a lower one is being followed is not undone", async () => {
    let overtake: (() => Promise<unknown>) | undefined = () => pushImage(tagRules(registry, { managed }), "app", "1.4.1");
    const slow: Registry = {
      ...registry,
      async getManifest(repository, reference, o) {
        const lookup = await registry.getManifest(repository, reference, o);
        const run = overtake;
        overtake = undefined;
        await run?.();
        return lookup;
      },
    };
    const first = await pushImage(tagRules(slow, { managed }), "app", "1.4.0");
    for (const tag of ["latest", "1", "1.4"]) expect(await standsAt(tag)).toBe(await standsAt("1.4.1"));
    expect(await standsAt("1.4.0")).toBe(first.digest);
  });

  test("whoever pushes at the same time, the highest wins", async () => {
    const version = fc.tuple(fc.nat({ max: 2 }), fc.nat({ max: 2 }), fc.nat({ max: 11 })).map((parts) => parts.join("."));
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(version, { minLength: 1, maxLength: 6 }), async (versions) => {
        registry = localRegistry({ storage: memoryStorage(), name: "r" });
        const view = tagRules(registry, { managed, immutable: {} });
        await Promise.all(versions.map((tag) => pushImage(view, "app", tag, makeImage([1]))));
        const highest = (under: string) => {
          const weight = (tag: string) => tag.split(".").reduce((sum, part) => sum * 100 + Number(part), 0);
          return versions.filter((tag) => tag.startsWith(under)).sort((a, b) => weight(b) - weight(a))[0] ?? "";
        };
        const [one = ""] = versions;
        const [major, minor] = one.split(".");
        for (const [tag, under] of [
          ["latest", ""],
          [`${major}`, `${major}.`],
          [`${major}.${minor}`, `${major}.${minor}.`],
        ] as const) {
          expect(await standsAt(tag)).toBe(await standsAt(highest(under)));
        }
      }),
      { numRuns: 100 },
    );
  });
});

test("a rule holds for canonical names", async () => {
  const named = { ...registry, canonicalName: (name: string) => (name === "x" ? "app" : name) };
  const view = tagRules(named, { semverOnly: { tags: ["app"] } });
  await expect(pushImage(view, "x", "latest")).rejects.toMatchObject({ code: "DENIED" });
});
