import { describe, expect, test } from "vitest";
import { type Answer, type Client, json, nextOf } from "./client.js";
import { freshName, makeImage, makeIndex, push, pushImage } from "./content.js";
import { connected, connectedKinds, everywhere } from "./registries.js";

/** A repository with these tags and nothing else. */
async function withTags(on: Client, ...tags: string[]): Promise<string> {
  const repository = freshName();
  const index = makeIndex([], { annotations: { in: repository } });
  for (let i = 0; i < tags.length; i += 100) {
    const some = tags.slice(i, i + 100).map((tag) => `tag=${tag}`);
    await push(on, repository, index, `${index.digest}?${some.join("&")}`);
  }
  return repository;
}

/** Every page of a listing, by its Links. */
async function followed(on: Client, path: string, read: (page: Answer) => string[]): Promise<string[][]> {
  const pages: string[][] = [];
  for (let next: string | undefined = path; next !== undefined && pages.length < 100; ) {
    const page: Answer = await on.get(next);
    expect(page.status).toBe(200);
    pages.push(read(page));
    next = nextOf(page);
  }
  return pages;
}

const tagsOf = (page: Answer) => json<{ tags: string[] }>(page).tags;
const repositoriesOf = (page: Answer) => json<{ repositories: string[] }>(page).repositories;

everywhere((on) => {
  describe("tags/list", () => {
    test("names the repository and its tags in ASCII order", async () => {
      const repository = await withTags(on, "b", "a", "Z", "_x", "10", "9", "a.b", "a-b", "a_b", "aB");
      const got = await on.get(`/v2/${repository}/tags/list`);
      expect(got).toMatchObject({ status: 200, headers: { "content-type": "application/json" } });
      expect(json(got)).toEqual({ name: repository, tags: ["10", "9", "Z", "_x", "a", "a-b", "a.b", "aB", "a_b", "b"] });
      expect(got.headers.link).toBeUndefined();
    });

    test("HEAD is as GET without a body", async () => {
      const repository = await withTags(on, "a");
      const { headers } = await on.get(`/v2/${repository}/tags/list`);
      expect(await on.raw("HEAD", `/v2/${repository}/tags/list`)).toMatchObject({
        status: 200,
        headers: { "content-length": headers["content-length"] },
      });
    });

    test("without tags it is an empty list, never null", async () => {
      const repository = freshName();
      await pushImage(on, repository);
      expect(json(await on.get(`/v2/${repository}/tags/list`))).toEqual({ name: repository, tags: [] });
    });

    test("an unknown repository is NAME_UNKNOWN, also with n=0", async () => {
      for (const query of ["", "?n=0", "?n=5&last=a"]) {
        expect(await on.get(`/v2/${freshName()}/tags/list${query}`)).toMatchObject({ status: 404, code: "NAME_UNKNOWN" });
      }
    });

    test.each([
      ["?n=2", ["a", "b"], true],
      ["?n=4", ["a", "b", "c", "d"], true],
      ["?n=5", ["a", "b", "c", "d", "e"], false],
      ["?n=6", ["a", "b", "c", "d", "e"], false],
      ["?n=2&last=a", ["b", "c"], true],
      ["?last=b&n=2", ["c", "d"], true],
      ["?n=2&last=c", ["d", "e"], false],
      ["?last=c", ["d", "e"], false],
      ["?last=bb", ["c", "d", "e"], false],
      ["?last=A", ["a", "b", "c", "d", "e"], false],
      ["?last=e", [], false],
      ["?last=zzz&n=3", [], false],
      ["?n=0", [], false],
      ["?n=0&last=a", [], false],
      ["?n=007", ["a", "b", "c", "d", "e"], false],
    ])("%s lists %j", async (query, expected, more) => {
      const repository = await withTags(on, "a", "b", "c", "d", "e");
      const got = await on.get(`/v2/${repository}/tags/list${query}`);
      expect([got.status, tagsOf(got), nextOf(got) !== undefined]).toEqual([200, expected, more]);
    });

    test.each(["-1", "x", "1.5", "1e3", "0x10", "NaN", "Infinity", "", "%20", "1,2"])("n=%s is 400", async (n) => {
      const repository = await withTags(on, "a");
      expect((await on.get(`/v2/${repository}/tags/list?n=${n}`)).status).toBe(400);
    });

    test.each([1, 2, 3, 7])("Link leads through every tag once, %i at a time", async (n) => {
      const tags = ["1.0", "1.0-rc", "A", "B", "a", "b", "latest"];
      const pages = await followed(on, `/v2/${await withTags(on, ...tags)}/tags/list?n=${n}`, tagsOf);
      expect(pages.flat()).toEqual(tags);
      expect(pages).toHaveLength(Math.ceil(tags.length / n));
    });

    test("Link keeps other parameters, encoded as they have to be", async () => {
      const repository = await withTags(on, "a", "b", "c");
      const got = await on.get(`/v2/${repository}/tags/list?n=1&x=%2B%26&y=1`);
      const next = new URL(nextOf(got) ?? "", "http://registry.example");
      expect(next.pathname).toBe(`/v2/${repository}/tags/list`);
      expect(Object.fromEntries(next.searchParams)).toEqual({ n: "1", x: "+&", y: "1", last: "a" });
    });

    test("crane asks for 1,000 and gets them; more is clamped, with a Link to the rest", async () => {
      const tags = Array.from({ length: 1050 }, (_, i) => `t${String(i).padStart(4, "0")}`);
      const repository = await withTags(on, ...tags);
      for (const query of ["", "?n=1000", "?n=5000", "?n=99999999999999999999"]) {
        const pages = await followed(on, `/v2/${repository}/tags/list${query}`, tagsOf);
        expect(pages.map((page) => page.length)).toEqual([1000, 50]);
        expect(pages.flat()).toEqual(tags);
      }
    });

    test("a tag that was moved is listed once, and one that was deleted is not", async () => {
      const repository = freshName();
      for (let i = 0; i < 2; i++) await pushImage(on, repository, "moved");
      const gone = await pushImage(on, repository, "gone");
      expect((await on.delete(`/v2/${repository}/manifests/gone`)).status).toBe(202);
      await push(on, repository, gone, "kept");
      expect(await on.tags(repository)).toEqual(["kept", "moved"]);
    });
  });

  describe("_catalog", () => {
    test("lists repositories in ASCII order, page by page", async () => {
      const names = ["zz/b", "zz/a/x", "zz/a", "zz/a-b", "zz/c"];
      for (const name of names) await pushImage(on, name, "v1");
      const sorted = [...names].sort();
      const whole = await on.get("/v2/_catalog?last=zz");
      expect(whole).toMatchObject({ status: 200, headers: { "content-type": "application/json" } });
      expect([json(whole), whole.headers.link]).toEqual([{ repositories: sorted }, undefined]);
      expect((await followed(on, "/v2/_catalog?n=2&last=zz", repositoriesOf)).slice(0, 3)).toEqual([
        sorted.slice(0, 2),
        sorted.slice(2, 4),
        sorted.slice(4),
      ]);
      const every = (await followed(on, "/v2/_catalog?n=7", repositoriesOf)).flat();
      expect(every).toEqual([...new Set(every)].sort());
      expect(every).toEqual(expect.arrayContaining(names));
    });

    test("Link keeps other parameters", async () => {
      for (const name of ["yy/a", "yy/b"]) await pushImage(on, name, "v1");
      const next = new URL(nextOf(await on.get("/v2/_catalog?n=1&last=yy&x=1")) ?? "", "http://registry.example");
      expect([next.pathname, Object.fromEntries(next.searchParams)]).toEqual(["/v2/_catalog", { n: "1", x: "1", last: "yy/a" }]);
    });

    test("n=0 is empty, and what is no number is 400", async () => {
      const got = await on.get("/v2/_catalog?n=0");
      expect([got.status, json(got), got.headers.link]).toEqual([200, { repositories: [] }, undefined]);
      for (const n of ["-1", "x", ""]) expect((await on.get(`/v2/_catalog?n=${n}`)).status).toBe(400);
    });

    test("a page beyond the last is empty", async () => {
      expect(json(await on.get("/v2/_catalog?last=zzzzz"))).toEqual({ repositories: [] });
    });

    test("what only was asked for or begun is not listed", async () => {
      await on.get("/v2/xx/asked/manifests/latest");
      await on.begin("xx/begun");
      await on.put("/v2/xx/refused/manifests/latest", {}, "no json");
      const image = await makeImage(on, "xx/real");
      await push(on, "xx/real", image, "v1");
      expect(json(await on.get("/v2/_catalog?last=xx&n=1"))).toEqual({ repositories: ["xx/real"] });
    });
  });
});

everywhere(
  (on) => {
    test("tags and repositories of connectors are listed with one's own, each once", async () => {
      const { repository, tag } = connected;
      for (const mine of ["a-mine", "z-mine", tag]) await pushImage(on, repository, mine);
      const pages = await followed(on, `/v2/${repository}/tags/list?n=2`, tagsOf);
      expect(pages).toEqual([["a-mine", tag], ["z-mine"]]);
      const every = (await followed(on, "/v2/_catalog?n=1", repositoriesOf)).flat();
      expect(every.filter((name) => name === repository)).toEqual([repository]);
    });
  },
  { kinds: connectedKinds },
);
