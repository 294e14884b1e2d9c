import { expect, it, onTestFinished } from "vitest";
import { harbor } from "../../../src/remote/presets/harbor.js";
import { errorOf, foundIn, upstreamFor } from "../support.js";

const login = { username: "robot$team+reader", password: "pass" };

it("takes its tokens from the external URL, where that is listed", async () => {
  const external = await upstreamFor({ auth: { kind: "bearer", ...login } });
  external.addImage("team/app", "1");
  const realm = `${external.url.replace("127.0.0.1", "localhost")}/token`;
  external.auth = { kind: "bearer", ...login, realm };
  const registry = harbor(external.url, { credentials: login, realmHosts: ["localhost"] });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  foundIn(await registry.getManifest("team/app", "1"));
});

it("denies what a policy of the project keeps back", async () => {
  const upstream = await upstreamFor();
  upstream.addImage("team/app", "1");
  const body = '{"errors":[{"code":"PROJECTPOLICYVIOLATION","message":"current image with 7 vulnerabilities cannot be pulled"}]}';
  upstream.intercept = () => ({ status: 412, body });
  const registry = harbor(upstream.url, { name: "harbor" });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  for (const lookup of [await registry.getManifest("team/app", "1"), await registry.resolveManifest("team/app", "1")]) {
    expect(lookup.kind).toBe("denied");
    expect(errorOf(lookup).message).toContain("a policy of the upstream keeps it back");
  }
});

it("shows no repositories to a robot that may not list them", async () => {
  const upstream = await upstreamFor({ auth: { kind: "bearer", ...login } });
  upstream.intercept = ({ url }) =>
    url.startsWith("/v2/_catalog") ? { status: 401, headers: { "www-authenticate": `Bearer realm="${upstream.url}/token"` } } : undefined;
  const registry = harbor(upstream.url, { name: "harbor", credentials: login });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  expect(foundIn(await registry.listRepositories({ limit: 10 }))).toEqual({
    items: [],
    warnings: ["this list is not complete: harbor does not list its repositories"],
  });
});

it("is given by host or URL", async () => {
  for (const url of ["harbor.example", "https://harbor.example"]) {
    const registry = harbor(url);
    expect(registry.identity).toBe("https://harbor.example");
    await registry.close();
  }
});
