import { aggregate, filtered, localRegistry, orThrow } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { makeImage, pushImage } from "../fixtures/images.js";
import { gate, minutes, settled, warmed } from "./support.js";

describe("refresh", () => {
  test("asks however fresh the tag is, and answers what is there now", async () => {
    const { hub, origin, calls } = await warmed();
    const next = await pushImage(origin, "app", "1", makeImage([50]));
    expect(await hub.refresh("app", "1")).toMatchObject({ kind: "found", value: { digest: next.digest } });
    expect(calls.slice(0, 2)).toEqual(["resolveManifest app 1", `getManifest app ${next.digest}`]);
    expect(orThrow(await hub.getManifest("app", "1")).descriptor.digest).toBe(next.digest);
  });

  test("goes through an aggregate and a filter as an option of the call", async () => {
    const { hub, origin, image } = await warmed();
    const shown = aggregate({
      local: localRegistry({ storage: memoryStorage(), name: "local" }),
      connectors: [{ name: "hub", source: filtered(hub, { allow: ["app"] }) }],
    });
    expect(orThrow(await shown.resolveManifest("app", "1")).digest).toBe(image.digest);
    const next = await pushImage(origin, "app", "1", makeImage([50]));
    expect(orThrow(await shown.resolveManifest("app", "1")).digest).toBe(image.digest);
    expect(orThrow(await shown.resolveManifest("app", "1", { refresh: true })).digest).toBe(next.digest);
  });

  test("does not take the answer to a question that was asked before it", async () => {
    const { hub, origin, clock, answers, calls, image } = await warmed();
    await clock.advance(minutes(6));
    const requests = gate();
    const answered = gate();
    answers(async ({ text }) => {
      if (text !== "resolveManifest app 1" || calls.length > 1) return undefined;
      const before = orThrow(await origin.resolveManifest("app", "1"));
      requests.open();
      await answered.passed;
      return { kind: "found", value: before as never, served: { member: ["origin"] } };
    });
    const pull = hub.getManifest("app", "1");
    await requests.passed;
    const next = await pushImage(origin, "app", "1", makeImage([60]));
    const refreshed = [hub.refresh("app", "1"), hub.refresh("app", "1")];
    await settled();
    answered.open();
    expect(orThrow(await pull).descriptor.digest).toBe(image.digest);
    for (const one of refreshed) expect(orThrow(await one).digest).toBe(next.digest);
    expect(calls.filter((call) => call === "resolveManifest app 1")).toHaveLength(2);
    expect(orThrow(await hub.getManifest("app", "1")).descriptor.digest).toBe(next.digest);
  });

  test("of a source that cannot be asked says so and changes nothing", async () => {
    const { hub, switchOff, image } = await warmed();
    switchOff();
    expect(await hub.refresh("app", "1")).toMatchObject({ value: { digest: image.digest }, served: { cache: "stale" } });
    expect(await hub.getManifest("app", "1")).toMatchObject({ served: { cache: "hit" } });
  });
});
