import { join } from "node:path";
import { type AggregateRegistry, aggregate, type Connector, localRegistry, remoteRegistry } from "oci-manifold";
import type { StoringRegistry } from "oci-manifold/extend";
import { copyToLocal, findDangling, impactOfRemoving } from "oci-manifold/maintenance";
import { memoryStorage } from "oci-manifold/storage/memory";
import { beforeAll, expect, test } from "vitest";
import { type DockerRegistry, dockerRegistry, podmanAndBuildah, type RunClient, skopeoCopy } from "./clients.js";
import { digestInLayout, type Sample, sampleLayout } from "./layouts.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";
import { serve } from "./serve.js";

requires(
  "skopeo",
  "podman",
  "docker-registry",
)("removing a connector", () => {
  let upstream: DockerRegistry;
  let local: StoringRegistry;
  let all: AggregateRegistry;
  let host: string;
  let sample: Sample;
  let podman: RunClient;

  const skopeoPull = async (name: string): Promise<string> => {
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${host}/${name}`, `oci:${folder}:pulled`);
    return digestInLayout(folder);
  };
  const pullEverything = async () => {
    expect(await skopeoPull("team/app:mine")).toBe(sample.image.digest);
    expect(await skopeoPull("team/app:index")).toBe(sample.index.digest);
    await podman("rmi", "--all", "--force");
    const id = (await podman("pull", "--quiet", "--tls-verify=false", `docker://${host}/team/app:mine`)).trim();
    expect(`sha256:${id}`).toBe(sample.image.config.digest);
  };

  beforeAll(async () => {
    upstream = await dockerRegistry();
    sample = await sampleLayout(await temporaryFolder());
    for (const tag of ["image", "index"]) await skopeoCopy(sample.layout.reference(tag), `docker://${upstream.host}/team/app:${tag}`);
    local = localRegistry({ storage: memoryStorage(), name: "local" });
    const connectors: Connector[] = [{ name: "hub", source: remoteRegistry(upstream.origin), copyToLocal: "never" }];
    all = aggregate({ local, connectors });
    host = await serve(all);
    ({ podman } = await podmanAndBuildah());
  });

  test("ask what would dangle, pin, remove, and pull as before", async () => {
    // The client is told that the layers exist here, and sends the manifest alone.
    await skopeoCopy(sample.layout.reference("image"), `docker://${host}/team/app:mine`);
    await pullEverything();
    const impact = await impactOfRemoving(all, "hub");
    expect(impact.dangling).toHaveLength(5);
    expect(impact.dangling.every(({ tags }) => tags.includes("mine"))).toBe(true);

    expect(await copyToLocal(all, "all")).toMatchObject({ complete: true, done: 5 });
    expect(await copyToLocal(all, { repository: "team/app", reference: "index" })).toMatchObject({ complete: true });
    expect((await impactOfRemoving(all, "hub")).dangling).toEqual([]);
    await all.setConnectors([]);
    await upstream.process.stop();
    expect(await findDangling(all)).toMatchObject({ manifests: 4, dangling: [], unknown: [] });
    await pullEverything();
  });
});
