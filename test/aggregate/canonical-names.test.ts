import { aggregate, cached, dockerHub, localRegistry, orThrow, routes } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeUpstream } from "oci-manifold/testing";
import { expect, test } from "vitest";

test("x and library/x of Docker Hub are one repository: for filters, for the cache, for the upstream", async () => {
  const upstream = await fakeUpstream();
  const { digest, config } = upstream.addImage("library/node", "22", { layers: [10] });
  upstream.addImage("library/alpine", "3", { layers: [10] });
  const storage = memoryStorage();
  const hub = cached(dockerHub({ url: upstream.url }), { storage, name: "hub" });
  const open = aggregate({
    local: localRegistry({ storage, name: "open" }),
    connectors: [{ name: "hub", source: hub, allow: ["library/*"] }],
  });
  const blocked = aggregate({
    local: localRegistry({ storage, name: "blocked" }),
    connectors: [
      { name: "hub", source: routes({ hub }, { fallback: hub }), block: ["library/node", "hub/library/node", "library/alpine:3"] },
    ],
  });
  for (const name of ["node", "library/node"]) {
    expect(orThrow(await open.getManifest(name, "22")).descriptor.digest).toBe(digest);
    for (const hidden of [name, `hub/${name}`]) {
      expect((await blocked.getManifest(hidden, "22")).kind).toBe("absent");
      expect((await blocked.getManifest(hidden, digest)).kind).toBe("absent");
      expect((await blocked.getBlob(hidden, config.digest)).kind).toBe("absent");
    }
  }
  expect((await blocked.getManifest("alpine", "3")).kind).toBe("absent");
  expect(upstream.requests.filter(({ method, url }) => method === "GET" && url.includes("/manifests/"))).toHaveLength(1);
  expect(orThrow(await hub.listRepositories({ limit: 10 })).items).toEqual(["library/node"]);
  await blocked.close();
  await open.close();
  await upstream.close();
});
