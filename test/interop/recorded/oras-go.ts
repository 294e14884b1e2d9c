import { mediaTypes } from "oci-manifold";
import type { Answer, RecordedClient } from "./client.js";
import { type Content, deprecatedArtifact, dockerList, dockerManifest, holds, type Image, referrersIn, zeroDigest } from "./content.js";

const acceptAll = [dockerManifest, dockerList, mediaTypes.ociManifest, mediaTypes.ociIndex, deprecatedArtifact].join(", ");

/**
 * The library oras-go 2.5 to 2.6, on which oras and helm are built. Before it sends a node of a graph it HEADs it by digest, manifests with all types in
 * one Accept; a blob is a POST, which must answer 202, and one PUT with a length; a manifest's PUT must answer 201, and OCI-Subject spares the upkeep of a
 * fallback tag. What Docker-Content-Digest says must be what was asked for, in every answer that has it.
 */
export class OrasGo {
  constructor(
    readonly client: RecordedClient,
    readonly repository: string,
  ) {}

  async resolve(reference: string): Promise<Answer | undefined> {
    const answer = await this.client.send("HEAD", this.#at(`manifests/${reference}`), { headers: { accept: acceptAll } });
    if (answer.is(200, 404).status === 404) return undefined;
    return answer.describes(reference);
  }

  async blobExists({ digest, size }: Content): Promise<boolean> {
    const answer = await this.client.send("HEAD", this.#at(`blobs/${digest}`));
    if (answer.is(200, 404).status === 404) return false;
    if (this.#matching(answer, digest).size !== size) answer.fail(`Content-Length is not ${size}`);
    return true;
  }

  async pushBlob(blob: Content): Promise<void> {
    const { location } = (await this.client.send("POST", this.#at("blobs/uploads/"))).is(202);
    location.searchParams.set("digest", blob.digest);
    (await this.client.send("PUT", location, { headers: { "content-type": "application/octet-stream" }, body: blob.bytes })).is(201);
  }

  async mount({ digest }: Content, from: string): Promise<void> {
    // Not percent-encoded.
    const answer = await this.client.send("POST", this.#at(`blobs/uploads/?mount=${digest}&from=${from}`));
    this.#matching(answer.is(201), digest);
  }

  async pushManifest(reference: string, manifest: Content): Promise<Answer> {
    const headers = { "content-type": manifest.mediaType };
    const answer = await this.client.send("PUT", this.#at(`manifests/${reference}`), { headers, body: manifest.bytes });
    return this.#matching(answer.is(201), manifest.digest);
  }

  /** The blobs three at a time there, all at once here, and then the manifest. */
  async push(reference: string, { blobs, manifest }: Image): Promise<Answer> {
    if ((await this.resolve(manifest.digest)) === undefined) {
      await Promise.all(blobs.map(async (blob) => (await this.blobExists(blob)) || this.pushBlob(blob)));
    }
    return this.pushManifest(reference, manifest);
  }

  /** By digest, with the one type that its descriptor says, which the answer must have. */
  async fetch(manifest: Content): Promise<void> {
    const answer = await this.client.send("GET", this.#at(`manifests/${manifest.digest}`), { headers: { accept: manifest.mediaType } });
    holds(this.#matching(answer.is(200).has("content-type", manifest.mediaType), manifest.digest), manifest);
  }

  async fetchReference(reference: string): Promise<Answer> {
    const answer = await this.client.send("GET", this.#at(`manifests/${reference}`), { headers: { accept: acceptAll } });
    return answer.is(200).describes(reference);
  }

  /** It trusts Accept-Ranges, and then seeks by a range that ends at the last byte. */
  async fetchBlob(blob: Content, from = 0): Promise<void> {
    const path = this.#at(`blobs/${blob.digest}`);
    const whole = this.#matching((await this.client.send("GET", path)).is(200), blob.digest);
    holds(whole, blob);
    if (from === 0 || whole.headers["accept-ranges"] !== "bytes") return;
    const rest = (await this.client.send("GET", path, { headers: { range: `bytes=${from}-${blob.size - 1}` } })).is(206);
    if (!rest.body.equals(blob.bytes.subarray(from))) rest.fail("not the range");
  }

  /** The type must be that of an index without any parameter, or the API counts as missing. */
  async referrers(subject: string, artifactType?: string): Promise<Answer> {
    const query = artifactType === undefined ? "" : `?${new URLSearchParams({ artifactType })}`;
    const answer = await this.client.send("GET", this.#at(`referrers/${subject}${query}`));
    referrersIn(answer);
    if (artifactType !== undefined) answer.has("oci-filters-applied", "artifactType");
    return answer.next === undefined ? answer : answer.fail("there are not so many referrers");
  }

  async probeReferrers(): Promise<void> {
    const found = referrersIn(await this.client.send("GET", this.#at(`referrers/${zeroDigest}`)));
    if (found.length > 0) throw new Error("referrers of the zero digest");
  }

  /** All pages, the first without `n`. */
  async tags(): Promise<string[]> {
    const tags: string[] = [];
    for (let next: string | URL | undefined = this.#at("tags/list"); next !== undefined; ) {
      const page: Answer = (await this.client.send("GET", next)).is(200);
      tags.push(...page.strings("tags"));
      next = page.next;
    }
    return tags;
  }

  async delete(kind: "manifests" | "blobs", digest: string): Promise<void> {
    const answer = await this.client.send("DELETE", this.#at(`${kind}/${digest}`));
    this.#matching(answer.is(202), digest);
  }

  #at(path: string): string {
    return `/v2/${this.repository}/${path}`;
  }

  #matching(answer: Answer, digest: string): Answer {
    return answer.headers["docker-content-digest"] === undefined ? answer : answer.has("docker-content-digest", digest);
  }
}
