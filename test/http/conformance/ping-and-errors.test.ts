import { readOnly, routes } from "oci-manifold";
import { describe, expect, test } from "vitest";
import { raw } from "../support.js";
import { json } from "./client.js";
import { absentDigest, algorithms, freshName, octets, pushImage, zeroDigest } from "./content.js";
import { everywhere } from "./registries.js";

const hex = "0".repeat(64);

everywhere((on) => {
  describe("ping", () => {
    test.each(["/v2/", "/v2"])("GET and HEAD %s is 200 with an empty object", async (path) => {
      const got = await on.get(path);
      expect(got).toMatchObject({ status: 200, headers: { "content-type": "application/json", "content-length": "2" } });
      expect(json(got)).toEqual({});
      expect(await on.raw("HEAD", path)).toMatchObject({ status: 200, headers: { "content-length": "2" } });
    });

    test("what is not below /v2/ is 404", async () => {
      expect((await on.raw("GET", "/v2x/")).status).toBe(404);
    });
  });

  describe("errors", () => {
    test.each(["latest", zeroDigest(), zeroDigest("sha512"), ".INVALID_MANIFEST_NAME"])(
      "podman: an unknown manifest is MANIFEST_UNKNOWN, also in an unknown repository (%s)",
      async (reference) => {
        const known = freshName();
        await pushImage(on, known, "other");
        for (const repository of [known, freshName()]) {
          const path = `/v2/${repository}/manifests/${reference}`;
          expect(await on.get(path)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
          expect((await on.head(path)).status).toBe(404);
          expect(await on.delete(path)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
        }
      },
    );

    test.each(algorithms)("an unknown blob is BLOB_UNKNOWN (%s)", async (algorithm) => {
      const path = `/v2/${freshName()}/blobs/${absentDigest(algorithm)}`;
      expect(await on.get(path)).toMatchObject({ status: 404, code: "BLOB_UNKNOWN" });
      expect(await on.get(path, { Range: "bytes=0-1" })).toMatchObject({ status: 404, code: "BLOB_UNKNOWN" });
      expect((await on.head(path)).status).toBe(404);
      expect(await on.delete(path)).toMatchObject({ status: 404, code: "BLOB_UNKNOWN" });
    });

    test("the error of a HEAD has no body on the wire", async () => {
      for (const path of [`/v2/app/manifests/${zeroDigest()}`, `/v2/app/blobs/${zeroDigest()}`, "/v2/app/blobs/sha256:short"]) {
        expect((await on.raw("HEAD", path)).status).toBeGreaterThanOrEqual(400);
      }
    });

    test.each([
      "md5:d41d8cd98f00b204e9800998ecf8427e",
      `sha256:${hex}0`,
      `sha256:${hex.slice(1)}`,
      `sha256:${"A".repeat(64)}`,
      `SHA256:${hex}`,
      `sha512:${hex}`,
      `sha256:${hex.slice(2)}zz`,
      "sha256:",
    ])("what has a colon and is no digest is DIGEST_INVALID (%s)", async (text) => {
      const manifest = `/v2/app/manifests/${text}`;
      expect(await on.get(manifest)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
      expect((await on.head(manifest)).status).toBe(400);
      expect(await on.put(manifest, {}, "{}")).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
      expect(await on.delete(manifest)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
      expect(await on.get(`/v2/app/blobs/${text}`)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
      expect(await on.delete(`/v2/app/blobs/${text}`)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
      expect(await on.get(`/v2/app/referrers/${text}`)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
    });

    test.each([
      ["POST", "/v2/"],
      ["POST", "/v2/app/manifests/latest"],
      ["PATCH", "/v2/app/manifests/latest"],
      ["PUT", `/v2/app/blobs/${zeroDigest()}`],
      ["POST", `/v2/app/blobs/${zeroDigest()}`],
      ["PUT", "/v2/app/tags/list"],
      ["DELETE", "/v2/app/tags/list"],
      ["POST", `/v2/app/referrers/${zeroDigest()}`],
      ["DELETE", "/v2/_catalog"],
    ])("a method that a path does not have is 405 with Allow (%s %s)", async (method, path) => {
      const got = await on.send(method, path);
      expect(got).toMatchObject({ status: 405, code: "UNSUPPORTED" });
      const allowed = got.headers.allow?.split(", ");
      expect(allowed).toContain("GET");
      expect(allowed).not.toContain(method);
    });

    test("a body that a refusal did not read does not break the connection", async () => {
      const large = "x".repeat(300_000);
      const text = `PUT /v2/app/blobs/${zeroDigest()} HTTP/1.1\r\nHost: x\r\nContent-Length: ${large.length}\r\n\r\n${large}`;
      const answered = await raw(on.port, `${text}GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
      expect(answered.match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 405", "HTTP/1.1 200"]);
    });
  });

  describe("names", () => {
    const segments255 = `${"a".repeat(63)}/${"b".repeat(63)}/${"c".repeat(63)}/${"d".repeat(63)}`;

    test.each([
      "a",
      "0",
      "a.b",
      "a_b",
      "a__b",
      "a-b",
      "a---b",
      "a/b-c/d.e",
      "blobs",
      "manifests",
      "tags/list",
      "a/blobs/uploads",
      "a/manifests/b",
      "a/referrers",
      segments255,
    ])("%s is a repository", async (repository) => {
      const digest = await on.pushBlob(repository, Buffer.from(repository));
      expect((await on.get(`/v2/${repository}/blobs/${digest}`)).body.toString()).toBe(repository);
      const { digest: image } = await pushImage(on, repository, "v1");
      expect(await on.tagged(repository, "v1")).toBe(image);
      expect(await on.tags(repository)).toEqual(["v1"]);
      expect(await on.referrers(repository, image)).toEqual([]);
    });

    test.each([
      "A",
      "a/B",
      "-a",
      "a-",
      "_a",
      "a_",
      ".a",
      "a.",
      "a..b",
      "a___b",
      "a._b",
      "a//b",
      "/a",
      "a/",
      "a b",
      "ä",
      "a:b",
      "a@b",
      "a/_b",
      "_oci",
      `${segments255}e`,
    ])("%s is none: NAME_INVALID, and nothing can be pushed", async (repository) => {
      const path = encodeURI(`/v2/${repository}`);
      for (const [method, below] of [
        ["GET", "tags/list"],
        ["GET", `blobs/${zeroDigest()}`],
        ["GET", `referrers/${zeroDigest()}`],
        ["POST", "blobs/uploads/"],
      ] as const) {
        expect(await on.raw(method, `${path}/${below}`)).toMatchObject({ status: 400, code: "NAME_INVALID" });
      }
      const put = await on.raw("PUT", `${path}/manifests/latest`, ["Content-Length: 2"], "{}");
      expect(put).toMatchObject({ status: 400, code: "NAME_INVALID" });
    });

    test.each(["a", "_", "A.b-c_d", "0.1", "x".repeat(128)])("%s is a tag", async (tag) => {
      const repository = freshName();
      const { digest } = await pushImage(on, repository, tag);
      expect(await on.tagged(repository, tag)).toBe(digest);
    });

    test.each([".a", "-a", "a+b", "a~b", "ä", "a@b", "x".repeat(129)])("%s is none: 400 to a push, 404 to a pull", async (tag) => {
      const path = `/v2/app/manifests/${encodeURIComponent(tag)}`;
      expect(await on.put(path, {}, "{}")).toMatchObject({ status: 400, code: "MANIFEST_INVALID" });
      expect(await on.get(path)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
    });
  });

  describe("percent encoding", () => {
    test("each segment is decoded once", async () => {
      const repository = freshName();
      const digest = await on.pushBlob(repository, Buffer.from("x"));
      const image = await pushImage(on, repository, "v1");
      for (const colon of ["%3A", "%3a"]) {
        expect((await on.raw("GET", `/v2/${repository}/blobs/${digest.replace(":", colon)}`)).status).toBe(200);
        expect((await on.raw("GET", `/v2/${repository}/manifests/${image.digest.replace(":", colon)}`)).status).toBe(200);
        expect((await on.raw("GET", `/v2/${repository}/referrers/${image.digest.replace(":", colon)}`)).status).toBe(200);
      }
      // What needs no encoding would pass rules for paths that a host has in front.
      expect((await on.raw("GET", `/v2/${repository.replace("t", "%74")}/tags/list`)).status).toBe(400);
      expect((await on.raw("GET", `/v2/${repository.replace("t", "%2574")}/tags/list`)).status).toBe(400);
      expect((await on.raw("GET", `/v2/${repository}/blobs/${digest.replace(":", "%253A")}`)).status).toBe(400);
    });

    test.each(["a%2Fb", "a%2fb", "a/../b", "..", "a/.", "%2e%2e", "a/%2E%2E/b", "a%00", "a\\b", "a%5Cb", "a%zz", "a%", "%E0%A4%A"])(
      "%s is refused as a name",
      async (segment) => {
        for (const below of ["tags/list", `blobs/${zeroDigest()}`, "manifests/latest"]) {
          expect((await on.raw("GET", `/v2/${segment}/${below}`)).status).toBe(400);
        }
        expect((await on.raw("POST", `/v2/${segment}/blobs/uploads/`)).status).toBe(400);
      },
    );

    test.each(["a%2Fb", "..", "%2e%2e", "a%00b", "a\\b", "a%5Cb", "%2e%2e%2fx", "%zz"])(
      "%s is refused as a tag, a digest and a session",
      async (segment) => {
        expect((await on.raw("PUT", `/v2/app/manifests/${segment}`, ["Content-Length: 2"], "{}")).status).toBe(400);
        expect([400, 404]).toContain((await on.raw("GET", `/v2/app/manifests/${segment}`)).status);
        expect((await on.raw("GET", `/v2/app/blobs/${segment}`)).status).toBe(400);
        expect([400, 404]).toContain((await on.raw("GET", `/v2/app/blobs/uploads/${segment}`)).status);
      },
    );
  });
});

everywhere(
  (on) => {
    test("what is switched off is 405 UNSUPPORTED", async () => {
      expect(await on.delete("/v2/app/manifests/latest")).toMatchObject({ status: 405, code: "UNSUPPORTED" });
      expect(await on.delete(`/v2/app/manifests/${zeroDigest()}`)).toMatchObject({ status: 405, code: "UNSUPPORTED" });
      expect(await on.delete(`/v2/app/blobs/${zeroDigest()}`)).toMatchObject({ status: 405, code: "UNSUPPORTED" });
      expect(await on.post("/v2/app/blobs/uploads/")).toMatchObject({ status: 405, code: "UNSUPPORTED" });
      const put = await on.put(
        "/v2/app/manifests/latest",
        {},
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}',
      );
      expect(put).toMatchObject({ status: 405, code: "UNSUPPORTED" });
    });
  },
  { wrap: readOnly },
);

everywhere(
  (on) => {
    const ann = { "X-User": "ann" };

    test("anonymous pull, authenticated push: /v2/ issues the challenge, pulls do not", async () => {
      expect(await on.get("/v2/")).toMatchObject({
        status: 401,
        code: "UNAUTHORIZED",
        headers: { "www-authenticate": 'Basic realm="test"' },
      });
      expect((await on.get("/v2/", ann)).status).toBe(200);
      expect((await on.get(`/v2/app/blobs/${zeroDigest()}`)).status).toBe(404);
    });

    test("an anonymous caller is asked to sign in, a known one is denied", async () => {
      const bob = { "X-User": "bob" };
      for (const [method, path] of [
        ["POST", "/v2/app/blobs/uploads/"],
        ["PUT", "/v2/app/manifests/latest"],
        ["DELETE", "/v2/app/manifests/latest"],
        ["DELETE", `/v2/app/blobs/${zeroDigest()}`],
        ["GET", `/v2/app/blobs/uploads/${"0".repeat(32)}`],
        ["PATCH", `/v2/app/blobs/uploads/${"0".repeat(32)}`],
        ["DELETE", `/v2/app/blobs/uploads/${"0".repeat(32)}`],
      ] as const) {
        expect(await on.send(method, path)).toMatchObject({ status: 401, code: "UNAUTHORIZED" });
        expect(await on.send(method, path, bob)).toMatchObject({ status: 403, code: "DENIED" });
      }
      expect((await on.post("/v2/app/blobs/uploads/", { ...ann, ...octets })).status).toBe(202);
    });
  },
  {
    handler: {
      challenge: 'Basic realm="test"',
      caller: ({ headers }) => (typeof headers["x-user"] === "string" ? { name: headers["x-user"] } : undefined),
      authorize: ({ caller, action }) => action === "pull" || caller?.name === "ann",
    },
  },
);

everywhere(
  (on) => {
    test("podman: below a name that no registry of a table has, a manifest is MANIFEST_UNKNOWN", async () => {
      const path = "/v2/elsewhere/app/manifests/latest";
      expect(await on.get(path)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
      expect(await on.delete(path)).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
      expect(await on.post("/v2/elsewhere/app/blobs/uploads/")).toMatchObject({ status: 404, code: "NAME_UNKNOWN" });
      expect(await on.get("/v2/elsewhere/app/tags/list")).toMatchObject({ status: 404, code: "NAME_UNKNOWN" });
      await pushImage(on, "here/app", "latest");
      expect(await on.tags("here/app")).toEqual(["latest"]);
    });
  },
  { wrap: (registry) => routes({ here: registry }) },
);
