import { randomBytes } from "node:crypto";
import { aggregate, cached, type Registry, remoteRegistry, routes } from "oci-manifold";
import { viaHeader } from "oci-manifold/extend";
import { firstFound, strict } from "oci-manifold/resolvers";
import { memoryStorage } from "oci-manifold/storage/memory";
import { type FakeClock, fakeClock } from "oci-manifold/testing";
import { expect, onTestFinished, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { type Site, site } from "../http/support.js";
import { joined, store } from "./support.js";

const marks = (count: number) => Array.from({ length: count }, () => randomBytes(16).toString("base64url")).join(", ");
const forged = [29, 30, 31, 32];

function over(served: Site): Registry {
  const remote = remoteRegistry(served.url, { name: "up" });
  onTestFinished(() => remote.close({ deadline: "1ms" }));
  return remote;
}

interface Chain {
  readonly clock: FakeClock;
  /** What the last registry has. */
  readonly digest: string;
  readonly layer: string;
  ask(path: string, count?: number, method?: string): Promise<{ status: number; digest: string | null; text: string }>;
}

/**
 * A cache asks a middle aggregate over HTTP, and that one the last one. The middle goes on where the last one fails, to a registry that has either nothing or
 * something else under the same names.
 */
async function chain(otherwise: "nothing" | "another image"): Promise<Chain> {
  const clock = fakeClock();
  const last = joined([]);
  const image = await pushImage(last, "app", "1", makeImage([40_000]));
  await pushImage(last, "app", "0", image);
  const other = store("other");
  if (otherwise === "another image") for (const tag of ["1", "2"]) await pushImage(other, "app", tag, makeImage([50]));
  const middle = aggregate({
    local: store("middle"),
    connectors: [
      { name: "last", source: over(await site(last)), onFailure: "next" },
      { name: "other", source: other, onFailure: "next" },
    ],
  });
  const hub = cached(over(await site(middle)), { storage: memoryStorage(), name: "hub", clock });
  const front = await site(routes({ hub }));
  const [layer] = image.layers;
  if (!layer) throw new Error("no layer");
  return {
    clock,
    digest: image.digest,
    layer: layer.digest,
    async ask(path, count = 0, method = "GET") {
      const response = await front.fetch(`/v2/hub/app/${path}`, { method, headers: count > 0 ? { [viaHeader]: marks(count) } : {} });
      return { status: response.status, digest: response.headers.get("docker-content-digest"), text: await response.text() };
    },
  };
}

const layouts = (["nothing", "another image"] as const).flatMap((otherwise) => [true, false].map((stored) => [otherwise, stored] as const));

test.each(layouts)(
  "marks that a client made up change no tag for others: the next member has %s, stored before: %s",
  async (otherwise, stored) => {
    const { ask, clock, digest } = await chain(otherwise);
    for (const count of forged) {
      if (stored) expect((await ask("manifests/1")).digest).toBe(digest);
      await clock.advance(10 * 60_000);
      const { status } = await ask("manifests/1", count);
      expect([200, 503]).toContain(status);
      expect(await ask("manifests/1")).toMatchObject({ status: 200, digest });
    }
  },
);

test.each(["nothing", "another image"] as const)("nor do they hide a layer or a list: the next member has %s", async (otherwise) => {
  for (const count of forged) {
    const { ask, layer, digest } = await chain(otherwise);
    for (const path of [`blobs/${layer}`, `manifests/${digest}`]) {
      for (const method of ["HEAD", "GET"]) await ask(path, count, method);
      expect([count, (await ask(path, 0, "HEAD")).status, (await ask(path)).status]).toEqual([count, 200, 200]);
    }
    await ask("tags/list", count);
    expect(JSON.parse((await ask("tags/list")).text)).toEqual({
      name: "hub/app",
      tags: otherwise === "nothing" ? ["0", "1"] : ["0", "1", "2"],
    });
  }
});

test("nor do they change whom a name belongs to", async () => {
  const last = joined([]);
  const image = await pushImage(last, "app", "1");
  const other = store("other");
  await pushImage(other, "app", "1");
  const connectors = [
    { name: "last", source: last, onFailure: "next" as const },
    { name: "other", source: other },
  ];
  for (const resolver of [firstFound, strict]) {
    const all = joined(connectors, { sticky: "refuse", resolver });
    const via = marks(31).split(", ");
    expect(await all.resolveManifest("app", "1", { via })).toMatchObject({ kind: "unavailable", error: { detail: { loop: true } } });
    // The same question, by marks that are known: the loop is a real one, and the search goes on as the connector says.
    expect((await all.resolveManifest("app", "1", { via, knownVia: via })).kind).toBe("found");
    expect((await all.resolveManifest("app", image.digest, { via })).kind).toBe("unavailable");
  }
  const fresh = joined(connectors, { sticky: "refuse" });
  await fresh.resolveManifest("app", "1", { via: marks(31).split(", ") });
  expect(await fresh.resolveManifest("app", "1")).toMatchObject({ kind: "found", value: { digest: image.digest } });
});
