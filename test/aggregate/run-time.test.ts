import { aggregate, orThrow, type Registry, type UploadSession } from "oci-manifold";
import { contentChunks, digestOf } from "oci-manifold/extend";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { spied } from "../fixtures/spy.js";
import { recorder } from "../http/support.js";
import { joined, store } from "./support.js";

const closable = (registry: Registry) => {
  let closed = 0;
  const watched: Registry = {
    ...registry,
    async close(o) {
      closed++;
      await registry.close(o);
    },
  };
  return { registry: watched, closed: () => closed };
};

describe("connectors change while the aggregate runs", () => {
  test("added, reordered, reconfigured and removed, for every method at once", async () => {
    const [a, b] = [store("a"), store("b")];
    const [first, second] = [await pushImage(a, "app", "1"), await pushImage(b, "app", "1")];
    const all = joined([], { sticky: "off" });
    await all.ready();
    const served = async () => {
      const lookup = await all.resolveManifest("app", "1");
      return lookup.kind === "found" ? lookup.value.digest : lookup.kind;
    };
    expect(await served()).toBe("absent");
    const [toA, toB] = [
      { name: "a", source: a },
      { name: "b", source: b },
    ];
    await all.setConnectors([toA]);
    expect([await served(), all.connectors.map(({ name }) => name)]).toEqual([first.digest, ["a"]]);
    expect((await all.resolveBlob("app", second.config.digest)).kind).toBe("absent");
    await all.setConnectors([toB, toA]);
    expect(await served()).toBe(second.digest);
    expect((await all.resolveBlob("app", second.config.digest)).kind).toBe("found");
    await all.setConnectors([{ ...toB, block: ["app"] }, toA]);
    expect(await served()).toBe(first.digest);
    await all.setConnectors([]);
    expect(await served()).toBe("absent");
    expect(orThrow(await all.listRepositories({ limit: 10 })).items).toEqual([]);
    await all.close();
  });

  test.each([
    ["a duplicate", [{ name: "b" }, { name: "b" }], "NAME_INVALID"],
    ["a bad pattern", [{ name: "b", allow: ["Upper"] }], "NAME_INVALID"],
    ["the aggregate's own name", [{ name: "local" }], "NAME_INVALID"],
    ["a name that meant another", [{ name: "a" }], "DENIED"],
  ])("%s changes nothing", async (_, wanted, code) => {
    const a = store("a");
    const image = await pushImage(a, "app", "1");
    const all = joined([{ name: "a", source: a }]);
    await all.ready();
    const other = store("other");
    await expect(all.setConnectors(wanted.map((connector) => ({ ...connector, source: other })))).rejects.toMatchObject({ code });
    expect(orThrow(await all.resolveManifest("app", "1")).digest).toBe(image.digest);
    expect(all.connectors).toHaveLength(1);
    await all.close();
  });

  test("a source that is not ready changes nothing", async () => {
    const all = joined([]);
    const broken: Registry = { ...store("broken"), ready: () => Promise.reject(new Error("unwritable")) };
    await expect(all.setConnectors([{ name: "broken", source: broken }])).rejects.toThrow("unwritable");
    expect(all.connectors).toEqual([]);
    await all.close();
  });

  test("a removed source is closed after running operations and transfers, one that stays is not", async () => {
    const clock = fakeClock();
    const [gone, stays] = [closable(store("gone")), closable(store("stays"))];
    const image = await pushImage(gone.registry, "app", "1", makeImage([200_000]));
    const toGone = { name: "gone", source: gone.registry };
    const toStays = { name: "stays", source: stays.registry };
    const all = joined([toGone, toStays], { clock });
    const digest = image.layers[0]?.digest ?? "";
    const { content } = orThrow(await all.getBlob("app", digest));
    if (content.kind !== "stream") throw new Error("a large layer is a stream");
    const stream = content.open();
    await all.setConnectors([toStays]);
    await clock.advance(60_000);
    expect([gone.closed(), stays.closed()]).toEqual([0, 0]);
    const chunks: Uint8Array[] = [];
    for await (const chunk of stream) chunks.push(chunk);
    expect(digestOf(Buffer.concat(chunks))).toBe(digest);
    await clock.advance(1);
    expect([gone.closed(), stays.closed()]).toEqual([1, 0]);
    await all.close();
    expect([gone.closed(), stays.closed()]).toEqual([1, 1]);
  });

  test("what was answered before the change can still be opened for a while; close gives up what waits", async () => {
    const clock = fakeClock();
    const gone = closable(store("gone"));
    const image = await pushImage(gone.registry, "app", "1", makeImage([200_000]));
    const all = joined([{ name: "gone", source: gone.registry }], { clock });
    const digest = image.layers[0]?.digest ?? "";
    const { content } = orThrow(await all.getBlob("app", digest));
    await all.setConnectors([]);
    await clock.advance(20_000);
    for await (const _ of contentChunks(content));
    expect(gone.closed()).toBe(0);
    await all.close();
    expect(gone.closed()).toBe(1);
  });

  test("a call that has begun asks the members it began with", async () => {
    const slow = store("slow");
    let answer: (value: { kind: "absent" }) => void = () => {};
    const waiting: Registry = { ...slow, resolveManifest: () => new Promise((resolve) => (answer = resolve)) };
    const { registry: next, calls } = spied(store("next"));
    const all = joined([
      { name: "slow", source: waiting },
      { name: "next", source: next },
    ]);
    const asked = all.resolveManifest("app", "1");
    await new Promise((resolve) => setImmediate(resolve));
    await all.setConnectors([]);
    calls.length = 0;
    answer({ kind: "absent" });
    expect((await asked).kind).toBe("absent");
    expect(calls).toEqual(["resolveManifest app 1"]);
    await all.close();
  });

  test("changes happen one after the other; an upload that runs is not touched", async () => {
    const all = aggregate({ local: store("own"), connectors: [], events: recorder() });
    const upload: UploadSession = await all.startUpload("app");
    const sources = ["a", "b", "c"].map((name) => ({ name, source: store(name) }));
    await Promise.all(sources.map((_, index) => all.setConnectors(sources.slice(0, index + 1))));
    expect(all.connectors.map(({ name }) => name)).toEqual(["a", "b", "c"]);
    await upload.append(
      (async function* () {
        yield Buffer.from("x");
      })(),
    );
    await upload.commit(digestOf(Buffer.from("x")));
    await all.close();
    await expect(all.setConnectors([])).rejects.toThrow("closed");
  });
});
