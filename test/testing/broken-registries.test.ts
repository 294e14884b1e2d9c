import { type BlobContent, type Lookup, localRegistry, orThrow, type Page, type Registry } from "oci-manifold";
import { chunksOf, contentChunks } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { type RegistryCapabilities, registryContract } from "oci-manifold/testing";
import { expect, test } from "vitest";

/**
 * The names of the cases that a registry with these faults fails.
 * @param only the one case to run; absent: all.
 */
async function failing(
  fault: (sound: Registry) => Partial<Registry>,
  only?: string,
  capabilities: Partial<RegistryCapabilities> = {},
): Promise<string[]> {
  const cases: { name: string; run: () => Promise<void> }[] = [];
  registryContract({
    test: (name, run) => cases.push({ name, run }),
    create: async () => {
      const sound = localRegistry({ storage: memoryStorage(), name: "sound" });
      return { registry: Object.assign({ ...sound }, fault(sound)), seed: sound, dispose: async () => {} };
    },
    capabilities,
  });
  const failed: string[] = [];
  for (const { name, run } of cases) if (only === undefined || name === only) await run().catch(() => failed.push(name));
  return failed;
}

const reordered = (lookup: Lookup<Page<string>>): Lookup<Page<string>> =>
  lookup.kind === "found"
    ? { ...lookup, value: { ...lookup.value, items: [...lookup.value.items].sort((a, b) => a.localeCompare(b)) } }
    : lookup;

async function cut(lookup: Lookup<BlobContent>): Promise<Lookup<BlobContent>> {
  if (lookup.kind !== "found") return lookup;
  const chunks: Uint8Array[] = [];
  for await (const chunk of contentChunks(lookup.value.content)) chunks.push(chunk);
  const bytes = Buffer.concat(chunks).subarray(0, -1);
  return { ...lookup, value: { ...lookup.value, content: { kind: "bytes", bytes } } };
}

const rewritten = (bytes: Uint8Array) => Buffer.from(JSON.stringify(JSON.parse(Buffer.from(bytes).toString())));

test("a sound registry fails nothing", async () => {
  expect(await failing(() => ({}))).toEqual([]);
});

test.each<[what: string, caught: string, fault: (sound: Registry) => Partial<Registry>]>([
  [
    "writes manifests anew",
    "a manifest comes back byte by byte, by tag and by digest",
    (sound) => ({
      async getManifest(...call) {
        const lookup = await sound.getManifest(...call);
        return lookup.kind === "found" ? { ...lookup, value: { ...lookup.value, bytes: rewritten(lookup.value.bytes) } } : lookup;
      },
    }),
  ],
  [
    "throws for what is not there",
    "an unknown repository, tag or digest is absent, and no throw",
    (sound) => ({
      async resolveManifest(...call) {
        const lookup = await sound.resolveManifest(...call);
        orThrow(lookup);
        return lookup;
      },
    }),
  ],
  [
    "cuts blobs",
    "a blob comes back byte by byte, small or large",
    (sound) => ({ getBlob: async (...call) => cut(await sound.getBlob(...call)) }),
  ],
  [
    "ignores ranges",
    "a range is answered by that part: to an end, open, from the end, beyond the end",
    (sound) => ({ getBlob: (repository, digest) => sound.getBlob(repository, digest) }),
  ],
  [
    "sorts tags as people do",
    "tags come in ASCII order, in pages that go on from one to the next",
    (sound) => ({ listTags: async (...call) => reordered(await sound.listTags(...call)) }),
  ],
  [
    "does not page its catalog",
    "repositories come in ASCII order, in pages that go on from one to the next",
    (sound) => ({ listRepositories: (_, o) => sound.listRepositories({ limit: 1000 }, o) }),
  ],
  [
    "does not filter referrers",
    "referrers come in order of their digests, in pages, filtered by artifact type",
    (sound) => ({ listReferrers: (repository, subject, { artifactType: _, ...page }) => sound.listReferrers(repository, subject, page) }),
  ],
  [
    "trusts references",
    "a manifest whose config or layer is missing is MANIFEST_BLOB_UNKNOWN and stores nothing",
    (sound) => ({
      putManifest: (repository, reference, content, o) => sound.putManifest(repository, reference, content, { ...o, references: "trust" }),
    }),
  ],
  [
    "forgets conditions",
    "ifMatch holds only where the reference points to that digest",
    (sound) => ({
      putManifest: (repository, reference, content, { ifMatch: _, ...o } = {}) => sound.putManifest(repository, reference, content, o),
    }),
  ],
  [
    "mounts for everybody",
    "a mount without source takes nothing that the caller may not read, and asks in its own names",
    (sound) => ({ mountBlob: (repository, digest, from) => sound.mountBlob(repository, digest, from && { ...from, registry: sound }) }),
  ],
  [
    "takes any caller for an upload's",
    "an upload belongs to its caller",
    (sound) => ({
      startUpload: (repository) => sound.startUpload(repository),
      resumeUpload: (repository, id) => sound.resumeUpload(repository, id),
    }),
  ],
  [
    "deletes in silence",
    "what is not there cannot be deleted: MANIFEST_UNKNOWN and BLOB_UNKNOWN",
    (sound) => ({ deleteManifest: (...call) => sound.deleteManifest(...call).catch(() => {}) }),
  ],
  [
    "deletes tags unasked",
    "a delete by digest asks about every tag that it would remove, and removes nothing unless all may go",
    (sound) => ({ deleteManifest: (repository, reference, { permits: _, ...o } = {}) => sound.deleteManifest(repository, reference, o) }),
  ],
  [
    "knows no protection",
    "what a protected tag reaches is not deleted by digest",
    (sound) => ({ deleteBlob: (repository, digest, { protects: _, ...o } = {}) => sound.deleteBlob(repository, digest, o) }),
  ],
  [
    "does not look at signals",
    "a write whose signal is aborted already rejects with its reason and changes nothing",
    (sound) => ({ deleteBlob: (repository, digest) => sound.deleteBlob(repository, digest) }),
  ],
  [
    "reads the source of a push that it refuses",
    "a malformed name or digest is refused before the source is read",
    (sound) => ({
      async putBlob(repository, expected, source, o) {
        const chunks: Uint8Array[] = [];
        for await (const chunk of source) chunks.push(chunk);
        return sound.putBlob(repository, expected, chunksOf(Buffer.concat(chunks)), o);
      },
    }),
  ],
])("a registry that %s is caught", async (_, caught, fault) => {
  expect(
    await failing((sound) => {
      const broken = fault(sound);
      const { mountBlob = sound.mountBlob } = broken;
      // The copy is another registry than the sound one, which mounts from itself only.
      return {
        ...broken,
        mountBlob: (repository, digest, from, o) => mountBlob(repository, digest, from && { ...from, registry: sound }, o),
      };
    }, caught),
  ).toEqual([caught]);
});

test.each<[keyof RegistryCapabilities, string]>([
  ["push", "pushes are refused before their source is read, and nothing is stored"],
  ["delete", "deletes are refused, and nothing is gone"],
  ["uploads", "upload sessions are refused"],
  ["resume", "an upload is not found again by its id, and the error says so"],
  ["referrers", "referrers that are not had are an empty page or a refusal, and no throw"],
  ["catalog", "a catalog that is not had is an empty page or a refusal, and no throw"],
  ["conditionalPuts", "a conditional put is refused, not made without its condition"],
  ["sha512", "sha512 is refused"],
])("what is declared absent and there all the same is reported: %s", async (capability, told) => {
  const careless = (sound: Registry): Partial<Registry> => ({
    mountBlob: (repository, digest, from, o) => sound.mountBlob(repository, digest, from && { ...from, registry: sound }, o),
    putManifest: (repository, reference, content, { ifMatch: _, ...o } = {}) => sound.putManifest(repository, reference, content, o),
  });
  expect(await failing(careless, told, { [capability]: false })).toEqual([told]);
});
