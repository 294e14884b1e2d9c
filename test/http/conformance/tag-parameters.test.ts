import { describe, expect, test } from "vitest";
import { absentDigest, algorithms, freshName, makeImage, makeIndex, push, pushImage } from "./content.js";
import { everywhere } from "./registries.js";

const tagged = (tags: readonly string[]) => tags.map((tag) => `tag=${encodeURIComponent(tag)}`).join("&");
const listed = (header: string | undefined) => header?.split(",").map((tag) => tag.trim());

everywhere((on) => {
  describe.each(algorithms)("%s", (algorithm) => {
    test.each([1, 10, 100])("%i tags with a push by digest, each named in OCI-Tag", async (count) => {
      const repository = freshName();
      const { bytes, digest, mediaType } = await makeImage(on, repository, {}, algorithm);
      const tags = Array.from({ length: count }, (_, i) => `v1.${i}`);
      const put = await on.put(`/v2/${repository}/manifests/${digest}?${tagged(tags)}`, { "Content-Type": mediaType }, bytes);
      expect(put).toMatchObject({
        status: 201,
        headers: { "docker-content-digest": digest, location: `/v2/${repository}/manifests/${digest}` },
      });
      expect(listed(put.headers["oci-tag"])?.sort()).toEqual([...tags].sort());
      expect(await on.tags(repository)).toEqual([...tags].sort());
      for (const tag of tags.slice(0, 10)) {
        expect(await on.tagged(repository, tag)).toBe(digest);
        expect((await on.get(`/v2/${repository}/manifests/${tag}`)).body.equals(bytes)).toBe(true);
      }
    });

    test("an index may have them too", async () => {
      const repository = freshName();
      const index = makeIndex([], {}, algorithm);
      await push(on, repository, index, `${index.digest}?tag=a&tag=b`);
      expect([await on.tagged(repository, "a"), await on.tagged(repository, "b")]).toEqual([index.digest, index.digest]);
    });

    test("with a wrong digest no tag is set", async () => {
      const repository = freshName();
      const { bytes, mediaType } = await makeImage(on, repository, {}, algorithm);
      const put = await on.put(`/v2/${repository}/manifests/${absentDigest(algorithm)}?tag=a`, { "Content-Type": mediaType }, bytes);
      expect(put).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
      expect(put.headers["oci-tag"]).toBeUndefined();
      expect(await on.tagged(repository, "a")).toBeUndefined();
    });
  });

  test("a tag that pointed to another digest is moved", async () => {
    const repository = freshName();
    const old = await pushImage(on, repository, "latest");
    const image = await makeImage(on, repository);
    await push(on, repository, image, `${image.digest}?tag=latest&tag=v2`);
    expect(await on.tagged(repository, "latest")).toBe(image.digest);
    // Deleting the old one must not take the tag that no longer is its.
    expect((await on.delete(`/v2/${repository}/manifests/${old.digest}`)).status).toBe(202);
    expect(await on.tags(repository)).toEqual(["latest", "v2"]);
  });

  test("a tag that is named twice is one", async () => {
    const repository = freshName();
    const { bytes, digest, mediaType } = await makeImage(on, repository);
    const put = await on.put(`/v2/${repository}/manifests/${digest}?tag=a&tag=a`, { "Content-Type": mediaType }, bytes);
    expect([put.status, put.headers["oci-tag"]]).toEqual([201, "a"]);
    expect(await on.tags(repository)).toEqual(["a"]);
  });

  test("a push without them has no OCI-Tag", async () => {
    const repository = freshName();
    const { bytes, digest, mediaType } = await makeImage(on, repository);
    for (const reference of ["v1", digest]) {
      const put = await on.put(`/v2/${repository}/manifests/${reference}`, { "Content-Type": mediaType }, bytes);
      expect([put.status, put.headers["oci-tag"]]).toEqual([201, undefined]);
    }
  });

  test.each(["-bad", ".bad", "a b", "", "x".repeat(129), "a,b", "ä", "sha256:abc"])(
    "an invalid tag is 400, and nothing is stored: %j",
    async (tag) => {
      const repository = freshName();
      const { bytes, digest, mediaType } = await makeImage(on, repository);
      const put = await on.put(`/v2/${repository}/manifests/${digest}?${tagged(["good", tag])}`, { "Content-Type": mediaType }, bytes);
      expect(put).toMatchObject({ status: 400, code: "MANIFEST_INVALID" });
      expect(await on.tagged(repository, "good")).toBeUndefined();
      expect((await on.head(`/v2/${repository}/manifests/${digest}`)).status).toBe(404);
    },
  );

  test("more than 100 are 414, and nothing is stored", async () => {
    const repository = freshName();
    const { bytes, digest, mediaType } = await makeImage(on, repository);
    const tags = Array.from({ length: 101 }, (_, i) => `t${i}`);
    const put = await on.put(`/v2/${repository}/manifests/${digest}?${tagged(tags)}`, { "Content-Type": mediaType }, bytes);
    expect(put.status).toBe(414);
    expect((await on.head(`/v2/${repository}/manifests/${digest}`)).status).toBe(404);
  });

  test("with a push by tag they are 400", async () => {
    const repository = freshName();
    const { bytes, mediaType } = await makeImage(on, repository);
    const put = await on.put(`/v2/${repository}/manifests/v1?tag=v2`, { "Content-Type": mediaType }, bytes);
    expect(put).toMatchObject({ status: 400, code: "MANIFEST_INVALID" });
    expect([await on.tagged(repository, "v1"), await on.tagged(repository, "v2")]).toEqual([undefined, undefined]);
  });
});
