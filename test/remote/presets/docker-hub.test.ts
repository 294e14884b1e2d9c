import { describe, expect, it, onTestFinished, vi } from "vitest";
import { dockerHub, dockerHubName } from "../../../src/remote/presets/docker-hub.js";
import { proxyFor } from "../proxying.js";
import { foundIn, seen, upstreamFor } from "../support.js";

async function hubFor() {
  const upstream = await upstreamFor({ auth: { kind: "bearer" } });
  const hub = dockerHub({ url: upstream.url });
  onTestFinished(() => hub.close({ deadline: "1ms" }));
  return { upstream, hub };
}

describe("dockerHub", () => {
  it("puts names of one segment under library/", () => {
    expect(dockerHubName("node")).toBe("library/node");
    expect(dockerHubName("library/node")).toBe("library/node");
    expect(dockerHubName("bitnami/redis")).toBe("bitnami/redis");
  });

  it("answers for x and library/x alike, with one token", async () => {
    const { upstream, hub } = await hubFor();
    const image = upstream.addImage("library/node", "22");
    const blob = image.layers[0]?.digest ?? "";
    for (const name of ["node", "library/node"]) {
      expect(await hub.resolveManifest(name, "22")).toMatchObject({ value: image.descriptor, served: { member: ["docker.io"] } });
      expect(foundIn(await hub.resolveBlob(name, blob)).digest).toBe(blob);
      expect(foundIn(await hub.listTags(name, { limit: 10 })).items).toEqual(["22"]);
    }
    expect(upstream.tokensIssued).toBe(1);
    expect(seen(upstream).filter((request) => request.includes("/v2/") && !request.includes("/v2/library/node/"))).toEqual([]);
  });

  it("denies what is absent or private, as Docker Hub answers 401 to both", async () => {
    const { upstream, hub } = await hubFor();
    upstream.intercept = ({ url }) => (url.startsWith("/v2/") ? { status: 401 } : undefined);
    expect((await hub.getManifest("nothing", "1")).kind).toBe("denied");
  });

  it("has no catalog, and asks for none", async () => {
    const { upstream, hub } = await hubFor();
    expect(foundIn(await hub.listRepositories({ limit: 10 }))).toEqual({
      items: [],
      warnings: ["this list is not complete: docker.io does not list its repositories"],
    });
    expect(upstream.requests).toHaveLength(0);
  });

  it.each([undefined, "https://docker.io", "https://index.docker.io", "https://registry-1.docker.io/"])(
    "is at registry-1.docker.io for %s",
    async (url) => {
      const hub = dockerHub(url === undefined ? {} : { url });
      await hub.ready();
      await expect(hub.deleteManifest("a", "1")).rejects.toThrow(
        "docker.io: this remote is read-only: push to registry-1.docker.io directly",
      );
      await hub.close();
    },
  );

  it("takes tokens from auth.docker.io, and is docker.io to who has its credentials", async () => {
    const login = { username: "robot", password: "pass" };
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...login, realm: "http://auth.docker.io/token" } });
    upstream.addImage("library/node", "22");
    const proxy = await proxyFor({ port: Number(new URL(upstream.url).port) });
    const credentials = vi.fn(() => login);
    const hub = dockerHub({ url: "http://docker.io", proxy: proxy.url, credentials });
    onTestFinished(() => hub.close({ deadline: "1ms" }));
    foundIn(await hub.getManifest("node", "22"));
    expect(credentials.mock.calls).toEqual([[{ registry: "docker.io" }]]);
    expect(proxy.asked.map(({ target }) => target)).toEqual(["registry-1.docker.io:80", "auth.docker.io:80"]);
  });

  it("checks a name again once library/ is in front", async () => {
    const { hub } = await hubFor();
    await expect(hub.getManifest("a".repeat(250), "1")).rejects.toMatchObject({ code: "NAME_INVALID" });
  });
});
