import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { localRegistry, orThrow, type Registry, RegistryError } from "oci-manifold";
import { type Config, fromConfig } from "oci-manifold/config";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock, fakeUpstream } from "oci-manifold/testing";
import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

const main: Config = {
  storages: { data: { kind: "memory" } },
  registries: {
    release: { kind: "local", storage: "data" },
    hub: { kind: "cached", source: { kind: "dockerHub", url: "http://127.0.0.1:1" }, storage: "data", tagTtl: "10m" },
    prerelease: {
      kind: "aggregate",
      local: { kind: "local", storage: "data" },
      connectors: [
        { name: "release", source: "release" },
        { name: "hub", source: "hub", reach: "links" },
      ],
    },
    all: {
      kind: "routes",
      routes: { release: "release", prerelease: "prerelease", hub: "hub" },
      fallback: "hub",
      namespaces: { "docker.io": "hub" },
    },
  },
  serve: "all",
};

/** Data as it comes from a file, changed at one place. */
function changed(path: string, value: unknown, config: Config = main): Config {
  const copy = structuredClone(config) as unknown as Record<string, unknown>;
  const steps = path.split(".");
  const last = steps.pop() ?? "";
  let at = copy;
  for (const step of steps) at = at[step] as Record<string, unknown>;
  if (value === undefined) delete at[last];
  else at[last] = value;
  return copy as unknown as Config;
}

async function problemsOf(config: Config, surroundings = {}): Promise<string[]> {
  const error = await fromConfig(config, surroundings).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof RegistryError)) throw new Error(`expected problems, got ${String(error)}`);
  expect(error.code).toBe("UNKNOWN");
  return error.message.split("\n");
}

test("the composition of the main job: what is in release is visible in prerelease and not the reverse", async () => {
  const { registry, registries } = await fromConfig(main);
  await registry.ready();
  const released = await pushImage(registry, "release/app", "1");
  expect(orThrow(await registry.resolveManifest("prerelease/app", "1")).digest).toBe(released.digest);
  await pushImage(registry, "prerelease/app", "2");
  expect((await registry.resolveManifest("release/app", "2")).kind).toBe("absent");
  expect(Object.keys(registries).sort()).toEqual(["all", "hub", "prerelease", "release"]);
  expect(registries.prerelease?.identity).toBe("aggregate local prerelease");
  expect(registry.forNamespace("docker.io")).toBeDefined();
  const layer = released.layers[0]?.digest ?? "";
  expect(await registry.mountBlob("prerelease/other", layer, { registry, repository: "release/app" })).toMatchObject({ digest: layer });
  await registry.close();
});

describe("what is wrong is told with its path", () => {
  const hub = { kind: "remote", url: "https://hub.example" };
  test.each<[string, string, unknown, string]>([
    ["an unknown key", "registries.hub.tagTTL", "10m", 'registries.hub.tagTTL: is not known here: did you mean "tagTtl"?'],
    ["a key that is missing", "registries.release.storage", undefined, "registries.release.storage: is missing"],
    ["a duration", "registries.hub.tagTtl", "10 minutes", 'registries.hub.tagTtl: "10 minutes" is not a duration'],
    ["another type", "registries.release.sparse", "yes", "registries.release.sparse: must be true or false, is text"],
    [
      "a pattern",
      "registries.prerelease.connectors.1.allow",
      ["Node"],
      'registries.prerelease.connectors[1].allow[0]: "Node" is not a pattern',
    ],
    [
      "a choice",
      "registries.prerelease.connectors.0.reach",
      "link",
      'registries.prerelease.connectors[0].reach: must be "names" or "links"',
    ],
    ["a kind", "registries.hub.kind", "cache", 'registries.hub.kind: is not known: did you mean "cached"?'],
    ["a reference", "registries.all.fallback", "hubb", 'registries.all.fallback: there is no registry "hubb": did you mean "hub"?'],
    ["a storage", "registries.release.storage", "dat", 'registries.release.storage: there is no storage "dat": did you mean "data"?'],
    ["what is served", "serve", "everything", 'serve: there is no registry "everything"'],
    ["a route", "registries.all.routes", { "Team A": "release" }, 'registries.all.routes["Team A"]: cannot be a route'],
    [
      "a name twice",
      "registries.other",
      { kind: "local", storage: "data", name: "hub" },
      "registries.other: keeps its records under the name",
    ],
    ["an option of a factory", "registries.up", { ...hub, maxRequests: 0 }, "registries.up: maxRequests must be a whole number above 0"],
    ["a URL", "registries.up", { ...hub, url: "hub.example" }, "registries.up.url: the URL of a remote registry must be absolute"],
    [
      "what cannot be pushed to",
      "registries.prerelease.local",
      "hub",
      "registries.prerelease: the local registry of an aggregate must be one that stores",
    ],
    [
      "a connector twice",
      "registries.prerelease.connectors.1.name",
      "release",
      'registries.prerelease: two connectors are called "release"',
    ],
    [
      "a rename",
      "registries.prerelease.connectors.0.rename",
      { prefix: "Hub" },
      "registries.prerelease.connectors[0].rename.prefix: must be the beginning",
    ],
  ])("%s", async (_what, path, value, expected) => {
    expect(await problemsOf(changed(path, value))).toEqual([expect.stringContaining(expected)]);
  });

  test("all of it at once, one by one in the detail", async () => {
    const config = changed("registries.release.sparse", 1, changed("registries.hub.tagTtl", 5));
    const error = await fromConfig(config).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      detail: {
        problems: [
          { path: "registries.release.sparse", message: "must be true or false, is a number" },
          { path: "registries.hub.tagTtl", message: "must be text, is a number" },
        ],
      },
    });
  });

  test("a cycle is named", async () => {
    const config = changed("registries.release", { kind: "readOnly", source: "prerelease" });
    expect(await problemsOf(config)).toEqual([
      expect.stringMatching(/leads back to itself: (release -> prerelease -> release|prerelease -> release -> prerelease)$/),
    ]);
  });

  test.each([null, [], "text", 5])("%j is no configuration", async (config) => {
    expect(await problemsOf(config as unknown as Config)).toHaveLength(1);
  });

  test("__proto__ is a key like any other", async () => {
    expect(await problemsOf(JSON.parse('{"registries":{"a":{"kind":"__proto__"}},"serve":"a","__proto__":{}}') as Config)).toEqual(
      expect.arrayContaining([expect.stringContaining("registries.a.kind")]),
    );
  });
});

describe("secrets", () => {
  const remote = (credentials: unknown) => changed("registries.up", { kind: "remote", url: "https://up.example", credentials });
  afterEach(() => {
    delete process.env.MANIFOLD_TEST_SECRET;
  });

  test("are not written down, and no message repeats one", async () => {
    const problems = await problemsOf(remote({ username: "robot", password: "hunter2" }));
    expect(problems).toEqual([
      'registries.up.credentials.password: secrets are not written here: use { "env": "NAME" } or { "file": "path" }',
    ]);
    const url = await problemsOf(changed("registries.up", { kind: "remote", url: "https://robot:hunter2@up.example" }));
    expect(url.join()).not.toContain("hunter2");
  });

  test("that are not there are told by their place", async () => {
    expect(await problemsOf(remote({ username: "robot", password: { env: "MANIFOLD_TEST_SECRET" } }))).toEqual([
      "registries.up.credentials.password: the environment has no MANIFOLD_TEST_SECRET",
    ]);
    expect(await problemsOf(remote({ identityToken: { file: "/nowhere/token" } }))).toEqual([
      "registries.up.credentials.identityToken: the file /nowhere/token cannot be read",
    ]);
    expect(await problemsOf(remote("hup"), { credentials: { hub: async () => undefined } })).toEqual([
      'registries.up.credentials: the host gave no credentials "hup": did you mean "hub"?',
    ]);
  });

  test("come from the environment, a file or a function, anew for each token", async () => {
    const upstream = await fakeUpstream({ auth: { kind: "basic", username: "robot", password: "right" } });
    onTestFinished(() => upstream.close());
    const file = join(await temporaryFolder(), "password");
    writeFileSync(file, "right\n");
    process.env.MANIFOLD_TEST_SECRET = "right";
    const from = (credentials: unknown) => changed("registries.up", { kind: "remote", url: upstream.url, credentials });
    const functions = { up: () => ({ username: "robot", password: "right" }) };
    for (const credentials of [
      { username: "robot", password: { env: "MANIFOLD_TEST_SECRET" } },
      { username: "robot", password: { file } },
      "up",
    ]) {
      const { registry, registries } = await fromConfig(from(credentials), { credentials: functions });
      expect((await registries.up?.listTags("none", { limit: 1 }))?.kind).toBe("absent");
      await registry.close();
    }
  });
});

test("storages and registries of the host are used by name, and outlive a configuration without them", async () => {
  const storage = memoryStorage();
  const mine = localRegistry({ storage: memoryStorage(), name: "mine" });
  const config: Config = {
    registries: {
      team: { kind: "local", storage: "host" },
      all: { kind: "routes", routes: { team: "team", mine: "mine", view: { kind: "filtered", source: "mine", allow: ["app"] } } },
    },
    serve: "all",
  };
  const { registry } = await fromConfig(config, { storages: { host: storage }, registries: { mine } });
  await pushImage(registry, "mine/app", "1");
  expect((await registry.resolveManifest("view/app", "1")).kind).toBe("found");
  await pushImage(registry, "team/app", "1");
  expect((await storage.metadata.names({ kind: "repository", under: ["team"], limit: 10 })).length).toBe(1);
  expect(
    await problemsOf(
      { ...config, registries: { ...config.registries, mine: { kind: "local", storage: "host" } } },
      { storages: { host: storage }, registries: { mine } },
    ),
  ).toEqual(["registries.mine: has the name of a registry that the host gave"]);
  await registry.close();
});

test("names can be changed by prefix, strip, map and library", async () => {
  const config: Config = {
    storages: { data: { kind: "memory" } },
    registries: {
      source: { kind: "local", storage: "data" },
      prefix: { kind: "renamed", source: "source", rename: { prefix: "p/" } },
      strip: { kind: "renamed", source: "source", rename: { strip: "library/" } },
      map: { kind: "renamed", source: "source", rename: { map: { "old/node": "library/node" } } },
      library: { kind: "renamed", source: "source", rename: { library: true } },
    },
    serve: "source",
  };
  const { registry, registries } = await fromConfig(config);
  await pushImage(registry, "library/node", "22");
  for (const [name, repository] of [
    ["prefix", "p/library/node"],
    ["strip", "node"],
    ["map", "old/node"],
    ["library", "node"],
  ] as const) {
    expect((await registries[name]?.resolveManifest(repository, "22"))?.kind, name).toBe("found");
  }
  await registry.close();
});

describe("reload", () => {
  test("changes only what differs: connectors and routes in place, the rest made anew", async () => {
    const { registry, reload } = await fromConfig(main);
    await registry.ready();
    await pushImage(registry, "release/app", "1");
    expect((await registry.resolveManifest("prerelease/app", "1")).kind).toBe("found");
    await reload(
      changed(
        "registries.all.routes",
        { release: "release", pre: "prerelease" },
        changed("registries.prerelease.connectors.0.block", ["app"]),
      ),
    );
    expect((await registry.resolveManifest("pre/app", "1")).kind).toBe("absent");
    expect((await registry.resolveManifest("prerelease/app", "1")).kind).not.toBe("found");
    expect((await registry.resolveManifest("release/app", "1")).kind).toBe("found");
    await reload(main);
    expect((await registry.resolveManifest("prerelease/app", "1")).kind).toBe("found");
    await registry.close();
  });

  test("keeps the objects of what is the same, and the data of what is made anew", async () => {
    const configured = await fromConfig(main);
    const { registry } = configured;
    const { release, prerelease, hub } = configured.registries as Record<string, Registry>;
    await pushImage(registry, "release/app", "1");
    await configured.reload(structuredClone(main));
    expect(configured.registries).toMatchObject({ release, prerelease, hub });
    await configured.reload(changed("registries.release.maxRepositories", 1));
    expect(configured.registries.release).not.toBe(release);
    expect(configured.registries.prerelease).toBe(prerelease);
    expect((await registry.resolveManifest("prerelease/app", "1")).kind).toBe("found");
    await expect(pushImage(registry, "release/second", "1")).rejects.toMatchObject({ code: "DENIED" });
    await registry.close();
  });

  test("does not disturb a push that runs through what is removed", async () => {
    const clock = fakeClock();
    const configured = await fromConfig(main, { clock });
    const { registry } = configured;
    const session = await registry.startUpload("release/app");
    let goOn = () => {};
    const appending = session.append(
      (async function* () {
        yield Buffer.from("one");
        await new Promise<void>((resolve) => {
          goOn = resolve;
        });
        yield Buffer.from("two");
      })(),
    );
    await configured.reload(changed("registries.release.maxRepositories", 5));
    await clock.advance(60_000);
    goOn();
    expect(await appending).toBe(6);
    // The new object has the same storage and name, so the upload goes on there.
    expect(await (await registry.resumeUpload("release/app", session.id)).append((async function* () {})())).toBe(6);
    await registry.close();
  });

  test("changes nothing when something is wrong, cannot be made ready, or is refused by an aggregate", async () => {
    const configured = await fromConfig(main);
    const { registry } = configured;
    await registry.ready();
    await pushImage(registry, "release/app", "1");
    const before = { ...configured.registries };
    const file = join(await temporaryFolder(), "file");
    writeFileSync(file, "");
    const noRoutes = changed("registries.all.routes", {});
    await expect(configured.reload(changed("registries.hub.tagTtl", "soon", noRoutes))).rejects.toThrow("registries.hub.tagTtl");
    const unwritable = changed(
      "registries.extra",
      { kind: "local", storage: "broken" },
      changed("storages.broken", { kind: "files", folder: file }, noRoutes),
    );
    await expect(configured.reload(unwritable)).rejects.toThrow();
    // The name "release" is bound to another registry in the aggregate's memory.
    const rebound = changed("registries.prerelease.connectors.0.source", "hub", noRoutes);
    await expect(configured.reload(rebound)).rejects.toThrow("registries.prerelease.connectors: the connector name");
    expect(configured.registries).toEqual(before);
    expect((await registry.resolveManifest("prerelease/app", "1")).kind).toBe("found");
    expect((await registry.resolveManifest("release/app", "1")).kind).toBe("found");
    await registry.close();
    await expect(configured.reload(main)).rejects.toMatchObject({ code: "UNAVAILABLE" });
  });

  test("can serve another registry, under the same object", async () => {
    const configured = await fromConfig(main);
    const { registry } = configured;
    await pushImage(registry, "release/app", "1");
    await configured.reload({ ...main, serve: "release" });
    expect((await registry.resolveManifest("app", "1")).kind).toBe("found");
    await registry.close();
  });
});
