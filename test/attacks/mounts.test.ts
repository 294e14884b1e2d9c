import { type AggregateRegistry, aggregate, filtered, localRegistry, readOnly, renamed, routes, tagRules } from "oci-manifold";
import { prefixed } from "oci-manifold/names";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { makeImage } from "../fixtures/images.js";
import { type Answer, fronts, type Stack, type StackOptions, stack } from "./stack.js";

const nothing = `sha256:${"0".repeat(64)}`;

/** The answer without what differs from one upload session to the next. */
function shapeOf({ status, headers }: Answer): object {
  return { status, headers: Object.keys(headers).sort(), location: headers.location?.replace(/[^/]+$/, "") };
}

async function mount(s: Stack, repository: string, digest: string, from?: string, headers = {}): Promise<Answer> {
  const query = `mount=${digest}${from === undefined ? "" : `&from=${from}`}`;
  return s.ask("POST", `/v2/${repository}/blobs/uploads/?${query}`, { headers });
}

/** The refusal looks like an unknown blob, and the session that it opens is one. */
async function expectRefused(s: Stack, repository: string, digest: string, from?: string): Promise<void> {
  const refused = await mount(s, repository, digest, from);
  expect([from, shapeOf(refused)]).toEqual([from, shapeOf(await mount(s, repository, nothing, from))]);
  expect([from, refused.status]).toEqual([from, 202]);
  expect((await s.ask("GET", `/v2/${repository}/blobs/${digest}`)).status).toBe(404);
  expect((await s.ask("DELETE", refused.headers.location ?? "")).status).toBe(204);
}

async function expectMounted(s: Stack, repository: string, digest: string, from: string): Promise<void> {
  expect([from, (await mount(s, repository, digest, from)).status]).toEqual([from, 201]);
  expect((await s.ask("GET", `/v2/${repository}/blobs/${digest}`)).status).toBe(200);
}

/** `release` has `team/secret`, `team/app:secret` and `team/app:public`; answers one layer of each. */
async function pushed(s: Stack, route = "release"): Promise<{ blocked: string; hidden: string; shown: string }> {
  const layerOf = async (repository: string, tag: string) => (await s.pushImage(repository, tag, makeImage([100]))).layers[0]?.digest ?? "";
  return {
    blocked: await layerOf(`${route}/team/secret`, "1"),
    hidden: await layerOf(`${route}/team/app`, "secret"),
    shown: await layerOf(`${route}/team/app`, "public"),
  };
}

const rules = { block: ["team/secret", "team/app:secret"] };

describe.each(fronts)("over %s", (front) => {
  test.each<[string, StackOptions, Record<"secret" | "app", string>]>([
    ["its route", {}, { secret: "release/team/secret", app: "release/team/app" }],
    [
      "a route with tag rules",
      { wrap: (_, registry) => tagRules(registry, { immutable: {} }) },
      { secret: "release/team/secret", app: "release/team/app" },
    ],
    [
      "a renamed route",
      { more: ({ release }) => ({ again: renamed(release, prefixed("in/")) }) },
      { secret: "again/in/team/secret", app: "again/in/team/app" },
    ],
    [
      "a table of routes in a route",
      { more: ({ release }) => ({ again: routes({ some: release }) }) },
      { secret: "again/some/team/secret", app: "again/some/team/app" },
    ],
    ["the aggregate itself", {}, { secret: "prerelease/team/secret", app: "prerelease/team/app" }],
    [
      "the aggregate under another name",
      { more: ({ prerelease }) => ({ again: renamed(prerelease, prefixed("in/")) }) },
      { secret: "again/in/team/secret", app: "again/in/team/app" },
    ],
    [
      "another aggregate that shows everything",
      {
        more: ({ release }) => ({
          again: aggregate({
            local: localRegistry({ storage: memoryStorage(), name: "again" }),
            connectors: [{ name: "release", source: release }],
          }),
        }),
      },
      { secret: "again/team/secret", app: "again/team/app" },
    ],
  ])("what a connector hides cannot be mounted by way of %s, and what it shows can", async (_, options, from) => {
    const s = await stack({ front, ...options, release: rules });
    const { blocked, hidden, shown } = await pushed(s);
    await expectRefused(s, "prerelease/mine", blocked, from.secret);
    await expectRefused(s, "prerelease/mine", hidden, from.app);
    await expectRefused(s, "prerelease/mine", shown, from.app);
    await s.ask("GET", "/v2/prerelease/team/app/manifests/public");
    await expectMounted(s, "prerelease/mine", shown, from.app);
    await expectRefused(s, "prerelease/mine", hidden, from.app);
  });

  test("a filter in the connector's source decides as one in the connector does", async () => {
    const more: StackOptions["more"] = ({ release }) => {
      const local = localRegistry({ storage: memoryStorage(), name: "more" });
      return {
        more: aggregate({ local, connectors: [{ name: "some", source: filtered(readOnly(release), rules), rename: prefixed("r/") }] }),
      };
    };
    const s = await stack({ front, more });
    const { blocked, hidden, shown } = await pushed(s);
    await s.ask("GET", "/v2/more/r/team/app/manifests/public");
    for (const [digest, from] of [
      [blocked, "release/team/secret"],
      [blocked, "more/r/team/secret"],
      [hidden, "release/team/app"],
      [hidden, "more/r/team/app"],
    ] as const)
      await expectRefused(s, "more/mine", digest, from);
    await expectMounted(s, "more/one", shown, "release/team/app");
    await expectMounted(s, "more/two", shown, "more/r/team/app");
  });

  test("a connector for links only gives layers that it does not hide, and only those", async () => {
    const s = await stack({ front, hub: { reach: "links", block: ["library/secret", "library/app:secret"] } });
    const layerOf = async (name: string, tag: string) => {
      const image = s.upstream.addImage(name, tag);
      await s.ask("GET", `/v2/hub/${name}/manifests/${tag}`);
      for (const { digest } of image.layers) await s.ask("GET", `/v2/hub/${name}/blobs/${digest}`);
      return image.layers[0]?.digest ?? "";
    };
    await expectRefused(s, "prerelease/mine", await layerOf("library/secret", "1"), "hub/library/secret");
    await expectRefused(s, "prerelease/mine", await layerOf("library/app", "secret"), "hub/library/app");
    await expectMounted(s, "prerelease/mine", await layerOf("library/open", "1"), "hub/library/open");
  });

  test("a filtered view mounts nothing that it hides, under its own names or those of what it shows", async () => {
    const s = await stack({
      front,
      more: ({ release, prerelease }) => ({
        view: filtered(release, rules),
        outer: renamed(filtered(prerelease, { ...rules, maxBlobBytes: "150B", digests: "any" }), prefixed("v/")),
      }),
    });
    const { blocked, hidden, shown } = await pushed(s);
    for (const from of ["release/team/secret", "view/team/secret", "prerelease/team/secret"])
      await expectRefused(s, "view/mine", blocked, from);
    for (const from of ["release/team/app", "view/team/app"]) await expectRefused(s, "view/mine", hidden, from);
    await s.ask("GET", "/v2/view/team/app/manifests/public");
    await expectMounted(s, "view/mine", shown, "release/team/app");
    for (const from of ["release/team/secret", "prerelease/team/secret", "outer/v/team/secret"])
      await expectRefused(s, "outer/v/mine", blocked, from);
    await expectMounted(s, "outer/v/mine", shown, "outer/v/team/app");
    const large = (await s.pushImage("prerelease/team/large", "1", makeImage([200]))).layers[0]?.digest ?? "";
    for (const from of ["prerelease/team/large", "outer/v/team/large"]) await expectRefused(s, "outer/v/mine", large, from);
  });

  test("a claim whose connector hides the blob by now is no source of a mount, named or not", async () => {
    let all: AggregateRegistry | undefined;
    const more: StackOptions["more"] = ({ prerelease }) => {
      all = prerelease;
      return {};
    };
    const s = await stack({ front, hub: { copyToLocal: "never" }, more });
    const layer = s.upstream.addImage("library/secret", "1").layers[0]?.digest ?? "";
    await expectMounted(s, "prerelease/old", layer, "hub/library/secret");
    await expectMounted(s, "prerelease/older", layer, "prerelease/old");
    await all?.setConnectors(all.connectors.map((connector) => ({ ...connector, block: ["library/secret"] })));
    for (const from of ["prerelease/old", "prerelease/library/secret", "hub/library/secret", undefined])
      await expectRefused(s, "prerelease/mine", layer, from);
  });

  test("a repository that the caller may not pull from is no source, named or not", async () => {
    const s = await stack({
      front,
      handler: {
        caller: (request) => ({ name: String(request.headers["x-user"] ?? "root") }),
        authorize: ({ caller, action, repository = "" }) => caller?.name === "root" || action !== "pull" || repository.endsWith("/open"),
      },
    });
    const { blocked } = await pushed(s, "prerelease");
    for (const from of ["prerelease/team/secret", undefined]) {
      const eve = { "x-user": "eve" };
      expect(shapeOf(await mount(s, "prerelease/mine", blocked, from, eve))).toEqual(
        shapeOf(await mount(s, "prerelease/mine", nothing, from, eve)),
      );
    }
    expect((await s.ask("HEAD", `/v2/prerelease/mine/blobs/${blocked}`)).status).toBe(404);
  });
});
