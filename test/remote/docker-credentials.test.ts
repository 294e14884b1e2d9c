import { chmodSync, existsSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { dockerConfig } from "../../src/remote/docker-credentials.js";
import { dockerHub } from "../../src/remote/presets/docker-hub.js";
import { fakeClock } from "../../src/testing/fake-clock.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { errorOf, foundIn, remoteFor, upstreamFor } from "./support.js";

const base64 = (text: string) => Buffer.from(text).toString("base64");
const hubKey = "https://index.docker.io/v1/";

function configIn(content: object | string) {
  const folder = temporaryFolder();
  const path = join(folder, "config.json");
  let written = 0;
  const write = (next: object | string) => {
    writeFileSync(path, typeof next === "string" ? next : JSON.stringify(next));
    // Two writes in one tick of the file system's clock are two.
    utimesSync(path, ++written, written);
  };
  write(content);
  return { folder, path, write };
}

/** Puts a program on the PATH. */
function helperIn(folder: string, name: string, script: string) {
  const path = join(folder, `docker-credential-${name}`);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  vi.stubEnv("PATH", `${folder}:${process.env.PATH}`);
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
}

describe("the auths of Docker's config.json", () => {
  it.each([
    ["docker.io", hubKey],
    ["index.docker.io", hubKey],
    ["docker.io", "docker.io"],
    ["docker.io", "https://index.docker.io/v2/"],
    ["registry.example", "registry.example"],
    ["registry.example:5000", "registry.example:5000"],
    ["registry.example", "https://registry.example"],
    ["registry.example", "http://registry.example/v1/"],
    ["registry.example:5000", "https://registry.example:5000/v2/"],
    ["registry.example", "registry.example/some/path"],
    ["[::1]:5000", "[::1]:5000"],
  ])("have for %s what is under %s", async (registry, key) => {
    const { path } = configIn({ auths: { "other.example": { auth: base64("no:no") }, [key]: { auth: base64("robot:pa:ss") } } });
    expect(await dockerConfig({ path })({ registry })).toEqual({ username: "robot", password: "pa:ss" });
  });

  it.each([
    ["registry.example", "registry.example:5000"],
    ["registry.example:5000", "registry.example"],
    ["example", "registry.example"],
    ["registry.example", hubKey],
    ["__proto__", "registry.example"],
  ])("have nothing for %s under %s", async (registry, key) => {
    const { path } = configIn({ auths: { [key]: { auth: base64("robot:pass") } } });
    expect(await dockerConfig({ path })({ registry })).toBeUndefined();
  });

  it.each([
    [{ identitytoken: "id", auth: base64("robot:") }, { identityToken: "id" }],
    [
      { username: "robot", password: "pass" },
      { username: "robot", password: "pass" },
    ],
    [
      { auth: base64("robot:pass\0\0"), username: "x", password: "y" },
      { username: "robot", password: "pass" },
    ],
    [{}, undefined],
    [{ auth: "", username: "robot" }, undefined],
    ["text", undefined],
  ])("read %o", async (entry, credentials) => {
    const { path } = configIn({ auths: { r: entry } });
    expect(await dockerConfig({ path })({ registry: "r" })).toEqual(credentials);
  });

  it("are nothing without a file, or in an empty one", async () => {
    const { folder, path } = configIn("");
    expect(await dockerConfig({ path })({ registry: "r" })).toBeUndefined();
    expect(await dockerConfig({ path: join(folder, "none.json") })({ registry: "r" })).toBeUndefined();
  });

  it("are read again when the file changes, and only then", async () => {
    const { path, write } = configIn({ auths: { r: { auth: base64("a:1") } } });
    const source = dockerConfig({ path });
    expect(await source({ registry: "r" })).toMatchObject({ username: "a" });
    write({ auths: { r: { auth: base64("b:2") } } });
    expect(await source({ registry: "r" })).toMatchObject({ username: "b" });
  });

  it("are found by DOCKER_CONFIG, or in the home folder", async () => {
    const { folder } = configIn({ auths: { r: { auth: base64("robot:pass") } } });
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    vi.stubEnv("DOCKER_CONFIG", folder);
    expect(await dockerConfig()({ registry: "r" })).toMatchObject({ username: "robot" });
    vi.stubEnv("DOCKER_CONFIG", "");
    vi.stubEnv("HOME", join(folder, "home"));
    expect(await dockerConfig()({ registry: "r" })).toBeUndefined();
  });

  it.each(['{"auths": {"s3cret', "[]", { auths: { "127.0.0.1": {}, HOST: { auth: base64("s3cret") } } }])(
    "make the registry unavailable when they are malformed: %o",
    async (content) => {
      const upstream = await upstreamFor({ auth: { kind: "bearer" } });
      const text = typeof content === "string" ? content : JSON.stringify(content);
      const { path } = configIn(text.replace("HOST", upstream.url.replace("http://", "")));
      const lookup = await remoteFor(upstream, { credentials: dockerConfig({ path }) }).getManifest("a", "1");
      expect(lookup.kind).toBe("unavailable");
      expect(errorOf(lookup).message).toContain("config.json");
      expect(errorOf(lookup).message).not.toContain("s3cret");
    },
  );

  it("log in at the registry they are for", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", username: "robot", password: "pass" } });
    upstream.addImage("library/node", "1");
    const { path } = configIn({ auths: { [upstream.url.replace("http://", "")]: { auth: base64("robot:pass") } } });
    const credentials = dockerConfig({ path });
    foundIn(await remoteFor(upstream, { credentials }).getManifest("library/node", "1"));
    const hub = dockerHub({ url: upstream.url, credentials });
    onTestFinished(() => hub.close({ deadline: "1ms" }));
    foundIn(await hub.getManifest("node", "1"));
  });
});

describe.skipIf(process.platform === "win32")("credential helpers", () => {
  it.each([
    [{ credsStore: "here", auths: { r: {} } }, "r", "r"],
    [{ credHelpers: { r: "here" }, credsStore: "not-here" }, "r", "r"],
    [{ credHelpers: { other: "not-here" }, credsStore: "here" }, "docker.io", hubKey],
    [{ credHelpers: { [hubKey]: "here" } }, "docker.io", hubKey],
  ])("of %o are asked for %s by %s", async (config, registry, server) => {
    const { folder, path } = configIn(config);
    helperIn(folder, "here", `echo "$1 $(cat)" > "${folder}/asked"; echo '{"ServerURL":"x","Username":"robot","Secret":"pass"}'`);
    expect(await dockerConfig({ path })({ registry })).toEqual({ username: "robot", password: "pass" });
    expect(readFileSync(join(folder, "asked"), "utf8").trim()).toBe(`get ${server}`);
  });

  it("answer an identity token under the name <token>", async () => {
    const { folder, path } = configIn({ credsStore: "here" });
    helperIn(folder, "here", `echo '{"Username":"<token>","Secret":"id"}'`);
    expect(await dockerConfig({ path })({ registry: "r" })).toEqual({ identityToken: "id" });
  });

  it("may have nothing, whatever auths have", async () => {
    const { folder, path } = configIn({ credsStore: "here", auths: { r: { auth: base64("a:b") } } });
    helperIn(folder, "here", "echo credentials not found in native keychain; exit 1");
    expect(await dockerConfig({ path })({ registry: "r" })).toBeUndefined();
  });

  it("are asked once for all within five minutes", async () => {
    const clock = fakeClock();
    const { folder, path } = configIn({ credsStore: "here" });
    helperIn(folder, "here", `echo x >> "${folder}/asked"; echo '{"Username":"robot","Secret":"pass"}'`);
    const source = dockerConfig({ path, clock });
    const asked = () => readFileSync(join(folder, "asked"), "utf8").length / 2;
    await Promise.all([1, 2, 3].map(() => source({ registry: "r" })));
    await clock.advance(299_000);
    await source({ registry: "r" });
    expect(asked()).toBe(1);
    await source({ registry: "other" });
    expect(asked()).toBe(2);
    await clock.advance(2000);
    await source({ registry: "r" });
    expect(asked()).toBe(3);
  });

  it.each([
    ["fails", "echo s3cret; echo s3cret >&2; exit 3", "exit code 3"],
    ["answers no JSON", "echo s3cret", "no credentials"],
    ["answers no credentials", 'echo \'{"Username":"s3cret"}\'', "no credentials"],
    ["answers too much", "head -c 100000 /dev/zero", "MAXBUFFER"],
    ["reads nothing and fails", "exec <&-; exit 1", "exit code 1"],
  ])("that %s make the registry unavailable", async (_, script, why) => {
    const { folder, path } = configIn({ credsStore: "here" });
    helperIn(folder, "here", script);
    const upstream = await upstreamFor({ auth: { kind: "bearer" } });
    const lookup = await remoteFor(upstream, { credentials: dockerConfig({ path }) }).getManifest("a", "1");
    expect(lookup.kind).toBe("unavailable");
    expect(errorOf(lookup).message).toContain(why);
    expect(errorOf(lookup).message).not.toContain("s3cret");
  });

  it("are asked again after a failure", async () => {
    const { folder, path } = configIn({ credsStore: "here" });
    helperIn(folder, "here", "exit 1");
    const source = dockerConfig({ path });
    await expect(Promise.resolve(source({ registry: "r" }))).rejects.toThrow("exit code 1");
    helperIn(folder, "here", `echo '{"Username":"robot","Secret":"pass"}'`);
    expect(await source({ registry: "r" })).toMatchObject({ username: "robot" });
  });

  it.each(["../evil", "a b", "", "x;touch evil", "$(touch evil)"])("are not run under the name %o", async (name) => {
    const { folder, path } = configIn({ credHelpers: { r: name } });
    const given = Promise.resolve(dockerConfig({ path })({ registry: "r" }));
    if (name === "") expect(await given).toBeUndefined();
    else await expect(given).rejects.toThrow("cannot be one");
    expect(existsSync(join(folder, "evil"))).toBe(false);
  });

  it("that are not installed are named", async () => {
    const { path } = configIn({ credsStore: "nowhere-to-be-found" });
    await expect(Promise.resolve(dockerConfig({ path })({ registry: "r" }))).rejects.toThrow(
      "docker-credential-nowhere-to-be-found failed (ENOENT)",
    );
  });
});
