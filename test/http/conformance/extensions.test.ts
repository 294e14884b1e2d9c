import { expect, test } from "vitest";
import { json } from "./client.js";
import { freshName, pushImage } from "./content.js";
import { everywhere } from "./registries.js";

/** distribution-spec, extensions/_oci.md */
interface Extension {
  readonly name: string;
  readonly url: string;
  readonly description?: string;
  readonly endpoints: readonly string[];
}

everywhere((on) => {
  const discovered = async (path: string): Promise<readonly Extension[]> => {
    const got = await on.get(path);
    expect(got).toMatchObject({ status: 200, headers: { "content-type": "application/json" } });
    const { extensions, ...rest } = json<{ extensions: Extension[] }>(got);
    expect(rest).toEqual({});
    for (const { name, url, description = "", endpoints, ...others } of extensions) {
      expect(name).toMatch(/^_[a-z0-9]+([._-][a-z0-9]+)*$/);
      expect(url).toMatch(/^https:\/\//);
      expect([typeof description, others]).toEqual(["string", {}]);
      expect(endpoints.length).toBeGreaterThan(0);
      for (const endpoint of endpoints) expect(endpoint).toMatch(/^_[a-z0-9]/);
    }
    return extensions;
  };

  test("the registry's extensions are discovered, this one among them", async () => {
    const extensions = await discovered("/v2/_oci/ext/discover");
    expect(extensions.find(({ name }) => name === "_oci")?.endpoints).toContain("_oci/ext/discover");
    expect(new Set(extensions.map(({ name }) => name)).size).toBe(extensions.length);
  });

  test("a repository's extensions are discovered", async () => {
    const repository = freshName();
    await pushImage(on, repository, "v1");
    const extensions = await discovered(`/v2/${repository}/_oci/ext/discover`);
    expect(extensions.find(({ name }) => name === "_oci")?.endpoints).toContain("_oci/ext/discover");
  });

  test("every endpoint that is named exists, below /v2/ or below the repository", async () => {
    const repository = freshName();
    await pushImage(on, repository, "v1");
    for (const base of ["/v2", `/v2/${repository}`]) {
      for (const { endpoints } of await discovered(`${base}/_oci/ext/discover`)) {
        for (const endpoint of endpoints) expect((await on.get(`${base}/${endpoint}`)).status).toBe(200);
      }
    }
  });

  test("HEAD is as GET without a body", async () => {
    const { headers } = await on.get("/v2/_oci/ext/discover");
    expect(await on.raw("HEAD", "/v2/_oci/ext/discover")).toMatchObject({
      status: 200,
      headers: { "content-length": headers["content-length"] },
    });
  });

  test("another method is 405", async () => {
    for (const method of ["POST", "PUT", "DELETE"])
      expect(await on.send(method, "/v2/_oci/ext/discover")).toMatchObject({ status: 405, code: "UNSUPPORTED" });
  });

  test.each([
    "_unknown/ext/discover",
    "_oci/unknown/discover",
    "_oci/ext/unknown",
    "_oci",
    "app/_unknown/ext/discover",
    "NOT/_oci/ext/discover",
  ])("an unknown extension is an error: %s", async (path) => {
    expect([400, 404]).toContain((await on.get(`/v2/${path}`)).status);
  });

  test.each(["_oci", "_oci/ext", "app/_oci", "_catalog"])(
    "a segment that begins with _ is never part of a repository: %s",
    async (name) => {
      expect(await on.post(`/v2/${name}/blobs/uploads/`)).toMatchObject({ status: 400, code: "NAME_INVALID" });
      expect(await on.get(`/v2/${name}/tags/list`)).toMatchObject({ status: 400, code: "NAME_INVALID" });
    },
  );
});
