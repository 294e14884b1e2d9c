import fc from "fast-check";
import { filtered, localRegistry, type Registry } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { expect, test } from "vitest";
import { type Image, makeImage, makeIndex, pushBlobs, pushImage } from "../fixtures/images.js";

interface World {
  readonly registry: Registry;
  readonly images: readonly Image[];
  readonly index: { readonly bytes: Uint8Array; readonly digest: string };
  /** Tag to digest. */
  readonly tags: ReadonlyMap<string, string>;
}

/** Three images under versions, two of them also in an index. Each manifest leads to its own blobs. */
async function world(): Promise<World> {
  const registry = localRegistry({ storage: memoryStorage(), name: "r" });
  const images = [makeImage([1]), makeImage([2]), makeImage([3])];
  const tags = new Map<string, string>();
  for (const [at, image] of images.entries()) {
    await pushBlobs(registry, "app", image);
    await pushImage(registry, "app", `1.${at}`, image);
    tags.set(`1.${at}`, image.digest);
  }
  const index = makeIndex(images.slice(1));
  await registry.putManifest("app", "2.0", { bytes: index.bytes });
  tags.set("2.0", index.digest);
  return { registry, images, index, tags };
}

const leadsTo = ({ images, index }: World, digest: string): readonly string[] => {
  if (digest === index.digest) return images.slice(1).map((image) => image.digest);
  const image = images.find((one) => one.digest === digest);
  return image ? [...image.blobs.keys()] : [];
};

const rules = fc.record({
  allow: fc.subarray(["app:1.0", "app:1.*", "app:{>=2}", "app:{>=1.1}", "app"]),
  block: fc.subarray(["app:1.1", "app:{2.0}", "other"]),
});
const step = fc.record({
  how: fc.constantFrom("get tag", "head tag", "get digest", "head digest", "head blob", "get blob"),
  which: fc.nat({ max: 3 }),
});

function permits({ allow, block }: { allow: readonly string[]; block: readonly string[] }, tag: string): boolean {
  const matching: Record<string, (tag: string) => boolean> = {
    app: () => true,
    "app:1.0": (name) => name === "1.0",
    "app:1.1": (name) => name === "1.1",
    "app:1.*": (name) => name.startsWith("1."),
    "app:{>=2}": (name) => name === "2.0",
    "app:{2.0}": (name) => name === "2.0",
    "app:{>=1.1}": (name) => name !== "1.0",
    other: () => false,
  };
  return allow.some((pattern) => matching[pattern]?.(tag)) && !block.some((pattern) => matching[pattern]?.(tag));
}

test("by digest exactly that is visible which permitted tags, and what they led to, have led to", async () => {
  const made = await world();
  const tags = [...made.tags.keys()];
  const digests = [...made.images.map(({ digest }) => digest), made.index.digest];
  await fc.assert(
    fc.asyncProperty(rules, fc.array(step, { maxLength: 15 }), async (filter, steps) => {
      const view = filtered(made.registry, filter);
      const open = filter.allow.includes("app") && !filter.block.some((pattern) => pattern.startsWith("app"));
      const reached = new Set<string>();
      const sees = (digest: string) => open || reached.has(digest);
      for (const { how, which } of steps) {
        const [tag = "", digest = ""] = [tags[which], digests[which]];
        const blob = made.images[which % 3]?.config.digest ?? "";
        const led = (manifest: string, whole: boolean) => {
          reached.add(manifest);
          if (whole) for (const next of leadsTo(made, manifest)) reached.add(next);
        };
        const at = made.tags.get(tag) ?? "";
        const [answer, expected] = await (async () => {
          switch (how) {
            case "get tag":
              return [await view.getManifest("app", tag), permits(filter, tag)];
            case "head tag":
              return [await view.resolveManifest("app", tag), permits(filter, tag)];
            case "get digest":
              return [await view.getManifest("app", digest), sees(digest)];
            case "head digest":
              return [await view.resolveManifest("app", digest), sees(digest)];
            case "head blob":
              return [await view.resolveBlob("app", blob), sees(blob)];
            default:
              return [await view.getBlob("app", blob), sees(blob)];
          }
        })();
        expect([how, which, answer.kind]).toEqual([how, which, expected ? "found" : "absent"]);
        if (expected && how.endsWith("tag")) led(at, how === "get tag");
        if (expected && how.endsWith("digest")) led(digest, how === "get digest");
      }
    }),
    { numRuns: 400 },
  );
});
