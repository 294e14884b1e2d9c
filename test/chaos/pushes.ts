import { randomBytes } from "node:crypto";
import { mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { uploadUrl, withDigest } from "../interop/http.js";
import type { Ledger, Outcome } from "./ledger.js";

export const blobPath = (repository: string, digest: string) => `/v2/${repository}/blobs/${digest}`;
export const manifestPath = (repository: string, reference: string) => `/v2/${repository}/manifests/${reference}`;

/** What an answer says of a request. Nothing here is asked for that a registry may refuse, but for what is not there. */
async function outcomeOf(response: Response, done: number): Promise<Outcome> {
  const text = await response.text();
  if (response.status === done) return "done";
  if (response.status === 404) return "refused";
  throw new Error(`${response.url} answered ${response.status}: ${text}`);
}

/** An upload as its client knows it. */
export class Upload {
  readonly bytes: Uint8Array;
  readonly digest: string;
  readonly #ledger: Ledger;
  readonly #repository: string;
  #path = "";
  /** Bytes that the server said it has. */
  #acknowledged = 0;
  /** Bytes that were sent, whatever became of them. */
  #sent = 0;
  #closing = false;
  /** The server said what became of it. */
  over = false;

  constructor(ledger: Ledger, repository: string, bytes: Uint8Array) {
    this.#ledger = ledger;
    this.#repository = repository;
    this.bytes = bytes;
    this.digest = digestOf(bytes);
  }

  get begun(): boolean {
    return this.#path !== "";
  }

  get id(): string {
    return this.#path.slice(this.#path.lastIndexOf("/") + 1);
  }

  async begin(origin: string): Promise<void> {
    const response = await fetch(`${origin}/v2/${this.#repository}/blobs/uploads/`, { method: "POST" });
    await response.text();
    this.#at(origin, response, 202);
  }

  /** Sends the next so many bytes. */
  async send(origin: string, count: number): Promise<void> {
    const from = this.#acknowledged;
    const chunk = this.bytes.subarray(from, from + count);
    this.#sent = Math.max(this.#sent, from + chunk.byteLength);
    const headers = { "content-range": `${from}-${from + chunk.byteLength - 1}` };
    const response = await fetch(`${origin}${this.#path}`, { method: "PATCH", body: chunk, headers });
    await response.text();
    this.#at(origin, response, 202);
    this.#acknowledged = from + chunk.byteLength;
  }

  async finish(origin: string): Promise<Outcome> {
    const path = blobPath(this.#repository, this.digest);
    this.#closing = true;
    return this.#ledger.change({ [path]: () => this.digest }, async () => {
      const outcome = await outcomeOf(await fetch(withDigest(`${origin}${this.#path}`, this.digest), { method: "PUT" }), 201);
      // Over, and what it became was deleted: there is nothing to acknowledge again.
      if (outcome === "refused" && !this.#ledger.removed.has(path)) throw new Error(`${this.#path} is not known any more`);
      this.over = true;
      return outcome;
    });
  }

  /**
   * After a restart: asks how far it came, and goes on from there. `undefined` while the killed server's request still holds it.
   * @param mayHaveLost whether less than what was acknowledged is right too: after a power loss.
   */
  async goOn(origin: string, o: { mayHaveLost?: boolean } = {}): Promise<Outcome | undefined> {
    const status = await fetch(`${origin}${this.#path}`);
    await status.text();
    // Closed: the answer to the PUT was lost, and asking again tells.
    if (status.status === 404 && this.#closing) return this.finish(origin);
    this.#at(origin, status, 204);
    const last = Number(/^0-(\d+)$/.exec(status.headers.get("range") ?? "")?.[1]);
    const offset = last === 0 ? 0 : last + 1;
    // Killed after the file took its place and before that was recorded, it begins anew.
    const mayHaveLost = o.mayHaveLost || (this.#closing && offset === 0);
    if (offset > this.#sent || (offset < this.#acknowledged && !mayHaveLost)) {
      throw new Error(`${this.#path} stands at ${offset}: ${this.#acknowledged} were acknowledged, ${this.#sent} sent`);
    }
    this.#acknowledged = offset;
    const left = this.bytes.byteLength - offset;
    try {
      if (left > 0) await this.send(origin, left);
      return await this.finish(origin);
    } catch (error) {
      // As long as the killed server's request holds it, where it stands is what was recorded last.
      if (/answered (?:503|416)/.test(String(error))) return undefined;
      throw error;
    }
  }

  #at(origin: string, response: Response, status: number): void {
    this.#path = new URL(uploadUrl(origin, response, status)).pathname;
  }
}

export async function pushBlob(ledger: Ledger, origin: string, repository: string, bytes: Uint8Array): Promise<Outcome> {
  const digest = digestOf(bytes);
  return ledger.change({ [blobPath(repository, digest)]: () => digest }, async () =>
    outcomeOf(await fetch(withDigest(`${origin}/v2/${repository}/blobs/uploads/`, digest), { method: "POST", body: bytes }), 201),
  );
}

/** Whether it was mounted; else an upload was begun in its place, as registries do. */
export async function mountBlob(ledger: Ledger, origin: string, to: string, from: string, digest: string): Promise<Outcome> {
  const query = new URLSearchParams({ mount: digest, from });
  return ledger.change({ [blobPath(to, digest)]: () => digest }, async () => {
    const response = await fetch(`${origin}/v2/${to}/blobs/uploads/?${query}`, { method: "POST" });
    if (response.status !== 202) return outcomeOf(response, 201);
    await response.text();
    return "refused";
  });
}

/** A manifest of these blobs, under a tag. */
export async function pushManifest(
  ledger: Ledger,
  origin: string,
  repository: string,
  tag: string,
  blobs: readonly Uint8Array[],
): Promise<Outcome> {
  const [config, ...layers] = blobs.map((bytes) => ({
    mediaType: mediaTypes.octetStream,
    digest: digestOf(bytes),
    size: bytes.byteLength,
  }));
  const content = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config,
    layers,
    annotations: { random: randomBytes(6).toString("hex") },
  };
  const bytes = Buffer.from(JSON.stringify(content));
  const digest = digestOf(bytes);
  const changes = { [manifestPath(repository, tag)]: () => digest, [manifestPath(repository, digest)]: () => digest };
  const headers = { "content-type": mediaTypes.ociManifest };
  return ledger.change(changes, async () =>
    outcomeOf(await fetch(`${origin}${manifestPath(repository, tag)}`, { method: "PUT", body: bytes, headers }), 201),
  );
}

/** Deletes what is at a path. With a manifest go the tags that stand at it. */
export async function remove(ledger: Ledger, origin: string, path: string, tags: readonly string[] = []): Promise<Outcome> {
  const digest = path.slice(path.lastIndexOf("/") + 1);
  ledger.removed.add(path);
  const changes = Object.fromEntries(tags.map((tag) => [tag, (was: string | undefined) => (was === digest ? undefined : was)]));
  return ledger.change({ ...changes, [path]: () => undefined }, async () =>
    outcomeOf(await fetch(`${origin}${path}`, { method: "DELETE" }), 202),
  );
}
