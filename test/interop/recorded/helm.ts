/**
 * helm 3.18 to 4.2 (oras-go 2.6): push of a chart with its provenance, whose manifest has no `mediaType` and a config of helm's own type, by digest first
 * and then fetched to be tagged; `+` in a version is `_` in its tag; the whole tags/list to find a version; pull by tag and by digest.
 */
import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { type Place, RecordedClient } from "./client.js";
import { type Content, content, descriptor, holds } from "./content.js";
import { OrasGo } from "./oras-go.js";

interface Chart {
  readonly tag: string;
  readonly blobs: readonly Content[];
  readonly manifest: Content;
}

function chart(version: string): Chart {
  const config = content("application/vnd.cncf.helm.config.v1+json", { name: "app", version, apiVersion: "v2", type: "application" });
  const archive = content("application/vnd.cncf.helm.chart.content.v1.tar+gzip", randomBytes(20_000));
  const provenance = content("application/vnd.cncf.helm.chart.provenance.v1.prov", `-----BEGIN PGP SIGNED MESSAGE-----\n${version}`);
  const layers = [archive, provenance].sort((a, b) => (a.digest < b.digest ? -1 : 1));
  const value = {
    schemaVersion: 2,
    config: descriptor(config),
    layers: layers.map((layer) => descriptor(layer)),
    annotations: { "org.opencontainers.image.title": "app", "org.opencontainers.image.version": version },
  };
  return { tag: version.replace("+", "_"), blobs: [config, ...layers], manifest: content(mediaTypes.ociManifest, value) };
}

export async function helm({ origin, repository }: Place): Promise<void> {
  const client = new RecordedClient(origin, { "user-agent": "Helm/4.2.4" });
  // `oci://…/charts` and the chart's name.
  const repo = new OrasGo(client, `${repository}/charts/app`);
  const versions = ["0.9.0", "1.0.0", "1.0.1+build.5", "1.10.0", "2.0.0-rc.1"];
  const charts = versions.map(chart);
  for (const { tag, manifest, blobs } of charts) {
    await repo.push(manifest.digest, { manifest, blobs });
    await repo.fetch(manifest);
    await repo.pushManifest(tag, manifest);
  }

  const tags = await repo.tags();
  const found = tags.map((tag) => tag.replace("_", "+")).sort();
  if (found.join() !== [...versions].sort().join()) throw new Error(`found the versions ${found}`);

  for (const { tag, manifest, blobs } of charts) {
    if ((await repo.resolve(tag))?.digest !== manifest.digest) throw new Error(`${tag} is another chart`);
    for (const reference of [tag, manifest.digest]) {
      holds((await repo.fetchReference(reference)).has("content-type", mediaTypes.ociManifest), manifest);
    }
    await Promise.all(blobs.map((blob) => repo.fetchBlob(blob)));
  }
  client.close();
}
