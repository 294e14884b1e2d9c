import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { type FakeUpstream, fakeUpstream } from "oci-manifold/testing";
import pLimit from "p-limit";
import { expect } from "vitest";
import { atEnd } from "../interop/processes.js";
import { type Cluster, type StorageSettings, shuffled, startCluster } from "./cluster.js";
import { type ClientImage, pull, push, putManifest } from "./patient-client.js";

const MiB = 2 ** 20;
/** So many pushes and pulls run at a time. */
const clients = 12;

export interface ManyNodesOptions {
  readonly storage: StorageSettings;
  /** So many are pushed, and as many are pulled through the cache, each by two clients. */
  readonly images: number;
  /** Whether what one node has written is read by the others at once, or a moment later. */
  readonly seesAtOnce: boolean;
}

/** Layers of which every fourth image has one. */
function layersIn(images: number): Uint8Array[][] {
  const shared = Array.from({ length: 8 }, () => randomBytes(20_000 + Math.floor(Math.random() * 200_000)));
  return Array.from({ length: images }, (_, index) => {
    const own = Array.from({ length: 1 + (index % 3) }, () => randomBytes(100 + Math.floor(Math.random() * 5000)));
    const common = index % 4 === 0 ? shared.slice(index % 8, (index % 8) + 1) : [];
    const large = index % 10 === 5 ? [randomBytes(2 * MiB + Math.floor(Math.random() * 2 * MiB))] : [];
    return [...own, ...common, ...large];
  });
}

function imageOf(layers: readonly Uint8Array[]): ClientImage {
  const blobs = new Map<string, Uint8Array>();
  const described = (bytes: Uint8Array, mediaType: string) => {
    blobs.set(digestOf(bytes), bytes);
    return { mediaType, digest: digestOf(bytes), size: bytes.byteLength };
  };
  const config = described(Buffer.from(JSON.stringify({ id: randomBytes(8).toString("hex") })), "application/vnd.oci.image.config.v1+json");
  const layer = (bytes: Uint8Array) => described(bytes, "application/vnd.oci.image.layer.v1.tar");
  const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: layers.map(layer) }));
  return { manifest, digest: digestOf(manifest), blobs };
}

/** Half of a second for each MiB, so that a kill finds transfers under way. */
async function slowUpstream(): Promise<FakeUpstream> {
  const upstream = await fakeUpstream();
  atEnd(() => upstream.close());
  upstream.intercept = ({ url }) => (url.includes("/blobs/") ? { slowBytesPerSecond: 2 * MiB } : undefined);
  return upstream;
}

/** How often each blob was asked for, by GET. */
function transfersOf({ requests }: FakeUpstream): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { method, url } of requests) {
    const digest = /\/blobs\/(sha256:[a-f0-9]{64})/.exec(url)?.[1];
    if (method === "GET" && digest !== undefined) counts.set(digest, (counts.get(digest) ?? 0) + 1);
  }
  return counts;
}

function expectSame(got: ClientImage, wanted: ClientImage): void {
  expect(got.digest).toBe(wanted.digest);
  expect([...got.blobs.keys()].sort()).toEqual([...wanted.blobs.keys()].sort());
}

/** Waits until enough work is done, kills a node, and starts it again a moment later. */
async function killedAt(cluster: Cluster, victim: number, due: () => boolean): Promise<void> {
  const node = cluster.nodes[victim];
  while (!due()) await new Promise((resolve) => setTimeout(resolve, 5));
  await node?.kill();
  await new Promise((resolve) => setTimeout(resolve, 200 + Math.random() * 800));
  await node?.start();
}

/** Pushes and pulls images through a load balancer over three processes, two of which are killed and started again. */
export async function manyNodes({ storage, images, seesAtOnce }: ManyNodesOptions): Promise<void> {
  const upstream = await slowUpstream();
  const cluster = await startCluster(3, upstream.url, storage);
  const pushed = layersIn(images).map((layers, index) => ({
    repository: `release/app${index % 7}`,
    tag: `t${index}`,
    image: imageOf(layers),
  }));
  const cachedOnes = layersIn(images).map((layers, index) => {
    const { digest, bytes, config } = upstream.addImage(`app${index % 7}`, `t${index}`, { layers });
    const blobs = new Map(
      [config, ...layers.map((layer) => ({ digest: digestOf(layer) }))].map((one) => [one.digest as string, new Uint8Array()]),
    );
    return { repository: `hub/app${index % 7}`, tag: `t${index}`, image: { manifest: bytes, digest, blobs } };
  });

  // Before anything is killed: one transfer a blob, though all nodes are asked at once.
  const calm = cachedOnes.splice(0, Math.ceil(images / 10));
  const everywhere = calm.flatMap((one) =>
    cluster.nodes.map(async ({ origin }) => expectSame(await pull(origin, one.repository, one.tag), one.image)),
  );
  await Promise.all(everywhere);
  expect([...transfersOf(upstream).values()].filter((count) => count !== 1)).toEqual([]);

  let done = 0;
  const limit = pLimit(clients);
  const counted = (work: () => Promise<void>) => limit(work).then(() => void done++);
  const work = shuffled([
    ...pushed.map(
      ({ repository, tag, image }) =>
        () =>
          push(cluster.origin, repository, tag, image),
    ),
    ...[...cachedOnes, ...cachedOnes].map(
      ({ repository, tag, image }) =>
        async () =>
          expectSame(await pull(cluster.origin, repository, tag), image),
    ),
  ]).map(counted);
  const victims = shuffled([0, 1, 2]).slice(0, 2);
  const kills = victims.map((victim, turn) => {
    const at = ((turn + Math.random()) / victims.length) * 0.8 * work.length;
    return killedAt(cluster, victim, () => done >= at);
  });
  await Promise.all([...work, ...kills]);

  for (const { origin } of cluster.nodes) {
    await Promise.all(
      [...pushed, ...calm, ...cachedOnes].map(({ repository, tag, image }) =>
        limit(async () => expectSame(await pull(origin, repository, tag), image)),
      ),
    );
  }
  const counts = [...transfersOf(upstream).values()];
  const repeated = counts.filter((count) => count > 1);
  console.log(`${counts.length} blobs came through the cache, ${repeated.length} of them more than once: ${repeated.join(", ")}`);
  expect(Math.max(...counts)).toBeLessThanOrEqual(1 + victims.length);
  await expectMovedTag(cluster, seesAtOnce);
}

async function expectMovedTag({ nodes }: Cluster, seesAtOnce: boolean): Promise<void> {
  const [first, ...others] = nodes.map(({ origin }) => origin);
  if (first === undefined) throw new Error("no nodes");
  const versions = Array.from({ length: 20 }, () => imageOf([]));
  for (const image of versions) await push(first, "release/moving", "latest", image);
  for (const image of shuffled(versions)) {
    await putManifest(first, "release/moving", "latest", image);
    for (const origin of others) {
      const seen = async () => (await pull(origin, "release/moving", "latest")).digest;
      if (seesAtOnce) expect(await seen()).toBe(image.digest);
      else await expect.poll(seen).toBe(image.digest);
    }
  }
}
