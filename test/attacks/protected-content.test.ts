import { type Descriptor, filtered, mediaTypes, type Registry, remoteRegistry, renamed, tagRules } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { prefixed } from "oci-manifold/names";
import { fakeUpstream } from "oci-manifold/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { type Image, makeImage, makeIndex } from "../fixtures/images.js";
import { codeOf, fronts, type Stack, type StackOptions, type StackParts, stack } from "./stack.js";

const immutable = { immutable: { except: ["**:dev*"] } };

/** Compositions in which the tags of `view/team/app` are immutable, but `dev`. */
const compositions: Readonly<Record<string, (parts: StackParts) => Registry>> = {
  "a local registry": ({ release }) => tagRules(release, immutable),
  "an aggregate": ({ prerelease }) => tagRules(prerelease, immutable),
  "a filter outside": ({ release }) => filtered(tagRules(release, immutable), { platforms: ["linux/*"] }),
  "a filter inside": ({ release }) => tagRules(filtered(release, { platforms: ["linux/*"] }), immutable),
  "other names": ({ prerelease }) =>
    renamed(tagRules(renamed(prerelease, prefixed("in/")), immutable), {
      toSource: (name) => `in/${name}`,
      fromSource: (name) => name.slice(3),
    }),
  "rules in rules": ({ release }) => tagRules(tagRules(release, immutable), { immutable: { tags: ["**:other"] } }),
};

const described = (bytes: Uint8Array, mediaType: string): Descriptor => ({ mediaType, digest: digestOf(bytes), size: bytes.byteLength });

async function pushIndex(
  s: Stack,
  repository: string,
  reference: string | undefined,
  children: readonly Descriptor[],
  more = {},
): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: children, ...more }));
  expect((await s.putManifest(repository, reference ?? digestOf(bytes), bytes, mediaTypes.ociIndex)).status).toBe(201);
  return described(bytes, mediaTypes.ociIndex);
}

const manifestOf = (image: Image) => described(image.manifest, mediaTypes.ociManifest);

/** Pushes an image by its digest. */
async function pushLoose(s: Stack, repository: string, more = {}): Promise<Image> {
  const image = makeImage([50], more);
  return s.pushImage(repository, image.digest, image);
}

async function expectKept(s: Stack, repository: string, images: readonly Image[], indexes: readonly Descriptor[] = []): Promise<void> {
  const urls = [
    ...indexes.map(({ digest }) => `manifests/${digest}`),
    ...images.flatMap(({ digest, config, layers }) => [
      `manifests/${digest}`,
      ...[config, ...layers].map((blob) => `blobs/${blob.digest}`),
    ]),
  ];
  for (const url of urls) {
    const answer = await s.ask("DELETE", `/v2/${repository}/${url}`);
    expect([url, answer.status, codeOf(answer)]).toEqual([url, 403, "DENIED"]);
    expect([url, (await s.ask("GET", `/v2/${repository}/${url}`)).status]).toEqual([url, 200]);
  }
}

describe.each(fronts)("over %s", (front) => {
  describe("what a protected tag reaches is protected", () => {
    test.each(Object.keys(compositions))("in %s", async (name) => {
      const make = compositions[name];
      if (!make) throw new Error(name);
      const s = await stack({ front, more: (parts) => ({ view: make(parts) }) });
      const app = "view/team/app";
      const plain = await s.pushImage(app, "1.0", makeImage([40, 50]));
      const [child, deep] = [await pushLoose(s, app), await pushLoose(s, app)];
      const inner = await pushIndex(s, app, undefined, [manifestOf(deep)]);
      const outer = await pushIndex(s, app, "2.0", [manifestOf(child), inner]);
      const [subject, referred] = [await pushLoose(s, app), await pushLoose(s, app)];
      const signature = makeImage([60], { subject: manifestOf(subject), artifactType: "application/x-signature" });
      await s.pushImage(app, "signature", signature);
      const attestation = await pushLoose(s, app, { subject: manifestOf(deep), artifactType: "application/x-sbom" });
      const bundle = await pushIndex(s, app, undefined, [manifestOf(referred)], { subject: inner });
      await expectKept(s, app, [plain, child, deep, subject, signature, attestation, referred], [inner, outer, bundle]);

      const loose = await s.pushImage(app, "dev", makeImage([70]));
      const about = await pushLoose(s, app, { subject: manifestOf(loose) });
      for (const [kind, digest] of [
        ["blobs", loose.layers[0]?.digest],
        ["manifests", about.digest],
        ["manifests", loose.digest],
      ]) {
        expect([kind, (await s.ask("DELETE", `/v2/${app}/${kind}/${digest}`)).status]).toEqual([kind, 202]);
        expect([kind, (await s.ask("GET", `/v2/${app}/${kind}/${digest}`)).status]).toEqual([kind, 404]);
      }
    });
  });

  test("a blob of an index, as of a build cache, and a non-distributable layer are protected too", async () => {
    const s = await stack({ front, wrap: (_, registry) => tagRules(registry, immutable) });
    const blobs = [Buffer.from("one"), Buffer.from("two")];
    for (const bytes of blobs) await s.putBlob("release/app", bytes);
    const [one, two] = blobs.map((bytes) => described(bytes, "application/vnd.oci.image.layer.nondistributable.v1.tar"));
    if (!one || !two) throw new Error("there are two");
    await pushIndex(s, "release/app", "cache", [one]);
    await s.pushImage("release/app", "1", makeImage([10], {}));
    const image = makeImage([20]);
    const manifest = Buffer.from(JSON.stringify({ ...JSON.parse(Buffer.from(image.manifest).toString()), layers: [two] }));
    await s.pushImage("release/app", "2", { ...image, manifest, layers: [two] });
    for (const { digest } of [one, two]) {
      expect((await s.ask("DELETE", `/v2/release/app/blobs/${digest}`)).status).toBe(403);
      expect((await s.ask("GET", `/v2/release/app/blobs/${digest}`)).status).toBe(200);
    }
  });

  test("protection does not cross repositories", async () => {
    const s = await stack({ front, wrap: (_, registry) => tagRules(registry, { immutable: { tags: ["kept"] } }) });
    const image = await s.pushImage("release/kept", "1");
    await s.pushImage("release/free", "1", image);
    expect((await s.ask("DELETE", `/v2/release/free/blobs/${image.config.digest}`)).status).toBe(202);
    expect((await s.ask("DELETE", `/v2/release/free/manifests/${image.digest}`)).status).toBe(202);
    await expectKept(s, "release/kept", [image]);
  });

  test("a protected tag that is hidden protects as well, and is not named", async () => {
    const s = await stack({
      front,
      more: ({ release }) => ({ view: filtered(tagRules(release, immutable), { block: ["**:secret*"] }) }),
    });
    const image = await s.pushImage("release/app", "dev", makeImage([10]));
    await pushIndex(s, "release/app", "secret", [manifestOf(image)]);
    await s.ask("GET", "/v2/view/app/manifests/dev");
    const answer = await s.ask("DELETE", `/v2/view/app/manifests/${image.digest}`);
    expect([answer.status, codeOf(answer), answer.body.includes("secret")]).toEqual([403, "DENIED", false]);
    expect((await s.ask("GET", `/v2/release/app/manifests/${image.digest}`)).status).toBe(200);
  });

  describe("a delete by digest asks about every tag that it would remove", () => {
    const guardedBy = (
      may: (tag: string, s: Stack) => boolean | Promise<boolean>,
      more: StackOptions = {},
    ): { options: StackOptions; use(s: Stack): void } => {
      let made: Stack | undefined;
      return {
        use: (s) => {
          made = s;
        },
        options: {
          front,
          ...more,
          handler: {
            caller: (request) => (request.headers["x-anonymous"] ? undefined : { name: "eve" }),
            authorize: ({ action, reference }) => action !== "delete" || !made || may(reference ?? "", made),
          },
        },
      };
    };
    const tagsOf = async (s: Stack, repository: string) => {
      const answer = await s.ask("GET", `/v2/${repository}/tags/list`);
      return answer.status === 404 ? [] : (JSON.parse(answer.body.toString()) as { tags: string[] }).tags;
    };

    test.each(["release", "prerelease", "view"])("in %s", async (route) => {
      const asked: string[] = [];
      const { options, use } = guardedBy(
        async (reference) => {
          asked.push(reference);
          return reference !== "prod";
        },
        { more: ({ prerelease }) => ({ view: renamed(filtered(prerelease, { block: ["**:none"] }), prefixed("v/")) }) },
      );
      const s = await stack(options);
      use(s);
      const app = route === "view" ? "view/v/team/app" : `${route}/team/app`;
      const image = await s.pushImage(app, "dev", makeImage([10]));
      for (const tag of ["prod", "test"]) await s.putManifest(app, tag, image.manifest);
      const refused = await s.ask("DELETE", `/v2/${app}/manifests/${image.digest}`);
      expect([refused.status, codeOf(refused), refused.body.includes("prod")]).toEqual([403, "DENIED", false]);
      expect(await tagsOf(s, app)).toEqual(["dev", "prod", "test"]);
      const anonymous = await s.ask("DELETE", `/v2/${app}/manifests/${image.digest}`, { headers: { "x-anonymous": "1" } });
      expect([anonymous.status, anonymous.headers["www-authenticate"]]).toEqual([401, expect.any(String)]);
      const other = makeImage([20]);
      for (const bytes of other.blobs.values()) await s.putBlob(app, bytes);
      await s.putManifest(app, "prod", other.manifest);
      asked.length = 0;
      expect((await s.ask("DELETE", `/v2/${app}/manifests/${image.digest}`)).status).toBe(202);
      expect(asked.sort()).toEqual(["dev", image.digest, "test"].sort());
      expect(await tagsOf(s, app)).toEqual(["prod"]);
    });

    test("a tag that is put while others are asked about does not go unasked", async () => {
      const putBy: Record<string, (s: Stack) => Promise<unknown>> = {};
      const { options, use } = guardedBy(async (reference, s) => {
        const put = putBy[reference];
        delete putBy[reference];
        await put?.(s);
        return reference !== "prod";
      });
      const s = await stack(options);
      use(s);
      const image = await s.pushImage("release/app", "dev", makeImage([10]));
      putBy.dev = () => s.putManifest("release/app", "prod", image.manifest);
      expect((await s.ask("DELETE", `/v2/release/app/manifests/${image.digest}`)).status).toBe(403);
      expect(await tagsOf(s, "release/app")).toEqual(["dev", "prod"]);
    });

    test("a protected index that is put while others are asked about keeps its child", async () => {
      let push: (() => Promise<unknown>) | undefined;
      const { options, use } = guardedBy(
        async (reference) => {
          if (reference !== "dev") return true;
          const run = push;
          push = undefined;
          await run?.();
          return true;
        },
        { wrap: (_, registry) => tagRules(registry, immutable) },
      );
      const s = await stack(options);
      use(s);
      const image = await s.pushImage("release/app", "dev", makeImage([10]));
      push = async () => s.putManifest("release/app", "1.0", makeIndex([image]).bytes, mediaTypes.ociIndex);
      expect((await s.ask("DELETE", `/v2/release/app/manifests/${image.digest}`)).status).toBe(403);
      for (const reference of ["dev", "1.0", image.digest])
        expect((await s.ask("GET", `/v2/release/app/manifests/${reference}`)).status).toBe(200);
    });

    test("an upstream cannot say which tags would go, so by digest nothing is deleted there", async () => {
      const upstream = await fakeUpstream();
      onTestFinished(() => upstream.close());
      const remote = remoteRegistry(upstream.url, { readOnly: false });
      const { options, use } = guardedBy((reference) => reference !== "prod", {
        more: () => ({ remote, rules: tagRules(remote, immutable) }),
      });
      const s = await stack(options);
      use(s);
      const image = upstream.addImage("team/app", "prod");
      for (const path of ["remote/team/app/manifests", "rules/team/app/manifests", "rules/team/app/blobs"]) {
        const digest = path.endsWith("blobs") ? image.layers[0]?.digest : image.digest;
        const answer = await s.ask("DELETE", `/v2/${path}/${digest}`);
        expect([path, answer.status, codeOf(answer)]).toEqual([path, 405, "UNSUPPORTED"]);
      }
      expect(upstream.requests.filter(({ method }) => method === "DELETE")).toEqual([]);
    });
  });
});
