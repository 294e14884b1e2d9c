import { aggregate, type Connector, cached, type Lookup, localRegistry, mediaTypes, type Registry, RegistryError } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { absent, found, permanentlyDenied } from "../../src/core/lookup.js";
import { makeIndex } from "../fixtures/images.js";
import { overriding, site } from "../http/support.js";

const local = (name: string) => localRegistry({ storage: memoryStorage(), name });
const answering = (name: string, lookup: Lookup<never>): Registry =>
  overriding(local(name), { resolveManifest: async () => lookup, getManifest: async () => lookup });
const tooLarge = permanentlyDenied("up: manifest 1 of app", "it is larger than 4194304 bytes");
const down: Lookup<never> = { kind: "unavailable", error: new RegistryError("UNAVAILABLE", "down", { retryAfter: 7 }) };
const { bytes, digest } = makeIndex([]);
const having = async (name: string): Promise<Registry> => {
  const registry = local(name);
  await registry.putManifest("app", "1", { bytes });
  return registry;
};
const all = (...connectors: Connector[]) => aggregate({ local: local("all"), connectors });
const permanent = {
  kind: "denied",
  permanent: true,
  error: { status: 400, retryAfter: undefined, message: expect.stringContaining("larger than 4194304 bytes") },
};

describe("a permanent failure of a member", () => {
  test("ends a search by tag, as a transient one does, and is what is answered", async () => {
    const both = all({ name: "up", source: answering("up", tooLarge) }, { name: "other", source: await having("other") });
    expect(await both.getManifest("app", "1")).toMatchObject(permanent);
    expect(await both.resolveManifest("app", "1")).toMatchObject(permanent);
  });

  test("does not where its connector says so, and is the answer where nobody else has the tag", async () => {
    const next = { name: "up", source: answering("up", tooLarge), onFailure: "next" } as const;
    expect((await all(next, { name: "other", source: await having("other") }).getManifest("app", "1")).kind).toBe("found");
    expect(await all(next, { name: "other", source: local("other") }).getManifest("app", "1")).toMatchObject(permanent);
  });

  test("by digest is the answer where every other member says absent, and no failure where one has it", async () => {
    const up = { name: "up", source: answering("up", tooLarge) };
    expect(await all(up, { name: "other", source: answering("other", absent) }).getManifest("app", digest)).toMatchObject(permanent);
    expect((await all(up, { name: "other", source: await having("other") }).getManifest("app", digest)).kind).toBe("found");
  });

  test("beside a transient one is transient: the other may have it", async () => {
    const lookup = await all(
      { name: "up", source: answering("up", tooLarge) },
      { name: "other", source: answering("other", down) },
    ).getManifest("app", digest);
    expect(lookup).toMatchObject({ kind: "unavailable", error: { status: 503, retryAfter: 7 } });
  });

  test("is told to clients with its reason and without its place, and without Retry-After", async () => {
    const { fetch } = await site(all({ name: "up", source: answering("up", tooLarge) }));
    const response = await fetch("/v2/app/manifests/1");
    expect([response.status, response.headers.get("retry-after")]).toEqual([400, null]);
    expect(await response.json()).toEqual({
      errors: [
        { code: "UNSUPPORTED", message: "it is larger than 4194304 bytes", detail: { permanent: "it is larger than 4194304 bytes" } },
      ],
    });
  });
});

describe("a source whose tag can be read and whose digest cannot", () => {
  /** As a replica that lags behind, or a registry that converts. */
  const lagging = (byTag: Lookup<never> | undefined, body = bytes): Registry => {
    const descriptor = { mediaType: mediaTypes.ociIndex, digest: digestOf(body), size: body.byteLength };
    return overriding(local("lagging"), {
      resolveManifest: async (_, reference) => (reference === "1" ? found(descriptor, { member: ["lagging"] }) : absent),
      getManifest: async (_, reference) =>
        reference === "1" ? (byTag ?? found({ descriptor, bytes: body }, { member: ["lagging"] })) : absent,
    });
  };
  const behind = async (source: Registry) => {
    const hub = cached(source, { storage: memoryStorage(), name: "hub", tagTtl: "0s" });
    const other = local("other");
    await other.putManifest("app", "1", { bytes: makeIndex([], { annotations: { of: "other" } }).bytes });
    return { hub, both: all({ name: "hub", source: hub }, { name: "other", source: other }) };
  };

  test("is read by its tag, and no other member's image is served in its place", async () => {
    const { both } = await behind(lagging(undefined));
    expect(await both.getManifest("app", "1")).toMatchObject({ kind: "found", value: { descriptor: { digest } } });
  });

  test("is not absent where it gives neither", async () => {
    const { both } = await behind(lagging(absent));
    expect(await both.getManifest("app", "1")).toMatchObject({ kind: "unavailable" });
  });

  test("says for good what it gives for good, as schema 1", async () => {
    const { both } = await behind(lagging(permanentlyDenied("lagging", "it is a manifest of schema 1")));
    expect(await both.getManifest("app", "1")).toMatchObject({ kind: "denied", permanent: true });
  });

  test("is served stale from what is stored of an older image", async () => {
    let now = lagging(undefined);
    const changing = overriding(local("lagging"), {
      resolveManifest: (...call) => now.resolveManifest(...call),
      getManifest: (...call) => now.getManifest(...call),
    });
    const { hub } = await behind(changing);
    expect((await hub.getManifest("app", "1")).kind).toBe("found");
    now = lagging(absent, makeIndex([], { annotations: { newer: "yes" } }).bytes);
    expect(await hub.getManifest("app", "1")).toMatchObject({
      kind: "found",
      value: { descriptor: { digest } },
      served: { cache: "stale" },
    });
  });
});
