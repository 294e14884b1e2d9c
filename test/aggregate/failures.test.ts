import type { Lookup, Registry } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { pushImage } from "../fixtures/images.js";
import { site } from "../http/support.js";
import { failing, joined, store } from "./support.js";

const unknown = digestOf(Buffer.from("x"));
const reads: readonly [string, (registry: Registry) => Promise<Lookup<unknown>>][] = [
  ["resolveManifest by tag", (registry) => registry.resolveManifest("app", "1")],
  ["resolveManifest by digest", (registry) => registry.resolveManifest("app", unknown)],
  ["getManifest", (registry) => registry.getManifest("app", unknown)],
  ["resolveBlob", (registry) => registry.resolveBlob("app", unknown)],
  ["getBlob", (registry) => registry.getBlob("app", unknown)],
  ["listTags", (registry) => registry.listTags("app", { limit: 10 })],
];

describe.each(reads)("%s", (_, read) => {
  const connected = (...sources: Registry[]) =>
    joined(sources.map((source, index) => ({ name: `m${index}`, source, onFailure: "next" as const })));

  test("all absent is absent", async () => {
    expect(await read(connected(store("a"), store("b")))).toEqual({ kind: "absent" });
  });

  test("all failures 429 is 429, with the shortest wait", async () => {
    expect(await read(connected(failing("TOOMANYREQUESTS", 9), store("a"), failing("TOOMANYREQUESTS", 4)))).toMatchObject({
      kind: "unavailable",
      error: {
        code: "TOOMANYREQUESTS",
        status: 429,
        retryAfter: 4,
        message: "m0: no; m2: no",
        detail: {
          members: [
            { member: "m0", code: "TOOMANYREQUESTS", message: "no", retryAfter: 9 },
            { member: "m2", code: "TOOMANYREQUESTS", message: "no", retryAfter: 4 },
          ],
        },
      },
    });
  });

  test.each(["DENIED", "UNAUTHORIZED", "UNAVAILABLE"] as const)("%s among them is 503, in 30 seconds where nobody says", async (code) => {
    expect(await read(connected(failing("TOOMANYREQUESTS"), failing(code)))).toMatchObject({
      kind: "unavailable",
      error: { code: "UNAVAILABLE", status: 503, retryAfter: 30, detail: { members: [{ member: "m0" }, { member: "m1", code }] } },
    });
  });
});

test("what a push or delete cannot find out is the same failure, never 'unknown'", async () => {
  const image = await pushImage(store("a"), "app", "1");
  const all = joined([{ name: "down", source: failing("TOOMANYREQUESTS", 7) }]);
  const limited = { code: "TOOMANYREQUESTS", retryAfter: 7, detail: { members: [{ member: "down" }] } };
  await expect(all.putManifest("app", "1", { bytes: image.manifest })).rejects.toMatchObject(limited);
  await expect(all.deleteManifest("app", "1")).rejects.toMatchObject(limited);
  await expect(all.deleteBlob("app", unknown)).rejects.toMatchObject(limited);
});

describe("over HTTP", () => {
  const members = [{ member: "secret-hub", code: "UNAUTHORIZED", message: "no" }];
  const registry = () => joined([{ name: "secret-hub", source: failing("UNAUTHORIZED") }]);
  const paths = ["/v2/app/manifests/1", `/v2/app/blobs/${unknown}`, "/v2/app/tags/list"];

  test.each(paths)("%s names no member to a client that may not know", async (path) => {
    const { fetch } = await site(registry());
    const response = await fetch(path);
    const text = await response.text();
    expect([response.status, response.headers.get("retry-after"), response.headers.get("www-authenticate")]).toEqual([503, "30", null]);
    expect(text).not.toContain("secret-hub");
    expect(JSON.parse(text)).toEqual({ errors: [{ code: "UNAVAILABLE", message: expect.stringContaining("behind this one") }] });
  });

  test.each(paths)("%s tells those who may", async (path) => {
    const { fetch } = await site(registry(), {
      caller: (request) => ({ name: String(request.headers["x-name"]) }),
      authorize: () => true,
      showTopology: (caller) => {
        if (caller?.name === "broken") throw new Error("the host's");
        return caller?.name === "admin";
      },
    });
    const told = async (name: string) => {
      const body = (await (await fetch(path, { headers: { "x-name": name } })).json()) as {
        errors: { message: string; detail?: unknown }[];
      };
      return body.errors[0];
    };
    expect(await told("admin")).toMatchObject({ message: "secret-hub: no", detail: { members } });
    for (const name of ["somebody", "broken"]) expect(await told(name)).not.toHaveProperty("detail");
  });
});
