import { expect, it, onTestFinished } from "vitest";
import { contentChunks } from "../../../src/core/content.js";
import { registryK8s } from "../../../src/remote/presets/registry-k8s.js";
import { foundIn, readAll, upstreamFor } from "../support.js";

async function k8sFor() {
  const front = await upstreamFor();
  const regional = await upstreamFor();
  const bucket = await upstreamFor();
  const image = regional.addImage("k8s-artifacts-prod/images/pause", "3.10");
  front.intercept = ({ url }) => {
    if (url.includes("/blobs/")) return { redirect: `${bucket.url}/containers/images/${url.split("/").at(-1)}` };
    return { redirect: `${regional.url}${url.replace("/v2/", "/v2/k8s-artifacts-prod/images/")}` };
  };
  bucket.intercept = ({ url }) => ({
    status: 200,
    body: regional.repository("k8s-artifacts-prod/images/pause").blobs.get(url.split("/").at(-1) ?? "") ?? "",
  });
  const registry = registryK8s({ url: front.url });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  return { front, regional, bucket, image, registry };
}

it("follows manifests and lists to a regional registry, and layers to a bucket", async () => {
  const { registry, image, regional } = await k8sFor();
  expect(foundIn(await registry.resolveManifest("pause", "3.10"))).toEqual(image.descriptor);
  expect(foundIn(await registry.getManifest("pause", image.digest)).bytes).toEqual(image.bytes);
  const { content } = foundIn(await registry.getBlob("pause", image.layers[0]?.digest ?? ""));
  expect((await readAll(contentChunks(content))).byteLength).toBe(1024);
  expect(foundIn(await registry.listTags("pause", { limit: 10 })).items).toEqual(["3.10"]);
  expect(regional.requests.some(({ headers }) => headers.authorization)).toBe(false);
});

it("answers no challenge of where it leads", async () => {
  const { registry, regional } = await k8sFor();
  regional.auth = { kind: "bearer" };
  expect((await registry.getManifest("pause", "3.10")).kind).toBe("denied");
  expect(regional.tokensIssued).toBe(0);
});

it("has no catalog", async () => {
  const { registry, front } = await k8sFor();
  expect(foundIn(await registry.listRepositories({ limit: 10 })).items).toEqual([]);
  expect(front.requests).toEqual([]);
});
