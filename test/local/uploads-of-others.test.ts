import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { localRegistry } from "oci-manifold";
import { type BlobStore, chunksOf, digestOf, type Staged } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { eventually } from "../fixtures/read.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

test("an upload that was begun here and ended by another process is not kept in memory", async () => {
  const { blobs, metadata } = memoryStorage();
  const clock = fakeClock();
  const staged: WeakRef<Staged>[] = [];
  const watched: BlobStore = {
    ...blobs,
    async stage(id) {
      const its = await blobs.stage(id);
      const seen = new Proxy(its, {
        get(target, property) {
          const value: unknown = Reflect.get(target, property, target);
          return typeof value === "function" ? value.bind(target) : value;
        },
      });
      staged.push(new WeakRef(seen));
      return seen;
    },
  };
  const here = localRegistry({ storage: { blobs: watched, metadata }, name: "release", clock });
  const there = localRegistry({ storage: { blobs, metadata }, name: "release", clock });
  const bytes = Buffer.from("a layer");
  const begun = await here.startUpload("app");
  await begun.append(chunksOf(bytes));
  await (await there.resumeUpload("app", begun.id)).commit(digestOf(bytes));
  expect(await here.resolveBlob("app", digestOf(bytes))).toMatchObject({ kind: "found" });
  await clock.advance(11 * 60_000);
  // A start is the occasion for a look at what became of uploads; the first to look removes what is over.
  await there.startUpload("app");
  await here.startUpload("app");
  await eventually(async () => {
    collectGarbage();
    return staged[0]?.deref() === undefined;
  }, "forgotten");
});
