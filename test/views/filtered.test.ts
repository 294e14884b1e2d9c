import { type ContentFilter, filtered, localRegistry, mediaTypes, orThrow, type Registry, readOnly, routes } from "oci-manifold";
import { chunksOf, digestOf, type StoringRegistry } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { beforeEach, describe, expect, test } from "vitest";
import { type Image, makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";

let registry: StoringRegistry;
const clock = fakeClock(0);

beforeEach(() => {
  registry = localRegistry({ storage: memoryStorage(), name: "r", clock });
});

/** An image whose config says which platform it is for. */
function imageFor(platform: { os: string; architecture: string; variant?: string }, layerSizes = [10]): Image {
  const { blobs, layers } = makeImage(layerSizes);
  const bytes = Buffer.from(JSON.stringify({ ...platform, id: Math.random() }));
  const config = { mediaType: "application/vnd.oci.image.config.v1+json", digest: digestOf(bytes), size: bytes.byteLength };
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers }));
  const kept = new Map([...blobs].filter(([digest]) => layers.some((layer) => layer.digest === digest)));
  return { manifest, digest: digestOf(manifest), config, layers, blobs: kept.set(config.digest, bytes) };
}

async function kinds(view: Registry, image: Image, tag: string): Promise<string[]> {
  const [layer] = image.layers;
  const lookups = await Promise.all([
    view.resolveManifest("app", tag),
    view.getManifest("app", tag),
    view.resolveManifest("app", image.digest),
    view.getManifest("app", image.digest),
    view.resolveBlob("app", layer?.digest ?? image.config.digest),
    view.getBlob("app", image.config.digest),
  ]);
  return lookups.map(({ kind }) => kind);
}
const all = (kind: string) => Array<string>(6).fill(kind);

describe("versions", () => {
  test("a range of versions permits its tags, and by digest what they led to", async () => {
    const [old, current] = [await pushImage(registry, "app", "1.9.9"), await pushImage(registry, "app", "2.4")];
    await pushImage(registry, "app", "latest", old);
    const view = filtered(registry, { allow: ["app:{>=2 <3}"] });
    expect(await kinds(view, old, "1.9.9")).toEqual(all("absent"));
    expect((await view.getManifest("app", current.digest)).kind).toBe("absent");
    orThrow(await view.getManifest("app", "2.4"));
    expect(await kinds(view, current, "2.4")).toEqual(all("found"));
    expect(await kinds(view, old, "latest")).toEqual(all("absent"));
    expect(orThrow(await view.listTags("app", { limit: 10 })).items).toEqual(["2.4"]);
  });

  test("digests: any leaves digests to whoever knows them", async () => {
    const old = await pushImage(registry, "app", "1");
    const view = filtered(registry, { allow: ["app:2"], digests: "any" });
    expect((await kinds(view, old, "1")).slice(0, 2)).toEqual(["absent", "absent"]);
    expect((await kinds(view, old, "1")).slice(2)).toEqual(Array(4).fill("found"));
  });

  test("a permitted image's signatures are permitted with it, under cosign's tags too", async () => {
    const image = await pushImage(registry, "app", "2.0");
    const other = await pushImage(registry, "app", "1.0");
    for (const { digest } of [image, other]) await pushImage(registry, "app", `${digest.replace(":", "-")}.sig`);
    const view = filtered(registry, { allow: ["app:{>=2}"] });
    const tag = `${image.digest.replace(":", "-")}.sig`;
    expect((await view.getManifest("app", tag)).kind).toBe("absent");
    orThrow(await view.getManifest("app", "2.0"));
    expect((await view.getManifest("app", tag)).kind).toBe("found");
    expect(orThrow(await view.listTags("app", { limit: 10 })).items).toEqual(["2.0", tag]);
  });
});

describe("content", () => {
  test("other platforms are absent by tag, by digest and by blob, and the index stays as it is", async () => {
    const [amd, arm] = [imageFor({ os: "linux", architecture: "amd64" }), imageFor({ os: "linux", architecture: "arm64" })];
    for (const image of [amd, arm]) await pushImage(registry, "app", image === amd ? "amd" : "arm", image);
    const index = makeIndex([amd, arm]);
    await registry.putManifest("app", "1", { bytes: index.bytes });
    const view = filtered(registry, { platforms: ["linux/amd64"] });
    expect(digestOf(orThrow(await view.getManifest("app", "1")).bytes)).toBe(index.digest);
    expect(await kinds(view, arm, "arm")).toEqual(all("absent"));
    orThrow(await view.getManifest("app", amd.digest));
    expect(await kinds(view, amd, "amd")).toEqual(all("found"));
    expect(await kinds(filtered(registry, { platforms: ["linux/arm64/v8"] }), amd, "amd")).toEqual(all("absent"));
  });

  test.each<[string, ContentFilter, boolean]>([
    ["its platform, with any variant", { platforms: ["linux/arm64"] }, true],
    ["arm64 is v8", { platforms: ["linux/arm64/v8"] }, true],
    ["another variant", { platforms: ["linux/arm64/v9"] }, false],
    ["another system", { platforms: ["windows/*"] }, false],
    ["none", { platforms: [] }, false],
    ["its manifest's type", { mediaTypes: ["application/vnd.oci.*"] }, true],
    ["another type", { mediaTypes: [mediaTypes.ociIndex] }, false],
    ["what it holds", { artifactTypes: ["application/vnd.oci.image.config.v1+json"] }, true],
    ["other artifacts", { artifactTypes: ["application/vnd.cncf.helm.*"] }, false],
    ["large enough", { maxManifestBytes: "4MiB", maxBlobBytes: "1KiB" }, true],
    ["a manifest too large", { maxManifestBytes: "100B" }, false],
    ["a layer too large", { maxBlobBytes: "999B" }, false],
  ])("%s", async (_, filter, visible) => {
    const image = await pushImage(registry, "app", "1", imageFor({ os: "linux", architecture: "arm64" }, [1000]));
    const view = filtered(registry, filter);
    await view.getManifest("app", "1");
    expect(await kinds(view, image, "1")).toEqual(all(visible ? "found" : "absent"));
  });

  test("what has no platform is shown", async () => {
    const attestation = await pushImage(registry, "app", "1", imageFor({ os: "unknown", architecture: "unknown" }));
    const artifact = makeImage([], {
      config: { mediaType: "application/vnd.oci.empty.v1+json", digest: attestation.config.digest, size: 2 },
    });
    await registry.putManifest("app", "2", { bytes: artifact.manifest });
    const view = filtered(registry, { platforms: ["linux/amd64"] });
    for (const tag of ["1", "2"]) expect((await view.getManifest("app", tag)).kind).toBe("found");
  });

  test.each([{ platforms: ["linux"] }, { platforms: ["a/b/c/d"] }, { mediaTypes: ["text"] }, { artifactTypes: ["a b/c"] }])(
    "%j is refused",
    (filter) => {
      expect(() => filtered(registry, filter)).toThrow(expect.objectContaining({ code: "NAME_INVALID" }));
    },
  );

  test("referrers of other types are not listed", async () => {
    const image = await pushImage(registry, "app", "1");
    const subject = { mediaType: mediaTypes.ociManifest, digest: image.digest, size: image.manifest.byteLength };
    for (const artifactType of ["application/spdx+json", "application/x-log"]) {
      await pushImage(registry, "app", artifactType.slice(12, 13), makeImage([], { artifactType, subject }));
    }
    const view = filtered(registry, { artifactTypes: ["application/spdx+json", "application/vnd.oci.image.*"] });
    const listed = orThrow(await view.listReferrers("app", image.digest, { limit: 10 }));
    expect(listed.items.map(({ artifactType }) => artifactType)).toEqual(["application/spdx+json"]);
  });
});

describe("how hidden things are answered", () => {
  test("denied by choice, but never to HEAD", async () => {
    const image = await pushImage(registry, "app", "1");
    const view = filtered(registry, { allow: ["app:2"], block: ["secret"], hidden: "denied" });
    expect(await kinds(view, image, "1")).toEqual(["absent", "denied", "absent", "denied", "absent", "denied"]);
    expect(await view.getManifest("secret", "1")).toMatchObject({
      error: { code: "DENIED", message: expect.stringContaining('"secret"') },
    });
    await expect(view.putManifest("app", "1", { bytes: image.manifest })).rejects.toMatchObject({ code: "DENIED" });
  });

  test("a rule of the host decides last, and is told what it is about", async () => {
    const image = await pushImage(registry, "app", "1");
    await pushImage(registry, "other", "1");
    const asked: unknown[] = [];
    const view = filtered(registry, {
      permit(question) {
        asked.push(question);
        return question.repository === "app" && question.caller?.name === "ann";
      },
    });
    const o = { caller: { name: "ann" } };
    expect((await view.getManifest("app", "1")).kind).toBe("absent");
    expect((await view.getManifest("app", "1", o)).kind).toBe("found");
    expect((await view.resolveManifest("app", image.digest)).kind).toBe("absent");
    expect((await view.resolveManifest("app", image.digest, o)).kind).toBe("found");
    expect(orThrow(await view.listRepositories({ limit: 10 }, o)).items).toEqual(["app"]);
    expect(asked).toContainEqual({ access: "read", repository: "app", reference: "1", caller: { name: "ann" } });
    expect(asked).toContainEqual({ access: "catalog", repository: "other", caller: { name: "ann" } });
  });

  test("what cannot be decided is not shown, and not called absent", async () => {
    const image = await pushImage(registry, "app", "1");
    const view = filtered(registry, {
      permit() {
        throw new Error("a bug");
      },
    });
    expect(await kinds(view, image, "1")).toEqual(["unavailable", "unavailable", "absent", "absent", "absent", "absent"]);
    expect((await view.listTags("app", { limit: 1 })).kind).toBe("unavailable");
    expect((await view.listRepositories({ limit: 1 })).kind).toBe("unavailable");
    await expect(view.startUpload("app")).rejects.toMatchObject({ code: "UNAVAILABLE" });
    const broken = filtered({ ...registry, getBlob: async () => ({ kind: "absent" }) }, { platforms: ["linux/amd64"] });
    expect((await broken.getManifest("app", "1")).kind).toBe("unavailable");
    const truthy = filtered(registry, { permit: (() => "yes") as unknown as () => boolean });
    expect((await truthy.getManifest("app", "1")).kind).toBe("absent");
  });
});

describe("what was seen first", () => {
  test("a tag's digest is visible when it was first seen long enough ago, and a new one is not", async () => {
    const time = fakeClock(0);
    const first = await pushImage(registry, "app", "1");
    const source = localRegistry({ storage: memoryStorage(), name: "mem", clock: time });
    const view = () => filtered(registry, { minimumAge: "2d", clock: time, reach: source.visibleDigests("hub") });
    expect((await view().resolveManifest("app", "1")).kind).toBe("absent");
    await time.advance(2 * 86_400_000 - 1);
    expect(await kinds(view(), first, "1")).toEqual(all("absent"));
    await time.advance(1);
    orThrow(await view().getManifest("app", "1"));
    expect(await kinds(view(), first, "1")).toEqual(all("found"));
    const second = await pushImage(registry, "app", "1");
    expect(await kinds(view(), second, "1")).toEqual(all("absent"));
    expect((await view().getManifest("app", first.digest)).kind).toBe("found");
    await time.advance(2 * 86_400_000);
    expect(orThrow(await view().getManifest("app", "1")).descriptor.digest).toBe(second.digest);
  });
});

describe("writes", () => {
  test("what is pushed is visible to its writer; what is hidden cannot be named", async () => {
    const hidden = await pushImage(registry, "app", "secret");
    const view = filtered(registry, { allow: ["app:1.*"] });
    const mine = await pushImage(view, "app", "1.0");
    expect(await kinds(view, mine, "1.0")).toEqual(all("found"));
    const upload = await view.startUpload("app");
    await upload.append(chunksOf(Buffer.from("x")));
    await upload.commit(digestOf(Buffer.from("x")));
    expect((await view.resolveBlob("app", digestOf(Buffer.from("x")))).kind).toBe("found");
    const child = makeImage();
    await pushBlobs(view, "app", child);
    await view.putManifest("app", child.digest, { bytes: child.manifest });
    await view.putManifest("app", "1.1", { bytes: makeIndex([child]).bytes });

    const naming = [
      { bytes: hidden.manifest },
      { bytes: makeIndex([hidden]).bytes },
      {
        bytes: Buffer.from(
          JSON.stringify({
            ...JSON.parse(mine.manifest.toString()),
            subject: { mediaType: mediaTypes.ociManifest, digest: hidden.digest, size: 1 },
          }),
        ),
      },
    ];
    for (const content of naming)
      await expect(view.putManifest("app", "1.2", content)).rejects.toMatchObject({ code: "MANIFEST_BLOB_UNKNOWN" });
    expect((await view.resolveManifest("app", hidden.digest)).kind).toBe("absent");
    await expect(view.mountBlob("app", hidden.config.digest, { registry: view, repository: "app" })).resolves.toBeUndefined();
  });

  test("what is hidden stays: by digest only what has permitted tags alone is deleted", async () => {
    const image = await pushImage(registry, "app", "1.0");
    await pushImage(registry, "app", "stable", image);
    const view = filtered(registry, { allow: ["app:1.*"] });
    await expect(view.deleteManifest("app", image.digest)).rejects.toMatchObject({ code: "NAME_UNKNOWN" });
    orThrow(await view.getManifest("app", "1.0"));
    await expect(view.deleteManifest("app", image.digest)).rejects.toMatchObject({
      code: "DENIED",
      message: expect.not.stringContaining("stable"),
    });
    await expect(view.deleteManifest("app", "stable")).rejects.toMatchObject({ code: "NAME_UNKNOWN" });
    await expect(view.deleteBlob("app", image.config.digest)).rejects.toMatchObject({ code: "DENIED" });
    await registry.deleteManifest("app", "stable");
    await view.deleteManifest("app", image.digest);
    expect((await registry.getManifest("app", "1.0")).kind).toBe("absent");
  });

  test("what would be hidden is not taken", async () => {
    const view = filtered(registry, { platforms: ["linux/amd64"], maxBlobBytes: "100B" });
    await pushImage(view, "app", "1", imageFor({ os: "linux", architecture: "amd64" }));
    await expect(pushImage(view, "app", "2", imageFor({ os: "linux", architecture: "s390x" }))).rejects.toMatchObject({ code: "DENIED" });
    await expect(pushImage(view, "app", "3", imageFor({ os: "linux", architecture: "amd64" }, [101]))).rejects.toMatchObject({
      code: "DENIED",
    });
  });
});

test("nobody walks around a view by ?ns=", async () => {
  await pushImage(registry, "app", "1");
  await pushImage(registry, "secret", "1");
  const served = routes({}, { namespaces: { "docker.io": registry } });
  const behind = filtered(served, { block: ["secret"] }).forNamespace("docker.io");
  expect((await behind?.getManifest("app", "1"))?.kind).toBe("found");
  expect((await behind?.getManifest("secret", "1"))?.kind).toBe("absent");
  const view = readOnly(served);
  expect(view.forNamespace("docker.io")).toBe(view.forNamespace("docker.io"));
  await expect(view.forNamespace("docker.io")?.deleteManifest("app", "1")).rejects.toMatchObject({ code: "UNSUPPORTED" });
});
