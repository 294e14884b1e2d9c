import { describe, expect, test } from "vitest";
import type { Answer, Fields } from "./client.js";
import { absentDigest, algorithms, type Document, freshName, makeImage, push, pushImage } from "./content.js";
import { everywhere } from "./registries.js";

everywhere((on) => {
  const put = (repository: string, reference: string, { bytes, mediaType }: Document, headers: Fields): Promise<Answer> =>
    on.put(`/v2/${repository}/manifests/${reference}`, { "Content-Type": mediaType, ...headers }, bytes);
  const remove = (repository: string, reference: string, headers: Fields) => on.delete(`/v2/${repository}/manifests/${reference}`, headers);
  const failed = { status: 412, code: "PRECONDITION_FAILED" };

  describe("reads", () => {
    test.each(algorithms)("If-None-Match of the ETag is 304 by tag and by digest (%s)", async (algorithm) => {
      const repository = freshName();
      const image = await makeImage(on, repository, {}, algorithm);
      await push(on, repository, image, `${image.digest}?tag=v1`);
      for (const reference of ["v1", image.digest]) {
        const path = `/v2/${repository}/manifests/${reference}`;
        const { etag = "" } = (await on.head(path)).headers;
        expect(etag).toBe(`"${image.digest}"`);
        for (const value of [etag, `W/${etag}`, `"other", ${etag}`, "*"]) {
          for (const method of ["GET", "HEAD"]) {
            const got = await on.send(method, path, { "If-None-Match": value });
            expect(got).toMatchObject({ status: 304, headers: { etag, "docker-content-digest": image.digest } });
          }
        }
        expect((await on.get(path, { "If-None-Match": '"other"' })).body.equals(image.bytes)).toBe(true);
      }
    });

    test("If-None-Match of where the tag stood before is 200 with what it is now", async () => {
      const repository = freshName();
      const before = await pushImage(on, repository, "v1");
      const now = await pushImage(on, repository, "v1");
      const got = await on.get(`/v2/${repository}/manifests/v1`, { "If-None-Match": `"${before.digest}"` });
      expect([got.status, got.body.equals(now.bytes)]).toEqual([200, true]);
    });

    test("If-None-Match of what is not there is 404", async () => {
      const got = await on.get(`/v2/${freshName()}/manifests/v1`, { "If-None-Match": "*" });
      expect(got).toMatchObject({ status: 404, code: "MANIFEST_UNKNOWN" });
    });
  });

  describe("If-None-Match: *", () => {
    test("creates a tag and does not move one", async () => {
      const repository = freshName();
      const [first, second] = [await makeImage(on, repository), await makeImage(on, repository)];
      expect((await put(repository, "v1", first, { "If-None-Match": "*" })).status).toBe(201);
      expect(await put(repository, "v1", second, { "If-None-Match": "*" })).toMatchObject(failed);
      expect(await on.tagged(repository, "v1")).toBe(first.digest);
    });

    test("is about a digest too", async () => {
      const repository = freshName();
      const image = await makeImage(on, repository);
      expect((await put(repository, image.digest, image, { "If-None-Match": "*" })).status).toBe(201);
      expect(await put(repository, image.digest, image, { "If-None-Match": "*" })).toMatchObject(failed);
    });

    test("of two writers exactly one wins", async () => {
      for (let round = 0; round < 4; round++) {
        const repository = freshName();
        const images = await Promise.all(Array.from({ length: 4 }, () => makeImage(on, repository)));
        const got = await Promise.all(images.map((image) => put(repository, "v1", image, { "If-None-Match": "*" })));
        expect(got.map(({ status }) => status).sort()).toEqual([201, 412, 412, 412]);
        expect(await on.tagged(repository, "v1")).toBe(images[got.findIndex(({ status }) => status === 201)]?.digest);
      }
    });
  });

  describe("If-Match", () => {
    test("moves a tag from where the writer saw it, and from nowhere else", async () => {
      const repository = freshName();
      const [first, second] = [await makeImage(on, repository), await makeImage(on, repository)];
      await push(on, repository, first, "v1");
      for (const value of [`"${second.digest}"`, `"${absentDigest()}"`, '"x"', `W/"${first.digest}"`]) {
        expect(await put(repository, "v1", second, { "If-Match": value })).toMatchObject(failed);
      }
      expect(await on.tagged(repository, "v1")).toBe(first.digest);
      expect((await put(repository, "v1", second, { "If-Match": `"${first.digest}"` })).status).toBe(201);
      expect((await put(repository, "v1", first, { "If-Match": `"x", "${second.digest}"` })).status).toBe(201);
      expect((await put(repository, "v1", second, { "If-Match": "*" })).status).toBe(201);
      expect(await on.tagged(repository, "v1")).toBe(second.digest);
    });

    test("of what is not there fails", async () => {
      const repository = freshName();
      const image = await makeImage(on, repository);
      for (const value of ["*", `"${image.digest}"`])
        expect(await put(repository, "v1", image, { "If-Match": value })).toMatchObject(failed);
      expect(await on.tagged(repository, "v1")).toBeUndefined();
    });

    test("of two writers exactly one wins", async () => {
      const repository = freshName();
      let { digest } = await pushImage(on, repository, "v1");
      for (let round = 0; round < 4; round++) {
        const images = await Promise.all(Array.from({ length: 4 }, () => makeImage(on, repository)));
        const got = await Promise.all(images.map((image) => put(repository, "v1", image, { "If-Match": `"${digest}"` })));
        expect(got.map(({ status }) => status).sort()).toEqual([201, 412, 412, 412]);
        digest = images[got.findIndex(({ status }) => status === 201)]?.digest ?? "";
        expect(await on.tagged(repository, "v1")).toBe(digest);
      }
    });
  });

  describe("If-Match on DELETE", () => {
    test("a tag is deleted only where the caller saw it", async () => {
      const repository = freshName();
      const before = await pushImage(on, repository, "v1");
      const now = await pushImage(on, repository, "v1");
      for (const value of [`"${before.digest}"`, '"x"'])
        expect(await remove(repository, "v1", { "If-Match": value })).toMatchObject(failed);
      expect(await on.tagged(repository, "v1")).toBe(now.digest);
      expect((await remove(repository, "v1", { "If-Match": `"x", "${now.digest}"` })).status).toBe(202);
      expect(await on.tagged(repository, "v1")).toBeUndefined();
    });

    test("a digest is its own ETag", async () => {
      const repository = freshName();
      const { digest } = await pushImage(on, repository, "v1");
      expect(await remove(repository, digest, { "If-Match": `"${absentDigest()}"` })).toMatchObject(failed);
      expect(await on.tagged(repository, "v1")).toBe(digest);
      expect((await remove(repository, digest, { "If-Match": `"${digest}"` })).status).toBe(202);
      expect(await on.tagged(repository, "v1")).toBeUndefined();
    });

    test("* is whatever is there, and what is not there is refused", async () => {
      const repository = freshName();
      await pushImage(on, repository, "v1");
      expect((await remove(repository, "v1", { "If-Match": "*" })).status).toBe(202);
      expect([404, 412]).toContain((await remove(repository, "v1", { "If-Match": "*" })).status);
    });

    test("of a writer and a deleter exactly one wins", async () => {
      for (let round = 0; round < 4; round++) {
        const repository = freshName();
        const old = await pushImage(on, repository, "v1");
        const image = await makeImage(on, repository);
        const seen = { "If-Match": `"${old.digest}"` };
        const [written, removed] = await Promise.all([put(repository, "v1", image, seen), remove(repository, "v1", seen)]);
        if (written.status === 201) {
          expect(removed).toMatchObject(failed);
          expect(await on.tagged(repository, "v1")).toBe(image.digest);
        } else {
          expect([written.status, removed.status]).toEqual([412, 202]);
          expect(await on.tagged(repository, "v1")).toBeUndefined();
        }
      }
    });
  });
});
