import { expect, it, onTestFinished, vi } from "vitest";
import { contentChunks } from "../../../src/core/content.js";
import { type EcrOptions, ecr } from "../../../src/remote/presets/ecr.js";
import { fakeClock } from "../../../src/testing/fake-clock.js";
import { errorOf, foundIn, readAll, upstreamFor } from "../support.js";

const encoded = (password: string) => Buffer.from(`AWS:${password}`).toString("base64");

async function ecrFor(options: EcrOptions) {
  const upstream = await upstreamFor({ auth: { kind: "basic", username: "AWS", password: "first" } });
  const registry = ecr(upstream.url, { name: "ecr", ...options });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  return { upstream, registry };
}

it.each([
  ["the API's token", { authorizationToken: encoded("first"), expiresAt: new Date("2026-01-01T12:00:00Z") }],
  ["the API's token as text", encoded("first")],
  ["the command's password", "first\n"],
])("takes %s, and asks again before its twelve hours end", async (_, given) => {
  const clock = fakeClock();
  const authorizationToken = vi.fn(async () => given as NonNullable<ReturnType<NonNullable<EcrOptions["authorizationToken"]>>>);
  const { upstream, registry } = await ecrFor({ authorizationToken, clock });
  upstream.addImage("app", "1");
  for (let i = 0; i < 3; i++) foundIn(await registry.getManifest("app", "1"));
  await clock.advance(11 * 3_600_000);
  foundIn(await registry.getManifest("app", "1"));
  expect(authorizationToken).toHaveBeenCalledTimes(1);
  expect(registry.status().urls[0]?.credentialExpiresAt).toBe(Date.UTC(2026, 0, 1, 12));
  // ECR answers 403 to a token that has ended, which asks for nothing new.
  await clock.advance(3_590_000);
  upstream.auth = { kind: "basic", username: "AWS", password: "second" };
  authorizationToken.mockResolvedValue(encoded("second"));
  foundIn(await registry.getManifest("app", "1"));
  expect(authorizationToken).toHaveBeenCalledTimes(2);
});

it.each([[{}], [""], [undefined]])("is unavailable when there is no token: %o", async (given) => {
  const { registry } = await ecrFor({ authorizationToken: async () => given as string });
  expect(errorOf(await registry.getManifest("app", "1"))).toMatchObject({ code: "UNAVAILABLE" });
});

it("follows layers to S3 without credentials, and hashes tags that come without a digest", async () => {
  const { upstream, registry } = await ecrFor({ authorizationToken: () => encoded("first") });
  const bucket = await upstreamFor();
  const image = upstream.addImage("app", "1");
  const layer = image.layers[0]?.digest ?? "";
  upstream.intercept = ({ url, headers }) => {
    if (!headers.authorization) return undefined;
    return url.includes("/blobs/") ? { redirect: `${bucket.url}/layer?X-Amz-Signature=1` } : { dropDigestHeader: true };
  };
  bucket.intercept = ({ headers }) =>
    headers.authorization ? { status: 400 } : { status: 200, body: upstream.repository("app").blobs.get(layer) ?? "" };
  expect(foundIn(await registry.resolveManifest("app", "1"))).toEqual(image.descriptor);
  const { content } = foundIn(await registry.getBlob("app", layer));
  expect((await readAll(contentChunks(content))).byteLength).toBe(1024);
});

it("asks for pages of a thousand at most", async () => {
  const { upstream, registry } = await ecrFor({ authorizationToken: () => encoded("first") });
  upstream.intercept = ({ url }) => (Number(new URL(url, upstream.url).searchParams.get("n")) > 1000 ? { status: 405 } : undefined);
  upstream.addImage("app", "1");
  expect(foundIn(await registry.listTags("app", { limit: 5000 })).items).toEqual(["1"]);
});

it("takes one kind of credentials", () => {
  expect(() => ecr("1.dkr.ecr.eu-central-1.amazonaws.com", { authorizationToken: () => "", credentials: { identityToken: "x" } })).toThrow(
    "not both",
  );
});
