import { type Descriptor, orThrow } from "oci-manifold";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { caching, down, failing, gate, minutes, whole } from "./support.js";

const page = { limit: 10 };

describe("tags", () => {
  test("are listed as the source lists them, and kept for tagTtl", async () => {
    const { hub, origin, calls, clock } = caching();
    for (const tag of ["1", "2", "3"]) await pushImage(origin, "app", tag, makeImage([]));
    expect(await hub.listTags("app", page)).toMatchObject({
      value: { items: ["1", "2", "3"] },
      served: { member: ["hub"], cache: "miss" },
    });
    await pushImage(origin, "app", "4", makeImage([]));
    await clock.advance(minutes(4));
    expect(await hub.listTags("app", page)).toMatchObject({
      value: { items: ["1", "2", "3"] },
      served: { cache: "hit", age: minutes(4), ttl: minutes(1) },
    });
    expect(calls).toEqual(["listTags app"]);
    await clock.advance(minutes(1));
    expect(orThrow(await hub.listTags("app", page)).items).toEqual(["1", "2", "3", "4"]);
  });

  test("each page is kept on its own", async () => {
    const { hub, origin, calls } = caching();
    for (const tag of ["1", "2", "3"]) await pushImage(origin, "app", tag, makeImage([]));
    for (let attempt = 0; attempt < 2; attempt++) {
      expect(orThrow(await hub.listTags("app", { limit: 2 }))).toMatchObject({ items: ["1", "2"], next: "2" });
      expect(orThrow(await hub.listTags("app", { limit: 2, after: "2" })).items).toEqual(["3"]);
    }
    expect(calls).toEqual(["listTags app", "listTags app"]);
  });

  test("many at once cause one question, and the first may leave", async () => {
    const { hub, origin, calls, answers } = caching();
    await pushImage(origin, "app", "1", makeImage([]));
    const { open, passed } = gate();
    answers(() => passed);
    const leaving = new AbortController();
    const first = hub.listTags("app", page, { signal: leaving.signal });
    const others = Array.from({ length: 10 }, () => hub.listTags("app", page));
    leaving.abort(new Error("gone"));
    await expect(first).rejects.toThrow("gone");
    open();
    for (const other of others) expect(orThrow(await other).items).toEqual(["1"]);
    expect(calls).toEqual(["listTags app"]);
  });

  test.each([
    ["down", down],
    ["refusing", failing("DENIED", "connection refused")],
  ])("while the source is %s are the last list, with a warning", async (_, failure) => {
    const { hub, origin, clock, switchOff } = caching();
    for (const tag of ["1", "2"]) await pushImage(origin, "app", tag, makeImage([]));
    await hub.listTags("app", page);
    switchOff(failure);
    await clock.advance(minutes(6));
    expect(await hub.listTags("app", page)).toMatchObject({
      value: { items: ["1", "2"], warnings: [expect.stringMatching(/may be outdated: connection refused/)] },
      served: { cache: "stale", age: minutes(6), ttl: -minutes(1) },
    });
  });

  test("after a restart are those that are stored here, with a warning", async () => {
    const { hub, origin, switchOff, restart } = caching();
    for (const tag of ["1", "2"]) await pushImage(origin, "app", tag, makeImage([]));
    await hub.listTags("app", page);
    await hub.getManifest("app", "2");
    switchOff();
    expect(orThrow(await restart().listTags("app", page))).toMatchObject({
      items: ["2"],
      warnings: [expect.stringContaining("only what is stored here")],
    });
    expect(await restart().listTags("other", page)).toMatchObject({ kind: "unavailable" });
  });

  test("of a repository that is gone are gone at once when the list is asked for", async () => {
    const { hub, origin, clock, switchOff, switchOn } = caching();
    await pushImage(origin, "app", "1", makeImage([]));
    await hub.listTags("app", page);
    switchOff({ kind: "absent" });
    await clock.advance(minutes(6));
    expect((await hub.listTags("app", page)).kind).toBe("absent");
    switchOff();
    await clock.advance(minutes(1));
    expect((await hub.listTags("app", page)).kind).toBe("unavailable");
    switchOn();
  });
});

describe("referrers", () => {
  async function signed() {
    const all = caching({ referrers: "all" });
    const image = await pushImage(all.origin, "app", "1", makeImage([10]));
    const subject: Descriptor = {
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      digest: image.digest as Descriptor["digest"],
      size: image.manifest.byteLength,
    };
    const signature = makeImage([20], { subject, artifactType: "application/vnd.test.signature" });
    await pushImage(all.origin, "app", "signature", signature);
    await all.origin.deleteManifest("app", "signature");
    return { ...all, image, signature };
  }

  test("are kept for tagTtl, each type on its own", async () => {
    const { hub, calls, clock, image, signature } = await signed();
    const signatures = { ...page, artifactType: "application/vnd.test.signature" };
    for (let attempt = 0; attempt < 2; attempt++) {
      expect(orThrow(await hub.listReferrers("app", image.digest, page)).items.map(({ digest }) => digest)).toEqual([signature.digest]);
      expect(orThrow(await hub.listReferrers("app", image.digest, signatures)).items).toHaveLength(1);
      expect(orThrow(await hub.listReferrers("app", image.digest, { ...page, artifactType: "application/other" })).items).toEqual([]);
    }
    expect(calls).toEqual(Array(3).fill(`listReferrers app ${image.digest}`));
    await clock.advance(minutes(5));
    await hub.listReferrers("app", image.digest, page);
    expect(calls).toHaveLength(4);
  });

  test("none is an answer that counts while the source is down", async () => {
    const { hub, origin, clock, switchOff } = caching();
    const image = await pushImage(origin, "app", "1", makeImage([10]));
    expect(orThrow(await hub.listReferrers("app", image.digest, page)).items).toEqual([]);
    switchOff();
    await clock.advance(minutes(6));
    expect(await hub.listReferrers("app", image.digest, page)).toMatchObject({ value: { items: [] }, served: { cache: "stale" } });
    expect((await hub.listReferrers("app", makeImage().digest, page)).kind).toBe("unavailable");
  });

  test("that came with their image are listed and pulled offline, after a restart too", async () => {
    const { hub, switchOff, restart, image, signature } = await signed();
    await hub.getManifest("app", "1");
    await whole(hub, "app", "1");
    await expect.poll(() => hub.completeness("app", signature.digest).catch(() => undefined)).toMatchObject({ complete: true });
    switchOff();
    const offline = restart();
    expect(orThrow(await offline.listReferrers("app", image.digest, page))).toMatchObject({
      items: [{ digest: signature.digest }],
      warnings: [expect.stringContaining("only what is stored here")],
    });
    orThrow(await offline.getManifest("app", signature.digest));
  });
});

describe("repositories", () => {
  test("are the source's and those that were pulled, as some sources have no catalog", async () => {
    const { hub, origin, answers } = caching();
    await pushImage(origin, "app", "1", makeImage([]));
    await pushImage(origin, "other", "1", makeImage([]));
    await hub.getManifest("app", "1");
    expect(orThrow(await hub.listRepositories(page)).items).toEqual(["app", "other"]);
    answers(({ text }) => (text === "listRepositories" ? failing("UNSUPPORTED", "no catalog") : undefined));
    expect(orThrow(await hub.listRepositories(page))).toMatchObject({ items: ["app"], warnings: [expect.stringContaining("no catalog")] });
  });
});
