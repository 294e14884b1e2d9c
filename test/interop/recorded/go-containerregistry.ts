import { mediaTypes } from "oci-manifold";
import type { Answer, RecordedClient } from "./client.js";
import { type Content, dockerList, dockerManifest, dockerSchema1, dockerSchema1Signed, holds, type Image, referrersIn } from "./content.js";

const octets = { "content-type": "application/octet-stream" };
const manifestTypes = [dockerSchema1, dockerSchema1Signed, dockerManifest, mediaTypes.ociManifest, dockerList, mediaTypes.ociIndex];

/** How a blob came to be where it is pushed. */
export type Uploaded = "existed" | "mounted" | "pushed";

/**
 * The library google/go-containerregistry, as of 0.19 to 0.21, on which crane and cosign are built. It pings once a transport; HEADs a manifest before
 * it writes one, taking 404 and 403 for absent; HEADs each blob, then POST (as application/json), one PATCH, and an empty PUT, which must answer 201;
 * queries are sorted and percent-encoded.
 */
export class GoContainerRegistry {
  constructor(
    readonly client: RecordedClient,
    readonly repository: string,
  ) {}

  async ping(): Promise<void> {
    (await this.client.send("GET", "/v2/")).is(200);
  }

  async headManifest(reference: string): Promise<Answer | undefined> {
    const answer = await this.client.send("HEAD", this.#at(`manifests/${reference}`), { headers: { accept: manifestTypes.join(",") } });
    if (answer.is(200, 404).status === 404) return undefined;
    return answer.describes(reference);
  }

  getManifest(reference: string, accept: readonly string[] = manifestTypes): Promise<Answer> {
    return this.client.send("GET", this.#at(`manifests/${reference}`), { headers: { accept: accept.join(",") } });
  }

  async getBlob(blob: Content): Promise<void> {
    holds((await this.client.send("GET", this.#at(`blobs/${blob.digest}`))).is(200), blob);
  }

  async upload(blob: Content, from?: string): Promise<Uploaded> {
    const head = await this.client.send("HEAD", this.#at(`blobs/${blob.digest}`));
    if (head.is(200, 404).status === 200) return "existed";
    // The origin is for registries that share their content with others.
    const { host } = new URL(this.client.origin);
    const begun = await this.#begin(from === undefined ? "" : `?${new URLSearchParams({ from, mount: blob.digest, origin: host })}`);
    if (begun.status === 201) return "mounted";
    await this.commit(await this.#patch(begun, blob, false), blob.digest);
    return "pushed";
  }

  /** A layer that is made while it is sent, whose digest is known only then: no HEAD, and a PATCH without a length. */
  async uploadStream(blob: Content): Promise<void> {
    await this.commit(await this.#patch(await this.#begin(""), blob, true), blob.digest);
  }

  async beginAndPatch(blob: Content): Promise<URL> {
    return this.#patch(await this.#begin(""), blob, false);
  }

  async commit(location: URL, digest: string): Promise<void> {
    (await this.tryCommit(location, digest)).is(201);
  }

  tryCommit(location: URL, digest: string): Promise<Answer> {
    const committed = new URL(location);
    committed.searchParams.set("digest", digest);
    return this.client.send("PUT", committed, { headers: octets });
  }

  async put(reference: string, manifest: Content): Promise<Answer> {
    const headers = { "content-type": manifest.mediaType };
    return (await this.client.send("PUT", this.#at(`manifests/${reference}`), { headers, body: manifest.bytes })).is(200, 201, 202);
  }

  /** Answers how each blob came to be there, the four at a time that it sends; nothing if the manifest was there already. */
  async push(reference: string, image: Image, from?: string): Promise<Uploaded[]> {
    const found = await this.headManifest(reference);
    if (found?.digest === image.manifest.digest) return [];
    const uploaded = await Promise.all(image.blobs.map((blob) => this.upload(blob, from)));
    await this.put(reference, image.manifest);
    return uploaded;
  }

  /** After a manifest with a subject, it asks for referrers; only 200 spares it the upkeep of a fallback tag. */
  async putReferrer(reference: string, manifest: Content, subject: string): Promise<void> {
    await this.put(reference, manifest);
    (await this.referrers(subject)).is(200);
  }

  async referrers(subject: string): Promise<Answer> {
    const answer = await this.client.send("GET", this.#at(`referrers/${subject}`), { headers: { accept: mediaTypes.ociIndex } });
    referrersIn(answer);
    return answer;
  }

  delete(reference: string): Promise<Answer> {
    return this.client.send("DELETE", this.#at(`manifests/${reference}`));
  }

  #at(path: string): string {
    return `/v2/${this.repository}/${path}`;
  }

  async #begin(query: string): Promise<Answer> {
    const headers = { "content-type": "application/json" };
    return (await this.client.send("POST", this.#at(`blobs/uploads/${query}`), { headers })).is(201, 202);
  }

  async #patch(begun: Answer, blob: Content, streamed: boolean): Promise<URL> {
    const patched = await this.client.send("PATCH", begun.is(202).location, { headers: octets, body: blob.bytes, streamed });
    return patched.is(201, 202, 204).location;
  }
}
