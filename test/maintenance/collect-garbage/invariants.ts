import { digestOf, parseDigest, parseManifest, type RecordItem, type RecordKind } from "oci-manifold/extend";
import { recordKey } from "../../../src/core/records.js";
import { collectionBytes } from "./bytes.js";
import type { World } from "./world.js";

const limit = 10_000;

async function all<K extends RecordKind>({ metadata }: World, kind: K): Promise<readonly RecordItem<K>[]> {
  return metadata.page({ kind, under: [], limit });
}

/** What holds at every moment: blob references have bytes, and there is one to each blob that stored manifests refer to. */
export async function checkEverything(world: World): Promise<void> {
  const { metadata, blobs } = world;
  const read = new Set<string>();
  for (const { key, value } of await all(world, "link")) {
    const [registry = "", repository = "", digest = ""] = key.parts;
    const where = `${digest} of ${registry}/${repository}`;
    if (!(await metadata.get(recordKey.linkByDigest(registry, parseDigest(digest), repository))))
      throw new Error(`${where} is not found by its digest`);
    if (value.origin || read.has(digest)) continue;
    const blob = await metadata.get(recordKey.blob(parseDigest(digest)));
    if (!blob) throw new Error(`${where} is referred to and its bytes are not recorded`);
    const open = () => blobs.read(blob.value.location);
    if (digestOf(await collectionBytes({ kind: "stream", open })) !== digest) throw new Error(`${where} has other bytes`);
    read.add(digest);
  }
  for (const { repository, registry, digest } of await references(world)) {
    if (repository === "scratch" || registry === "hub") continue;
    if (await metadata.get(recordKey.link(registry, repository, digest))) continue;
    if (await metadata.get(recordKey.manifest(registry, repository, digest))) continue;
    // A child may have been deleted under its index.
    if (world.bytesOf(digest)) throw new Error(`${digest} of ${registry}/${repository} is in a manifest and has no blob reference`);
  }
}

/** What is left when everything is over and collected. */
export async function checkWhatIsLeft(world: World): Promise<void> {
  const { metadata, blobs, team } = world;
  const referred = new Set((await references(world)).map(({ registry, repository, digest }) => `${registry} ${repository} ${digest}`));
  const blobReferences = await all(world, "link");
  for (const { key, value } of blobReferences) {
    const [registry = "", , digest = ""] = key.parts;
    if (value.condemned) throw new Error(`${key.parts.join(" ")} is still marked`);
    const evictable = await metadata.get(recordKey.cachedBlob(registry, parseDigest(digest)));
    if (!evictable && !referred.has(key.parts.join(" "))) throw new Error(`${key.parts.join(" ")} is needed by nobody and still there`);
  }
  const referenced = new Set(blobReferences.filter(({ value }) => !value.origin).map(({ key }) => key.parts[2] ?? ""));
  const named = new Set((await references(world)).map(({ digest }) => String(digest)));
  const recorded = await all(world, "blob");
  const names = recorded.map(({ key }) => key.parts[0] ?? "");
  // What a manifest names stays also without a blob reference, but no manifest has to find it here.
  same(
    "blobs",
    names.filter((name) => referenced.has(name) || !named.has(name)),
    [...referenced],
  );
  const listed = await blobs.list({ limit });
  same(
    "locations",
    listed.items.map(({ location }) => location),
    recorded.map(({ value }) => value.location),
  );
  same("staged", (await blobs.listStaged({ limit })).items, []);
  same("sessions", await all(world, "upload"), []);
  const used = await team.usage();
  same("usage", [used], [await team.usage({ recount: true })]);
}

async function references(world: World): Promise<{ registry: string; repository: string; digest: ReturnType<typeof parseDigest> }[]> {
  const found = [];
  for (const { key, value } of await all(world, "manifest")) {
    const [registry = "", repository = "", digest = ""] = key.parts;
    const stored = await world.metadata.get(recordKey.manifest(registry, repository, parseDigest(digest)));
    if (!stored?.bytes) continue;
    const { config, layers, children } = parseManifest(stored.bytes, value.mediaType);
    for (const one of [...(config ? [config] : []), ...layers, ...children]) found.push({ registry, repository, digest: one.digest });
  }
  return found;
}

function same(what: string, actual: readonly unknown[], expected: readonly unknown[]): void {
  const text = (items: readonly unknown[]) => JSON.stringify(items.map((item) => JSON.stringify(item)).sort());
  if (text(actual) !== text(expected)) throw new Error(`${what} left are ${text(actual)} and not ${text(expected)}`);
}
