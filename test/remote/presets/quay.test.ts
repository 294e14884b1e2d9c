import { expect, it, onTestFinished } from "vitest";
import { quay } from "../../../src/remote/presets/quay.js";
import { foundIn, seen, upstreamFor } from "../support.js";

const login = { username: "team+robot", password: "pass" };
/** What Quay's token endpoint takes; anything else is answered 400. */
const known = /^repository:[^:]+:(push|pull|\*)(,(push|pull|\*))*$/;

async function quayFor() {
  const upstream = await upstreamFor({ auth: { kind: "bearer", ...login } });
  const registry = quay({ url: upstream.url, credentials: login, readOnly: false });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  const challenge = { status: 401, headers: { "www-authenticate": `Bearer realm="${upstream.url}/token",service="quay"` } };
  upstream.intercept = ({ url, headers }) => {
    const asked = new URL(url, upstream.url);
    if (asked.pathname === "/token")
      return asked.searchParams.getAll("scope").every((scope) => known.test(scope)) ? undefined : { status: 400 };
    // Without a scope, so that the remote has to know one.
    if (!headers.authorization) return challenge;
    if (asked.pathname === "/v2/_catalog") return { status: 200, body: '{"repositories":["team/app"]}' };
    return asked.pathname.includes("/manifests/") ? { status: 202 } : undefined;
  };
  return { upstream, registry };
}

it("is asked for no scope that Quay refuses: to delete, and for the catalog", async () => {
  const { upstream, registry } = await quayFor();
  await registry.deleteManifest("team/app", `sha256:${"0".repeat(64)}`);
  expect(foundIn(await registry.listRepositories({ limit: 10 })).items).toEqual(["team/app"]);
  const tokens = seen(upstream).filter((request) => request.includes("/token"));
  expect(tokens.slice(1)).toEqual(["GET /token?service=quay&scope=repository%3Ateam%2Fapp%3Apull%2Cpush", "GET /token?service=quay"]);
});

it("pages by next_page and by age: the whole list is read and sorted", async () => {
  const { upstream, registry } = await quayFor();
  const pages: Record<string, string[]> = { first: ["v2", "v1"], "gAAAA=": ["v10", "latest"] };
  upstream.intercept = ({ url }) => {
    const asked = new URL(url, upstream.url);
    if (!asked.pathname.includes("/tags/list")) return undefined;
    const page = asked.searchParams.get("next_page") ?? "first";
    // An absolute URL; and what `last` does not hold a token of its own, Quay ignores.
    const link = `<${upstream.url}${asked.pathname}?n=2&next_page=gAAAA%3D>; rel="next"`;
    return { status: 200, headers: page === "first" ? { link } : {}, body: JSON.stringify({ name: "team/app", tags: pages[page] }) };
  };
  // Asked for what comes after the last page, it gives the first one again.
  const warnings = [expect.stringMatching(/^this list may not be complete: .* gives the same tags of team\/app again$/)];
  expect(foundIn(await registry.listTags("team/app", { limit: 3 }))).toEqual({ items: ["latest", "v1", "v10"], next: "v10", warnings });
  expect(foundIn(await registry.listTags("team/app", { limit: 3, after: "v10" }))).toEqual({ items: ["v2"], warnings });
});

it("is at quay.io unless `url` says otherwise", async () => {
  const registry = quay();
  expect(registry.identity).toBe("https://quay.io");
  await registry.close();
});
