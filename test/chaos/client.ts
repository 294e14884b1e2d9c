import { randomBytes, randomInt } from "node:crypto";
import { digestOf } from "oci-manifold/extend";
import type { Ledger } from "./ledger.js";
import { manifestPath, mountBlob, pushBlob, pushManifest, remove, Upload } from "./pushes.js";

/** Pushed by every client at once. */
const popular = Array.from({ length: 4 }, () => randomBytes(50_000));

/** One client with a repository of its own, which does one thing after the other, at random, for as long as the server is there. */
export class Client {
  readonly repository: string;
  readonly #ledger: Ledger;
  readonly #others: readonly string[];
  readonly #tags: readonly string[];
  /** Blobs it has pushed: those that the ledger is certain of become manifests. */
  readonly #blobs = new Map<string, Uint8Array>();
  /** Uploads that broke off. */
  readonly unfinished = new Set<Upload>();
  /** Of every upload it knows of. */
  readonly uploads: string[] = [];
  acknowledged = 0;
  stopped = false;

  constructor(ledger: Ledger, repository: string, others: readonly string[]) {
    this.#ledger = ledger;
    this.repository = repository;
    this.#others = others;
    this.#tags = Array.from({ length: 5 }, (_, index) => manifestPath(repository, `t${index}`));
  }

  /** Until `stopped`, or the server is gone. @throws what a server must not answer. */
  async run(origin: string): Promise<void> {
    const steps = [
      () => this.#monolithic(origin, randomBytes(size())),
      () => this.#monolithic(origin, popular[randomInt(popular.length)] ?? new Uint8Array()),
      () => this.#chunked(origin),
      () => this.#resume(origin),
      () => this.#mount(origin),
      () => this.#tag(origin),
      () => this.#tag(origin),
      () => this.#untag(origin),
      () => this.#remove(origin),
      () => this.#pull(origin),
    ];
    try {
      while (!this.stopped) {
        await steps[randomInt(steps.length)]?.();
        this.acknowledged++;
      }
    } catch (error) {
      if (!isGone(error)) throw error;
    }
  }

  async #monolithic(origin: string, bytes: Uint8Array): Promise<void> {
    this.#blobs.set(digestOf(bytes), bytes);
    await pushBlob(this.#ledger, origin, this.repository, bytes);
  }

  async #chunked(origin: string): Promise<void> {
    const upload = new Upload(this.#ledger, this.repository, randomBytes(size() + 100));
    this.#blobs.set(upload.digest, upload.bytes);
    try {
      await upload.begin(origin);
      this.uploads.push(upload.id);
      const chunk = Math.ceil(upload.bytes.byteLength / randomInt(1, 5));
      for (let sent = 0; sent < upload.bytes.byteLength; sent += chunk) await upload.send(origin, chunk);
      await upload.finish(origin);
    } catch (error) {
      if (upload.begun) this.unfinished.add(upload);
      throw error;
    }
  }

  async #resume(origin: string): Promise<void> {
    for (const upload of this.unfinished) {
      if (await upload.goOn(origin)) this.unfinished.delete(upload);
    }
  }

  async #mount(origin: string): Promise<void> {
    const other = this.#others[randomInt(this.#others.length)] ?? "";
    const digest = digestOfPath(pick(this.#ledger.held(`/v2/${other}/blobs/`)));
    if (digest !== undefined) await mountBlob(this.#ledger, origin, this.repository, other, digest);
  }

  async #tag(origin: string): Promise<void> {
    const held = this.#ledger.held(`/v2/${this.repository}/blobs/`).flatMap((path) => this.#blobs.get(digestOfPath(path) ?? "") ?? []);
    const blobs = [pick(held), pick(held)].filter((bytes) => bytes !== undefined);
    if (blobs.length > 0) await pushManifest(this.#ledger, origin, this.repository, `t${randomInt(5)}`, blobs);
  }

  async #untag(origin: string): Promise<void> {
    const tag = pick(this.#tags.filter((path) => this.#ledger.certain(path) !== undefined));
    if (tag !== undefined) await remove(this.#ledger, origin, tag);
  }

  async #remove(origin: string): Promise<void> {
    const path = pick(this.#ledger.held(`/v2/${this.repository}/`).filter((one) => !this.#tags.includes(one)));
    if (path !== undefined) await remove(this.#ledger, origin, path, path.includes("/manifests/") ? this.#tags : []);
  }

  async #pull(origin: string): Promise<void> {
    const path = pick(this.#ledger.held(`/v2/${this.repository}/`));
    if (path !== undefined) await this.#ledger.checkOne(origin, path);
  }
}

/** Clients that mount from each other. */
export function clientsOf(ledger: Ledger, count: number): Client[] {
  const names = Array.from({ length: count }, (_, index) => `team/app${index}`);
  return names.map(
    (name) =>
      new Client(
        ledger,
        name,
        names.filter((other) => other !== name),
      ),
  );
}

/** What fetch throws when the server is not there any more. */
export function isGone(error: unknown): boolean {
  return error instanceof TypeError && /fetch failed|terminated/.test(error.message);
}

/** Small most of the time: the moments between requests are what matters. */
function size(): number {
  return randomInt(10) === 0 ? randomInt(2_000_000) : randomInt(60_000);
}

function pick<T>(from: readonly T[]): T | undefined {
  return from.length === 0 ? undefined : from[randomInt(from.length)];
}

function digestOfPath(path: string | undefined): string | undefined {
  return path?.slice(path.lastIndexOf("/") + 1);
}
