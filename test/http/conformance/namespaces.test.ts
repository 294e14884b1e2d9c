import { localRegistry, mediaTypes, type Registry, routes } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { memoryStorage } from "oci-manifold/storage/memory";
import { describe, expect, test } from "vitest";
import { type Client, json } from "./client.js";
import { absentDigest, freshName, makeImage, pushImage, zeroDigest } from "./content.js";
import { connected, connectedKinds, everywhere } from "./registries.js";

const host = "mirrored.example:5000";
const layer = Buffer.from("a blob of the mirrored registry");
const index = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] }));

/** The registry under test with a namespace that leads elsewhere, to a repository of the same name as one may have here. */
function withNamespace(registry: Registry): Registry {
  const mirrored = localRegistry({ storage: memoryStorage(), name: "mirrored" });
  const filled = Promise.all([
    mirrored.putBlob("library/app", { digest: digestOf(layer) }, chunksOf(layer)),
    mirrored.putManifest("library/app", "latest", { bytes: index }),
  ]);
  const table = routes({}, { fallback: registry, namespaces: { [host]: mirrored } });
  return { ...table, ready: async () => Promise.all([table.ready(), filled]).then(() => undefined) };
}

const encoded = encodeURIComponent(host);
const pulls = [
  ["GET", "manifests/latest", 200],
  ["HEAD", "manifests/latest", 200],
  ["GET", `manifests/${digestOf(index)}`, 200],
  ["GET", `blobs/${digestOf(layer)}`, 200],
  ["HEAD", `blobs/${digestOf(layer)}`, 200],
  ["GET", "tags/list", 200],
  ["GET", `referrers/${zeroDigest()}`, 200],
  ["GET", "manifests/nope", 404],
  ["HEAD", "manifests/nope", 404],
  ["GET", `blobs/${absentDigest()}`, 404],
  ["HEAD", `blobs/${absentDigest()}`, 404],
  ["GET", "tags/list?n=-1", 400],
] as const;

everywhere(
  (on) => {
    const ask = (at: Client, method: string, below: string, ns: string) =>
      at.send(method, `/v2/library/app/${below}${below.includes("?") ? "&" : "?"}ns=${ns}`);

    test.each(pulls)("a configured namespace answers, and is echoed: %s %s is %i", async (method, below, status) => {
      for (const ns of [host, encoded]) {
        expect(await ask(on, method, below, ns)).toMatchObject({ status, headers: { "oci-namespace": host } });
      }
    });

    test("a range and a 304 are echoed too", async () => {
      const path = `/v2/library/app/blobs/${digestOf(layer)}?ns=${encoded}`;
      expect(await on.get(path, { Range: "bytes=2-5" })).toMatchObject({ status: 206, headers: { "oci-namespace": host } });
      expect(await on.get(path, { Range: "bytes=99-" })).toMatchObject({ status: 416, headers: { "oci-namespace": host } });
      expect(await on.get(path, { "If-None-Match": `"${digestOf(layer)}"` })).toMatchObject({
        status: 304,
        headers: { "oci-namespace": host },
      });
    });

    test("a host is the same in upper case", async () => {
      const got = await ask(on, "GET", "manifests/latest", host.toUpperCase());
      expect(got.status).toBe(200);
      expect(got.headers["oci-namespace"]?.toLowerCase()).toBe(host);
    });

    test("Link keeps the namespace", async () => {
      const got = await on.get(`/v2/library/app/tags/list?ns=${encoded}&n=1`);
      expect(json(got)).toEqual({ name: "library/app", tags: ["latest"] });
      expect(got.headers.link).toBeUndefined();
    });

    test("what is here is not there, and the other way round", async () => {
      const repository = freshName();
      await pushImage(on, repository, "mine");
      expect(await on.get(`/v2/${repository}/manifests/mine?ns=${encoded}`)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
      expect(await on.get("/v2/library/app/manifests/latest")).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
      const here = await on.get(`/v2/${repository}/manifests/mine`);
      expect([here.status, here.headers["oci-namespace"]]).toEqual([200, undefined]);
    });

    test.each(["unknown.example", "127.0.0.1:1", "localhost", "169.254.169.254"])(
      "another host is a key that finds nothing, never dialled: %s",
      async (ns) => {
        for (const below of ["manifests/latest", `blobs/${digestOf(layer)}`]) {
          const got = await ask(on, "GET", below, ns);
          expect([got.status, got.headers["oci-namespace"]]).toEqual([404, undefined]);
        }
      },
    );

    test.each(["a%20b", "a/b", "http%3A%2F%2Fa", "a%0d%0aX-Evil%3A1", "%00", "ä", "a@b", "x".repeat(300)])(
      "what is no host is refused: %s",
      async (ns) => {
        const got = await on.raw("GET", encodeURI(`/v2/library/app/manifests/latest?ns=${ns}`).replaceAll("%25", "%"));
        expect(got.status).toBe(400);
        expect([got.headers["oci-namespace"], got.headers["x-evil"]]).toEqual([undefined, undefined]);
      },
    );

    test("an empty one is as if there were none", async () => {
      const repository = freshName();
      await pushImage(on, repository, "mine");
      expect((await on.get(`/v2/${repository}/manifests/mine?ns=`)).status).toBe(200);
    });

    describe("writes", () => {
      test("go where they would without a namespace", async () => {
        const repository = freshName();
        const image = await makeImage(on, repository);
        const put = await on.put(`/v2/${repository}/manifests/v1?ns=${encoded}`, { "Content-Type": image.mediaType }, image.bytes);
        expect([put.status, put.headers["oci-namespace"]]).toEqual([201, undefined]);
        expect(await on.tagged(repository, "v1")).toBe(image.digest);
      });
    });
  },
  { wrap: withNamespace },
);

everywhere((on, kind) => {
  test("without any namespace every one is unknown, also what a connector has", async () => {
    const repository = connectedKinds.includes(kind) ? connected.repository : freshName();
    await pushImage(on, repository, "mine");
    const got = await on.get(`/v2/${repository}/manifests/mine?ns=docker.io`);
    expect(got).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
  });
});
