import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { type Client, json, nextOf, type ReferrerDescriptor } from "./client.js";
import {
  type Algorithm,
  absentDigest,
  algorithms,
  type Document,
  describing,
  descriptorOf,
  emptyType,
  freshName,
  makeArtifact,
  makeImage,
  makeIndex,
  push,
  pushImage,
  zeroDigest,
} from "./content.js";
import { everywhere } from "./registries.js";

const sbom = "application/spdx+json";
const signature = "application/vnd.dev.sigstore.bundle+json;version=0.3";

/** distribution-spec, "Referrers Tag Schema". */
const fallbackTag = (digest: string) => digest.replace(":", "-").slice(0, "sha256-".length + 64);

async function referring(
  on: Client,
  repository: string,
  subject: Document,
  more: object = {},
  algorithm: Algorithm = "sha256",
): Promise<Document> {
  return push(on, repository, await makeArtifact(on, repository, { subject: descriptorOf(subject), ...more }, algorithm));
}

const digestsOf = (descriptors: readonly { digest: string }[]) => descriptors.map(({ digest }) => digest).sort();

everywhere((on) => {
  test.each([zeroDigest(), zeroDigest("sha512"), absentDigest()])(
    "oras: there is such an API, also for an unknown repository and subject (%s)",
    async (subject) => {
      const known = freshName();
      await pushImage(on, known, "v1");
      for (const repository of [known, freshName()]) {
        for (const query of ["", "?artifactType=application/vnd.example"]) {
          const got = await on.get(`/v2/${repository}/referrers/${subject}${query}`);
          expect(got).toMatchObject({ status: 200, headers: { "content-type": mediaTypes.ociIndex } });
          expect(json(got)).toEqual({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] });
        }
      }
    },
  );

  test("HEAD is as GET without a body", async () => {
    const path = `/v2/${freshName()}/referrers/${zeroDigest()}`;
    const { headers } = await on.get(path);
    expect(await on.raw("HEAD", path)).toMatchObject({
      status: 200,
      headers: { "content-type": mediaTypes.ociIndex, "content-length": headers["content-length"] },
    });
  });

  test.each(["latest", "sha256:short", `md5:${"0".repeat(32)}`, ""])("a subject that is no digest is 400: %j", async (subject) => {
    expect(await on.get(`/v2/app/referrers/${subject}`)).toMatchObject({ status: 400, code: "DIGEST_INVALID" });
  });

  describe.each(algorithms)("%s", (algorithm) => {
    test("each kind of manifest with its artifactType and annotations", async () => {
      const repository = freshName();
      const subject = await push(on, repository, await makeImage(on, repository, {}, algorithm));
      const annotations = { "org.example.a": "1", "org.example.b": "é" };
      const more = { subject: descriptorOf(subject), annotations };
      const expected: ReferrerDescriptor[] = [];
      const add = async (document: Document, artifactType: string | undefined) => {
        await push(on, repository, document);
        expected.push({ ...descriptorOf(document), ...(artifactType !== undefined && { artifactType }), annotations });
      };
      await add(await makeArtifact(on, repository, { ...more, artifactType: sbom }, algorithm), sbom);
      await add(await makeArtifact(on, repository, { ...more, artifactType: undefined }, algorithm), emptyType);
      await add(await makeArtifact(on, repository, { ...more, artifactType: "", "org.example.other": 1 }, algorithm), emptyType);
      await add(await makeImage(on, repository, more, algorithm), "application/vnd.oci.image.config.v1+json");
      await add(makeIndex([], { ...more, artifactType: sbom }, algorithm), sbom);
      await add(makeIndex([descriptorOf(subject)], more, algorithm), undefined);
      const listed = await on.referrers(repository, subject.digest);
      expect([...listed].sort((a, b) => (a.digest < b.digest ? -1 : 1))).toEqual(expected.sort((a, b) => (a.digest < b.digest ? -1 : 1)));
    });

    test("a filter, named in OCI-Filters-Applied", async () => {
      const repository = freshName();
      const subject = await push(on, repository, await makeImage(on, repository, {}, algorithm));
      const one = await referring(on, repository, subject, { artifactType: sbom }, algorithm);
      const two = await referring(on, repository, subject, { artifactType: "application/vnd.example" }, algorithm);
      const path = `/v2/${repository}/referrers/${subject.digest}`;
      const all = await on.get(path);
      expect(all.headers["oci-filters-applied"]).toBeUndefined();
      for (const [query, expected] of [
        ["application%2Fspdx%2Bjson", [one.digest]],
        // A plus sign that was not encoded is a space to most parsers; no media type has one.
        [sbom, [one.digest]],
        ["application/vnd.example", [two.digest]],
        ["application/vnd.none", []],
        [emptyType, []],
      ] as const) {
        const got = await on.get(`${path}?artifactType=${query}`);
        expect(got).toMatchObject({ status: 200, headers: { "content-type": mediaTypes.ociIndex, "oci-filters-applied": "artifactType" } });
        expect(digestsOf(json<{ manifests: ReferrerDescriptor[] }>(got).manifests)).toEqual(expected);
      }
    });
  });

  test("a filter by a config's media type, and by a type with a parameter", async () => {
    const repository = freshName();
    const subject = await pushImage(on, repository);
    const image = await push(on, repository, await makeImage(on, repository, { subject: descriptorOf(subject) }));
    const bundle = await referring(on, repository, subject, { artifactType: signature });
    const filtered = async (type: string) =>
      digestsOf(await on.referrers(repository, subject.digest, `?artifactType=${encodeURIComponent(type)}`));
    expect(await filtered("application/vnd.oci.image.config.v1+json")).toEqual([image.digest]);
    expect(await filtered(signature)).toEqual([bundle.digest]);
  });

  test("subject first or referrer first is the same, and either may be deleted alone", async () => {
    const repository = freshName();
    const subject = await makeImage(on, repository);
    const before = await referring(on, repository, subject);
    expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([before.digest]);
    await push(on, repository, subject);
    const after = await referring(on, repository, subject);
    expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([before.digest, after.digest].sort());
    expect((await on.delete(`/v2/${repository}/manifests/${before.digest}`)).status).toBe(202);
    expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([after.digest]);
    expect((await on.delete(`/v2/${repository}/manifests/${subject.digest}`)).status).toBe(202);
    expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([after.digest]);
  });

  test("referrers are those of one repository", async () => {
    const repository = freshName();
    const subject = await pushImage(on, repository);
    await referring(on, repository, subject);
    expect(await on.referrers(freshName(), subject.digest)).toEqual([]);
  });

  test("a referrer's tag is not its entry: deleting the tag leaves it", async () => {
    const repository = freshName();
    const subject = await pushImage(on, repository);
    const artifact = await push(on, repository, await makeArtifact(on, repository, { subject: descriptorOf(subject) }), "tagged");
    await push(on, repository, artifact);
    expect((await on.delete(`/v2/${repository}/manifests/tagged`)).status).toBe(202);
    expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([artifact.digest]);
  });

  test("page by page by Link, with the filter kept", async () => {
    const repository = freshName();
    const subject = await pushImage(on, repository);
    const expected: string[] = [];
    for (let i = 0; i < 5; i++) {
      expected.push((await referring(on, repository, subject, { artifactType: sbom })).digest);
      await referring(on, repository, subject);
    }
    const found: string[] = [];
    let next: string | undefined = `/v2/${repository}/referrers/${subject.digest}?n=2&artifactType=${encodeURIComponent(sbom)}`;
    let pages = 0;
    for (; next !== undefined && pages < 20; pages++) {
      const got = await on.get(next);
      expect(got).toMatchObject({ status: 200, headers: { "content-type": mediaTypes.ociIndex, "oci-filters-applied": "artifactType" } });
      const { manifests } = json<{ manifests: ReferrerDescriptor[] }>(got);
      expect(manifests.length).toBeLessThanOrEqual(2);
      found.push(...digestsOf(manifests));
      next = nextOf(got);
    }
    expect(pages).toBeGreaterThanOrEqual(3);
    expect(found.sort()).toEqual(expected.sort());
  });

  test.each(["-1", "x"])("n=%s is 400", async (n) => {
    expect((await on.get(`/v2/app/referrers/${zeroDigest()}?n=${n}`)).status).toBe(400);
  });

  describe("an index pushed under the referrers tag, as clients of older registries maintain it", () => {
    /** A subject, and an index that lists these manifests under its fallback tag. */
    async function withFallback(repository: string, algorithm: Algorithm, ...listed: Document[]): Promise<Document> {
      const subject = await push(on, repository, await makeImage(on, repository, {}, algorithm));
      const index = makeIndex(
        listed.map((document) => ({ ...descriptorOf(document), artifactType: sbom, annotations: { "org.example": "x" } })),
      );
      await push(on, repository, index, fallbackTag(subject.digest));
      return subject;
    }

    test.each(algorithms)("what it lists is a referrer, also without a subject of its own, until it is deleted (%s)", async (algorithm) => {
      const repository = freshName();
      const artifact = await push(on, repository, await makeArtifact(on, repository));
      const subject = await withFallback(repository, algorithm, artifact);
      expect(await on.referrers(repository, subject.digest)).toMatchObject([descriptorOf(artifact)]);
      expect((await on.delete(`/v2/${repository}/manifests/${artifact.digest}`)).status).toBe(202);
      expect(await on.referrers(repository, subject.digest)).toEqual([]);
    });

    test("an entry is listed with its artifactType and annotations, and filtered by them", async () => {
      const repository = freshName();
      const artifact = await push(
        on,
        repository,
        await makeArtifact(on, repository, { artifactType: sbom, annotations: { "org.example": "x" } }),
      );
      const subject = await withFallback(repository, "sha256", artifact);
      const entry = { ...descriptorOf(artifact), artifactType: sbom, annotations: { "org.example": "x" } };
      expect(await on.referrers(repository, subject.digest, `?artifactType=${encodeURIComponent(sbom)}`)).toEqual([entry]);
      expect(await on.referrers(repository, subject.digest, "?artifactType=application/vnd.none")).toEqual([]);
    });

    test("what is in it and has a subject too is listed once", async () => {
      const repository = freshName();
      const subject = await pushImage(on, repository);
      const artifact = await referring(on, repository, subject);
      const other = await push(on, repository, await makeArtifact(on, repository));
      await push(on, repository, makeIndex([artifact, other].map(descriptorOf)), fallbackTag(subject.digest));
      expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([artifact.digest, other.digest].sort());
    });

    test("what it lists follows it: an index that replaces it counts, and none once the tag is deleted", async () => {
      const repository = freshName();
      const [kept, dropped] = [
        await push(on, repository, await makeArtifact(on, repository)),
        await push(on, repository, await makeArtifact(on, repository)),
      ];
      const subject = await withFallback(repository, "sha256", kept, dropped);
      expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([kept.digest, dropped.digest].sort());
      await push(on, repository, makeIndex([descriptorOf(kept)]), fallbackTag(subject.digest));
      expect(digestsOf(await on.referrers(repository, subject.digest))).toEqual([kept.digest]);
      expect((await on.delete(`/v2/${repository}/manifests/${fallbackTag(subject.digest)}`)).status).toBe(202);
      expect(await on.referrers(repository, subject.digest)).toEqual([]);
    });

    test("it stays a tag like any other", async () => {
      const repository = freshName();
      const artifact = await push(on, repository, await makeArtifact(on, repository));
      const subject = await withFallback(repository, "sha256", artifact);
      const tag = fallbackTag(subject.digest);
      const got = await on.get(`/v2/${repository}/manifests/${tag}`);
      expect(json<{ manifests: { digest: string }[] }>(got).manifests).toMatchObject([{ digest: artifact.digest }]);
      expect(await on.tags(repository)).toEqual([tag]);
      expect((await on.delete(`/v2/${repository}/manifests/${tag}`)).status).toBe(202);
      expect((await on.head(`/v2/${repository}/manifests/${artifact.digest}`)).status).toBe(200);
    });

    test("a tag that only looks like one, or holds an image, lists nothing", async () => {
      const repository = freshName();
      const subject = await pushImage(on, repository);
      const artifact = await push(on, repository, await makeArtifact(on, repository));
      await push(on, repository, makeIndex([descriptorOf(artifact)]), `${fallbackTag(subject.digest)}.sig`);
      expect(await on.referrers(repository, subject.digest)).toEqual([]);
      await pushImage(on, repository, fallbackTag(subject.digest));
      expect(await on.referrers(repository, subject.digest)).toEqual([]);
    });

    test("the referrers of another subject are not among them", async () => {
      const repository = freshName();
      const artifact = await push(on, repository, await makeArtifact(on, repository));
      await withFallback(repository, "sha256", artifact);
      expect(await on.referrers(repository, digestOf(Buffer.from("another")))).toEqual([]);
      expect(await on.referrers(repository, describing(artifact.bytes, artifact.mediaType).digest)).toEqual([]);
    });
  });
});
