import { describe, expect, it, onTestFinished } from "vitest";
import type { UpstreamLimits } from "../../../src/remote/limits/upstream-limits.js";
import { dockerHub } from "../../../src/remote/presets/docker-hub.js";
import { fakeClock } from "../../../src/testing/fake-clock.js";
import { errorOf, foundIn, remoteFor, seen, upstreamFor } from "../support.js";

/** An upstream with Docker Hub's headers; `left` may be set. */
async function counting(options: UpstreamLimits = { quotaReserve: 0.05 }) {
  const clock = fakeClock();
  const upstream = await upstreamFor();
  const image = upstream.addImage("library/a", "1");
  const numbers = { left: 76 };
  upstream.intercept = ({ url }) =>
    url.includes("/manifests/")
      ? {
          headers: {
            "ratelimit-limit": "100;w=21600",
            "ratelimit-remaining": `${numbers.left};w=21600`,
            "docker-ratelimit-source": "192.0.2.1",
          },
        }
      : undefined;
  return { clock, upstream, image, numbers, registry: remoteFor(upstream, { clock, ...options }) };
}

describe("a pull limit", () => {
  it("is read from answers, and holds as long as its window", async () => {
    const { registry, clock } = await counting();
    expect(registry.status().urls[0]?.quota).toBeUndefined();
    await registry.resolveManifest("library/a", "1");
    expect(registry.status().urls[0]?.quota).toEqual({ limit: 100, remaining: 76, windowSeconds: 21_600, source: "192.0.2.1" });
    await clock.advance(21_600_000);
    expect(registry.status().urls[0]?.quota).toBeUndefined();
  });

  it("is not used up: manifests are not fetched until there is more, all else is", async () => {
    const { registry, upstream, image, numbers, clock } = await counting();
    const layer = image.layers[0]?.digest ?? "";
    numbers.left = 6;
    foundIn(await registry.getManifest("library/a", "1"));
    numbers.left = 5;
    foundIn(await registry.getManifest("library/a", "1"));
    upstream.requests.length = 0;
    const refused = errorOf(await registry.getManifest("library/a", "1"));
    expect(refused).toMatchObject({ code: "TOOMANYREQUESTS", retryAfter: 216, message: expect.stringContaining("5 of 100") });
    expect(upstream.requests).toHaveLength(0);
    foundIn(await registry.getBlob("library/a", layer));
    foundIn(await registry.listTags("library/a", { limit: 1 }));
    await clock.advance(100_000);
    numbers.left = 4;
    foundIn(await registry.resolveManifest("library/a", "1"));
    expect(errorOf(await registry.getManifest("library/a", "1")).retryAfter).toBe(432);
    await clock.advance(432_000);
    numbers.left = 6;
    foundIn(await registry.getManifest("library/a", "1"));
    expect(seen(upstream).filter((request) => request.startsWith("GET /v2/library/a/manifests/"))).toHaveLength(1);
  });

  it("is open again as soon as a HEAD says so", async () => {
    const { registry, numbers } = await counting();
    numbers.left = 0;
    await registry.resolveManifest("library/a", "1");
    expect((await registry.getManifest("library/a", "1")).kind).toBe("unavailable");
    numbers.left = 50;
    await registry.resolveManifest("library/a", "1");
    foundIn(await registry.getManifest("library/a", "1"));
  });

  it("has no reserve by default, a twentieth at Docker Hub", async () => {
    const { registry, numbers, upstream, clock } = await counting({});
    numbers.left = 1;
    for (let asked = 0; asked < 2; asked++) foundIn(await registry.getManifest("library/a", "1"));
    const hub = dockerHub({ url: upstream.url, clock });
    onTestFinished(() => hub.close({ deadline: "1ms" }));
    foundIn(await hub.getManifest("a", "1"));
    expect(errorOf(await hub.getManifest("a", "1")).code).toBe("TOOMANYREQUESTS");
  });

  it.each([
    { "ratelimit-limit": "100", "ratelimit-remaining": "0" },
    { "ratelimit-limit": "100;w=21600" },
    { "ratelimit-limit": "many;w=21600", "ratelimit-remaining": "0;w=21600" },
    { "ratelimit-limit": "100;w=21600", "ratelimit-remaining": "-1" },
  ])("in other headers, as %j, is none", async (headers) => {
    const { registry, upstream } = await counting();
    upstream.intercept = () => ({ headers });
    for (let asked = 0; asked < 2; asked++) foundIn(await registry.getManifest("library/a", "1"));
    expect(registry.status().urls[0]?.quota).toBeUndefined();
  });
});
