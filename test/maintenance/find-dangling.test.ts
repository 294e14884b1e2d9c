import { type Connector, localRegistry } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { type FindDanglingProgress, findDangling, impactOfRemoving } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeEach, describe, expect, test } from "vitest";
import { type Image, makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { joined, put, rejection, switchable } from "./support.js";

let local: StoringRegistry;
let hub: StoringRegistry;

beforeEach(() => {
  local = localRegistry({ storage: memoryStorage(), name: "prerelease" });
  hub = localRegistry({ storage: memoryStorage(), name: "hub" });
});

/** Stored here, its blobs behind `hub`. */
async function pushLinked(repository: string, tag: string, image: Image = makeImage([1000, 2000]), member = "hub"): Promise<Image> {
  await pushBlobs(hub, repository, image);
  for (const blob of [image.config, ...image.layers]) await local.addBlobReference(repository, blob, { member, repository });
  await put(local, repository, tag, image.manifest);
  return image;
}

describe("audit", () => {
  test("what is here and what a member gives is well, each reference asked about once, by HEAD", async () => {
    const here = await pushImage(local, "app", "1");
    const linked = await pushLinked("app", "2");
    await pushLinked("app", "3", { ...makeImage(), ...linked });
    const { registry, calls } = spied(hub);
    const more = Buffer.from(linked.manifest.toString().replace("}]}", '}],"annotations":{}}'));
    await put(local, "app", "same-layers", more);
    const report = await findDangling(joined(local, [{ name: "hub", source: registry }]));
    expect(report).toEqual({ manifests: 3, references: 6, dangling: [], unknown: [], omitted: { dangling: 0, unknown: 0 } });
    expect(calls).toHaveLength(3);
    expect(calls.every((call) => call.startsWith("resolveBlob app"))).toBe(true);
    expect(here.blobs.size).toBe(3);
  });

  test("what a member states with another size than the manifest says dangles", async () => {
    const image = await pushLinked("app", "1");
    const liar: StoringRegistry = {
      ...hub,
      resolveBlob: async (repository, digest) => {
        const lookup = await hub.resolveBlob(repository, digest);
        return lookup.kind === "found" && digest === image.layers[0]?.digest ? { ...lookup, value: { ...lookup.value, size: 2 } } : lookup;
      },
    };
    const { dangling } = await findDangling(joined(local, [{ name: "hub", source: liar }]));
    expect(dangling).toMatchObject([{ reference: image.layers[0], why: "hub states 2 bytes instead of 1000" }]);
  });

  test("says what dangles, with its tags, those of indexes too, and the origin", async () => {
    const image = await pushLinked("app", "1");
    const index = makeIndex([image]);
    await put(local, "app", "all", index.bytes);
    await put(local, "app", "outer", makeIndex([{ ...image, digest: index.digest, manifest: index.bytes }]).bytes);
    const layer = image.layers[0];
    if (!layer) throw new Error("no layer");
    await hub.deleteBlob("app", layer.digest);
    const report = await findDangling(joined(local, [{ name: "hub", source: hub }]));
    expect(report.dangling).toEqual([
      {
        repository: "app",
        manifest: image.digest,
        tags: ["1", "all", "outer"],
        reference: layer,
        origin: { member: "hub", repository: "app" },
        why: "not at hub",
      },
    ]);
    const alone = await findDangling(joined(local, []));
    expect(alone.dangling).toHaveLength(3);
    expect(alone.dangling[0]?.why).toContain("hub is no connector here");
  });

  test("children: stored here, given by a member, listed as blobs, or nowhere", async () => {
    const [stored, given, lost] = [await pushImage(local, "app", "1"), await pushImage(hub, "app", "2"), makeImage()];
    await put(local, "app", "all", makeIndex([stored, given, lost]).bytes, true);
    const blob = makeImage([10]);
    await pushBlobs(local, "cache", blob);
    const asBlobs = blob.layers.map(({ digest, size }) => ({ ...blob, digest, manifest: Buffer.alloc(size) }));
    await put(local, "cache", "buildkit", makeIndex(asBlobs).bytes);
    const report = await findDangling(joined(local, [{ name: "hub", source: hub }]));
    expect(report.dangling.map(({ reference }) => reference.digest)).toEqual([lost.digest]);
  });

  test("a member that is down makes it unknown, also in the middle, unless another one gives it", async () => {
    const image = await pushLinked("app", "1");
    const flaky = switchable(hub);
    const connector: Connector = { name: "hub", source: flaky.registry };
    flaky.down = true;
    const report = await findDangling(joined(local, [connector]));
    expect(report.dangling).toEqual([]);
    expect(report.unknown.map(({ why }) => why)).toEqual(Array(3).fill("hub: it is down"));
    expect((await findDangling(joined(local, [connector, { name: "other", source: hub }]))).unknown).toEqual([]);
    const layer = image.layers[0];
    if (!layer) throw new Error("no layer");
    flaky.down = false;
    for (let i = 0; i < 150; i++) await pushLinked("many", `t${i}`, makeImage([8]));
    const middle = await findDangling(joined(local, [connector]), {
      progress: ({ after }) => {
        if (after.startsWith("many")) flaky.down = true;
      },
    });
    expect(middle).toMatchObject({ manifests: 151, dangling: [] });
    expect(middle.unknown).toHaveLength(100);
  });

  test("heeds filters, names and reserved names as a pull would", async () => {
    const image = makeImage([10]);
    await pushBlobs(hub, "app", image);
    await put(local, "hub/app", "1", image.manifest, true);
    const rename = {
      toSource: (name: string) => (name.startsWith("hub/") ? name.slice("hub/".length) : undefined),
      fromSource: (name: string) => `hub/${name}`,
    };
    const ask = async (connector: Partial<Connector>, reserved: string[] = []) =>
      (await findDangling(joined(local, [{ name: "hub", source: hub, ...connector }], reserved))).dangling.length;
    expect(await ask({ rename })).toBe(0);
    expect(await ask({})).toBe(2);
    expect(await ask({ rename, block: ["app"] })).toBe(2);
    expect(await ask({ rename, reach: "links" })).toBe(2);
    expect(await ask({ rename }, ["hub/app"])).toBe(2);
  });

  test("10,000 manifests: pages of a hundred, a bounded list, and on from where it was ended", async () => {
    const config = makeImage([]).config;
    for (let i = 0; i < 10_000; i++) {
      const repository = `team/app-${i % 7}`;
      await put(local, repository, `t${i}`, makeImage([1], { config, annotations: { i: `${i}` } }).manifest, true);
    }
    const { registry, calls } = spied(local);
    const aggregate = joined(registry as StoringRegistry, []);
    const controller = new AbortController();
    const told: FindDanglingProgress[] = [];
    const ended = findDangling(aggregate, {
      signal: controller.signal,
      limit: 10,
      progress: (progress) => {
        if (told.push(progress) === 40) controller.abort(new Error("enough"));
      },
    });
    expect(await rejection(ended)).toMatchObject({ message: "enough" });
    const first = told.at(-1);
    if (!first) throw new Error("nothing was told");
    const rest = await findDangling(aggregate, { after: first.after, limit: 10 });
    expect(first.manifests + rest.manifests).toBe(10_000);
    expect(rest.dangling).toHaveLength(10);
    const found = (report: { dangling: readonly unknown[]; omitted: { dangling: number } }) =>
      report.dangling.length + report.omitted.dangling;
    expect(found(first) + found(rest)).toBe(20_000);
    // Twice where findings want the tags of indexes.
    const pages = calls.filter((call) => call.startsWith("listManifests")).length;
    expect(pages).toBeLessThan(500);
    expect(await rejection(findDangling(aggregate, { after: "nonsense" }))).toMatchObject({ code: "NAME_INVALID" });
  });
});

describe("the impact of removing a connector", () => {
  test("what it alone gives, and the names it alone serves", async () => {
    const other = localRegistry({ storage: memoryStorage(), name: "other" });
    const only = await pushLinked("app", "1", makeImage([100]));
    const both = await pushLinked("shared", "1", makeImage([100]));
    await pushBlobs(other, "shared", both);
    await pushImage(hub, "served/alone", "1");
    await pushImage(hub, "served/twice", "1");
    await pushImage(other, "served/twice", "1");
    const aggregate = joined(local, [
      { name: "hub", source: hub },
      { name: "other", source: other },
    ]);
    const impact = await impactOfRemoving(aggregate, "hub");
    expect(impact.dangling.map(({ repository, tags }) => `${repository}:${tags}`)).toEqual(["app:1", "app:1"]);
    expect(impact.bytes).toBe(only.config.size + 100);
    expect(impact.names).toEqual({ lost: ["served/alone"], unknown: [], omitted: 0 });
    const after = await findDangling(joined(local, [{ name: "other", source: other }]));
    expect(after.dangling.map(({ reference }) => reference.digest)).toEqual(impact.dangling.map(({ reference }) => reference.digest));
    expect((await impactOfRemoving(aggregate, "other")).dangling).toEqual([]);
    expect(await rejection(impactOfRemoving(aggregate, "none"))).toMatchObject({
      code: "NAME_UNKNOWN",
      message: expect.stringContaining("hub, other"),
    });
  });

  test("what dangles already is not told, and what cannot be asked is unknown", async () => {
    const image = await pushLinked("app", "1", makeImage([100]));
    const flaky = switchable(hub);
    const other = switchable(localRegistry({ storage: memoryStorage(), name: "other" }));
    const aggregate = joined(local, [
      { name: "hub", source: flaky.registry },
      { name: "other", source: other.registry },
    ]);
    await pushImage(hub, "served", "1");
    flaky.down = true;
    expect(await impactOfRemoving(aggregate, "hub")).toMatchObject({ dangling: [], unknown: { length: 2 }, names: { lost: [] } });
    flaky.down = false;
    other.down = true;
    expect(await impactOfRemoving(aggregate, "hub")).toMatchObject({
      dangling: [],
      unknown: { length: 2 },
      names: { lost: [], unknown: ["served"] },
    });
    other.down = false;
    for (const digest of image.blobs.keys()) await hub.deleteBlob("app", digest);
    expect(await impactOfRemoving(aggregate, "hub")).toMatchObject({ dangling: [], unknown: [] });
  });

  test("a connector without a catalog: names that were pulled are known", async () => {
    await pushImage(hub, "pulled", "1");
    await pushImage(hub, "never", "1");
    await local.nameMemory().bind("pulled", { member: "hub", since: 1 });
    await local.nameMemory().bind("elsewhere", { member: "other", since: 1 });
    const silent = { ...hub, listRepositories: async () => ({ kind: "absent" as const }) };
    const { names } = await impactOfRemoving(joined(local, [{ name: "hub", source: silent }]), "hub");
    expect(names).toMatchObject({ lost: ["pulled"], incomplete: expect.stringContaining("hub does not list") });
  });
});
