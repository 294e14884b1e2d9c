import { expect, it, onTestFinished } from "vitest";
import { ghcr } from "../../../src/remote/presets/ghcr.js";
import { errorOf, foundIn, upstreamFor } from "../support.js";

it("is ghcr.io, whose token endpoint refuses what is absent and what is private alike", async () => {
  const upstream = await upstreamFor({ auth: { kind: "bearer" } });
  upstream.addImage("team/app", "1");
  upstream.intercept = ({ url }) => (url.startsWith("/token") && url.includes("private") ? { status: 403 } : undefined);
  const registry = ghcr({ url: upstream.url });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  expect(await registry.resolveManifest("team/app", "1")).toMatchObject({ kind: "found", served: { member: ["ghcr.io"] } });
  const refused = await registry.resolveManifest("team/private", "1");
  expect(refused.kind).toBe("denied");
  expect(errorOf(refused).message).toBe(
    "ghcr.io: token request: refused with 403; it does not exist there or these credentials may not read it",
  );
});

it("has no catalog, and asks for none", async () => {
  const upstream = await upstreamFor();
  const registry = ghcr({ url: upstream.url });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  expect(foundIn(await registry.listRepositories({ limit: 10 })).warnings).toEqual([
    "this list is not complete: ghcr.io does not list its repositories",
  ]);
  expect(upstream.requests).toEqual([]);
});

it("is at its host unless `url` says otherwise", async () => {
  const registry = ghcr();
  expect(registry.identity).toBe("https://ghcr.io");
  await registry.close();
});
