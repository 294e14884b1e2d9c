import { expect, it, onTestFinished, vi } from "vitest";
import { type GoogleArtifactRegistryOptions, googleArtifactRegistry } from "../../../src/remote/presets/google-artifact-registry.js";
import { foundIn, seen, upstreamFor } from "../support.js";

async function googleFor(username: string, password: string, options: GoogleArtifactRegistryOptions) {
  const upstream = await upstreamFor({ auth: { kind: "bearer", username, password } });
  const registry = googleArtifactRegistry(upstream.url, options);
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  return { upstream, registry };
}

it("logs in with an access token, asked for with each token request", async () => {
  const accessToken = vi.fn(async () => "ya29.token");
  const { upstream, registry } = await googleFor("oauth2accesstoken", "ya29.token", { accessToken });
  for (const name of ["p/r/a", "p/r/b"]) upstream.addImage(name, "1");
  for (const name of ["p/r/a", "p/r/b", "p/r/a"]) foundIn(await registry.getManifest(name, "1"));
  expect(accessToken).toHaveBeenCalledTimes(2);
});

it("logs in with a service account's key", async () => {
  const jsonKey = '{"type":"service_account"}';
  const { upstream, registry } = await googleFor("_json_key", jsonKey, { jsonKey });
  upstream.addImage("p/r/a", "1");
  foundIn(await registry.getManifest("p/r/a", "1"));
});

it("pages lists that come in one piece, in another order, and with much else", async () => {
  const { upstream, registry } = await googleFor("_json_key", "x", { jsonKey: "x" });
  const manifest = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`sha256:${i}`, { tag: [`x${i}`], imageSizeBytes: "1" }]));
  upstream.intercept = ({ url, headers }) =>
    url.includes("/tags/list") && headers.authorization
      ? { status: 200, body: JSON.stringify({ child: ["q"], manifest, name: "p/r/a", tags: ["c", "a", "b"] }) }
      : undefined;
  expect(foundIn(await registry.listTags("p/r/a", { limit: 2 }))).toEqual({ items: ["a", "b"], next: "b" });
  expect(foundIn(await registry.listTags("p/r/a", { limit: 2, after: "b" }))).toEqual({ items: ["c"] });
  expect(seen(upstream).filter((request) => request.includes("last="))).toEqual([]);
});

it("takes one kind of credentials", () => {
  expect(() => googleArtifactRegistry("europe-docker.pkg.dev", { accessToken: () => "", jsonKey: "{}" })).toThrow("one of");
});
