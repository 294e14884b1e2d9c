import fc from "fast-check";
import { expect, test } from "vitest";
import { isRepositoryName } from "../../src/core/name.js";
import { isApiPath, parseRoute, splitTarget } from "../../src/http/dispatch.js";

const digest = `sha256:${"a".repeat(64)}`;

test.each([
  ["/v2", { kind: "ping" }],
  ["/v2/", { kind: "ping" }],
  ["/v2/_catalog", { kind: "catalog" }],
  ["/v2/team/app/tags/list", { kind: "tags", repository: "team/app" }],
  ["/v2/app/manifests/latest", { kind: "manifest", repository: "app", reference: "latest" }],
  ["/v2/app/manifests/_tag", { kind: "manifest", repository: "app", reference: "_tag" }],
  ["/v2/app/manifests/v1..2", { kind: "manifest", repository: "app", reference: "v1..2" }],
  [`/v2/app/blobs/${digest}`, { kind: "blob", repository: "app", digest }],
  [`/v2/app/blobs/${digest.replace(":", "%3A")}`, { kind: "blob", repository: "app", digest }],
  ["/v2/app/blobs/uploads", { kind: "uploads", repository: "app" }],
  ["/v2/app/blobs/uploads/", { kind: "uploads", repository: "app" }],
  ["/v2/app/blobs/uploads/0123abcd", { kind: "upload", repository: "app", id: "0123abcd" }],
  [`/v2/app/referrers/${digest}`, { kind: "referrers", repository: "app", digest }],
  // Names may hold the words of the grammar.
  ["/v2/a/manifests/b/manifests/c", { kind: "manifest", repository: "a/manifests/b", reference: "c" }],
  ["/v2/blobs/uploads/tags/list", { kind: "tags", repository: "blobs/uploads" }],
  ["/v2/blobs/uploads/blobs/uploads/", { kind: "uploads", repository: "blobs/uploads" }],
  ["/v2/tags/list/manifests/tags", { kind: "manifest", repository: "tags/list", reference: "tags" }],
])("%s", (path, route) => {
  expect(parseRoute(path)).toEqual({ kind: "route", route });
});

test.each([
  ["/v2/a%2Fb/tags/list", "NAME_INVALID", 400],
  ["/v2/a%252Fb/tags/list", "NAME_INVALID", 400],
  ["/v2/a/../b/tags/list", "NAME_INVALID", 400],
  ["/v2/a/%2e%2e/b/tags/list", "NAME_INVALID", 400],
  ["/v2/a/./b/tags/list", "NAME_INVALID", 400],
  // A rule of the host's for a prefix of the path must not see another name than we do.
  ["/v2/%70rivate/tags/list", "NAME_INVALID", 400],
  ["/v2/%61pp/tags/list", "NAME_INVALID", 400],
  ["/v2/private/app/manifests/v1%2E0", "NAME_INVALID", 400],
  ["/v2/private/%6Danifests/latest", "NAME_INVALID", 400],
  ["/v2/a%2Db/tags/list", "NAME_INVALID", 400],
  ["/v2/a%5fb/tags/list", "NAME_INVALID", 400],
  [`/v2/app/blobs/sha25%36:${digest.slice(7)}`, "NAME_INVALID", 400],
  ["/v2/a\\b/tags/list", "NAME_INVALID", 400],
  ["/v2/a%5Cb/tags/list", "NAME_INVALID", 400],
  ["/v2/a%00/tags/list", "NAME_INVALID", 400],
  ["/v2/a%zz/tags/list", "NAME_INVALID", 400],
  ["/v2/a%ff/tags/list", "NAME_INVALID", 400],
  ["/v2/A/tags/list", "NAME_INVALID", 400],
  ["/v2/_a/tags/list", "NAME_INVALID", 400],
  ["/v2/a//b/tags/list", "NAME_INVALID", 400],
  [`/v2/${"a".repeat(256)}/tags/list`, "NAME_INVALID", 400],
  [`/v2/${"a/".repeat(600)}tags/list`, "NAME_INVALID", 400],
  ["/v2/manifests/latest", "NAME_INVALID", 400],
  ["/v2/a/blobs/latest", "DIGEST_INVALID", 400],
  [`/v2/a/blobs/${digest.toUpperCase()}`, "DIGEST_INVALID", 400],
  ["/v2/a/blobs/md5:00", "DIGEST_INVALID", 400],
  ["/v2/a/referrers/sha256:00", "DIGEST_INVALID", 400],
  ["/v2/a/blobs/uploads/%7B%7D", "BLOB_UPLOAD_UNKNOWN", 404],
  ["/v2/app", "NAME_UNKNOWN", 404],
  ["/v2/app/tags", "NAME_UNKNOWN", 404],
  ["/v2/_oci/ext/other", "NAME_INVALID", 404],
  ["/v2/_other/ext/discover", "NAME_INVALID", 404],
  ["/v2/_unknown", "NAME_INVALID", 404],
])("%s is refused", (path, code, status) => {
  expect(parseRoute(path)).toMatchObject({ kind: "invalid", error: { code, status } });
});

test("what is not below /v2 is the host's", () => {
  for (const path of ["/v2", "/v2/", "/v2/x"]) expect(isApiPath(path)).toBe(true);
  for (const path of ["/", "/v1/", "/v22", "/V2/", "v2/", "/api/v2/"]) expect(isApiPath(path)).toBe(false);
});

test("a target has a path and a query, and may name the host", () => {
  expect(splitTarget("/v2/a?x=1?y")).toEqual({ path: "/v2/a", query: "x=1?y" });
  expect(splitTarget("http://registry:5000/v2/a?n=1")).toEqual({ path: "/v2/a", query: "n=1" });
  expect(splitTarget("*")).toEqual({ path: "*", query: "" });
});

test("whatever the path, the router does not throw and lets no invalid name through", () => {
  const piece = fc.oneof(
    fc.string(),
    fc.string({ unit: "binary" }),
    fc.constantFrom(
      "manifests",
      "blobs",
      "uploads",
      "tags",
      "list",
      "referrers",
      "..",
      "%2e",
      "%2F",
      "%00",
      "%",
      "_catalog",
      "app",
      "A",
      "",
      digest,
    ),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 8 }), (pieces) => {
      const result = parseRoute(`/v2/${pieces.join("/")}`);
      if (result.kind === "invalid") {
        expect([400, 404]).toContain(result.error.status);
        return;
      }
      if ("repository" in result.route && result.route.repository !== undefined)
        expect(isRepositoryName(result.route.repository)).toBe(true);
      if ("id" in result.route) expect(result.route.id).not.toMatch(/[/\\\0]/);
    }),
    { numRuns: 3000 },
  );
});
