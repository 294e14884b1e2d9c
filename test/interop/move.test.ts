import { join } from "node:path";
import {
  type AggregateRegistry,
  aggregate,
  allPages,
  type LocalRegistry,
  localRegistry,
  orThrow,
  type Registry,
  remoteRegistry,
} from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { copyToLocal, findDangling, impactOfRemoving } from "oci-manifold/maintenance";
import { compareLockFile, createLockFile } from "oci-manifold/resolvers";
import { fileBlobStore } from "oci-manifold/storage/files";
import { memoryMetadataStore } from "oci-manifold/storage/memory";
import { beforeAll, expect, test } from "vitest";
import { type DockerRegistry, dockerRegistry, skopeo, skopeoCopy } from "./clients.js";
import { uploadUrl, withDigest } from "./http.js";
import { digestInLayout, Layout } from "./layouts.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";
import { serve } from "./serve.js";

requires("skopeo", "docker-registry")("moving from a docker-registry without downtime", () => {
  let old: DockerRegistry;
  let source: Registry;
  let local: LocalRegistry;
  let all: AggregateRegistry;
  let host: string;
  let layout: Layout;
  /** What each name has to lead to. */
  const expected = new Map<string, string>();

  const pull = async (name: string): Promise<string> => {
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(`docker://${host}/${name}`, `oci:${folder}:pulled`);
    return digestInLayout(folder);
  };
  const push = (tag: string, to: string) => skopeoCopy(layout.reference(tag), `docker://${to}`);

  beforeAll(async () => {
    old = await dockerRegistry();
    layout = await Layout.create(await temporaryFolder());
    const [first, second] = [await layout.image("first", [500_000, 20_000]), await layout.image("second", [300_000])];
    const index = await layout.index("index", [
      ["amd64", first],
      ["arm64", await layout.image(undefined, [200_000, 3000], "arm64")],
    ]);
    for (const [name, tag, digest] of [
      ["team/app:1.0", "first", first.digest],
      ["team/app:latest", "first", first.digest],
      ["team/app:multi", "index", index.digest],
      ["team/app/cli:2", "second", second.digest],
      ["tools:2", "second", second.digest],
    ] as const) {
      await push(tag, `${old.host}/${name}`);
      expected.set(name, digest);
    }

    // One that is listed, and has nothing any more.
    await push("second", `${old.host}/emptied:1`);
    const emptied = await fetch(`${old.origin}/v2/emptied/manifests/${second.digest}`, { method: "DELETE" });
    expect(emptied.status).toBe(202);
    // And one with layers alone: a push that was broken off.
    const begun = await fetch(`${old.origin}/v2/begun/blobs/uploads/`, { method: "POST" });
    const layer = await fetch(withDigest(uploadUrl(old.origin, begun, 202), digestOf(Buffer.from("layer"))), {
      method: "PUT",
      body: Buffer.from("layer"),
      headers: { "content-type": "application/octet-stream" },
    });
    expect(layer.status).toBe(201);

    source = remoteRegistry(old.origin);
    local = localRegistry({
      storage: { blobs: fileBlobStore(await temporaryFolder()), metadata: memoryMetadataStore() },
      name: "registry",
    });
    all = aggregate({ local, connectors: [{ name: "old", source }] });
    host = await serve(all);
  });

  test("pulls go on all the time, and none fails", async () => {
    let over = false;
    const pulls: string[] = [];
    const failures: unknown[] = [];
    const puller = async () => {
      for (let turn = 0; !over; turn++) {
        const [name, digest] = [...expected][turn % expected.size] ?? ["", ""];
        const pulled = await pull(name).catch((error: unknown) => error);
        if (pulled !== digest) failures.push(name, pulled);
        pulls.push(name);
      }
    };
    const morePulls = async () => {
      const before = pulls.length;
      await expect.poll(() => pulls.length, { timeout: 60_000 }).toBeGreaterThan(before + expected.size);
    };
    const pulling = puller();
    try {
      // Clients talk to the new one: it gives what the old one has, and takes what is pushed.
      await morePulls();
      const pushed = await layout.image("pushed", [100_000]);
      await push("pushed", `${host}/team/app:2.0`);
      await push("pushed", `${host}/new/app:1`);
      for (const name of ["team/app:2.0", "new/app:1"]) expected.set(name, pushed.digest);
      const listed: { Tags: string[] } = JSON.parse(await skopeo("list-tags", "--tls-verify=false", `docker://${host}/team/app`));
      expect(listed.Tags).toEqual(["1.0", "2.0", "latest", "multi"]);
      await morePulls();

      // Everything is copied to local: what is stored here and refers to the old one, then what only the old one has.
      expect((await impactOfRemoving(all, "old")).names.lost).toEqual(["begun", "emptied", "team/app/cli", "tools"]);
      expect(await copyToLocal(all, "all")).toMatchObject({ complete: true });
      // docker-registry 2 ignores `last` and gives the same tags again, so nobody can tell whether its list is whole.
      const { failed, warnings } = await copyToLocal(all, { connector: "old" });
      expect([failed, warnings.filter((warning) => !warning.includes("gives the same"))]).toEqual([[], []]);
      await morePulls();

      // Every tag of the old one stands here at the same digest.
      const selections: { repository: string; tags: string }[] = [];
      for await (const repository of allPages(async (page) => orThrow(await source.listRepositories(page))))
        if ((await source.listTags(repository, { limit: 1 })).kind !== "absent") selections.push({ repository, tags: "*" });
      const written = await createLockFile(source, selections);
      expect(Object.keys(written)).toHaveLength(5);
      expect(await compareLockFile(local, written)).toEqual([]);

      // It is not needed any more.
      await all.setConnectors([]);
      expect(await findDangling(all)).toMatchObject({ dangling: [], unknown: [] });
      await morePulls();
      await old.process.stop();
      await morePulls();
    } finally {
      over = true;
      await pulling;
    }
    expect(failures).toEqual([]);
    for (const [name, digest] of expected) expect(await pull(name)).toBe(digest);
  });
});
