import { aggregate, cached, localRegistry, mediaTypes, type Registry, type Storage } from "oci-manifold";
import { chunksOf, digestOf, type MetadataStore } from "oci-manifold/extend";
import { memoryBlobStore, memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";

/** Numbers that a seed decides. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  /** From 0 to below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  }
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }
  chance(part: number): boolean {
    return this.next() < part;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }
  some<T>(items: readonly T[], most: number): T[] {
    return [...new Set(Array.from({ length: 1 + this.below(most) }, () => this.pick(items)))];
  }
}

export interface PoolBlob {
  readonly digest: string;
  readonly bytes: Uint8Array;
}

const blobOf = (text: string, size: number): PoolBlob => {
  const bytes = Buffer.alloc(size, text);
  return { bytes, digest: digestOf(bytes) };
};

export function manifestOf(blobs: readonly PoolBlob[]): Buffer {
  const descriptors = blobs.map(({ digest, bytes }) => ({ mediaType: mediaTypes.octetStream, digest, size: bytes.byteLength }));
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config: descriptors[0], layers: descriptors }));
}

/** Lets so many turns of the event loop pass. */
export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** One storage with two local registries, one of them with a quota, a cache that evicts, and an aggregate with blob references to both; and an upstream elsewhere. */
export class World {
  readonly clock = fakeClock();
  readonly blobs = memoryBlobStore({ clock: this.clock });
  readonly metadata: MetadataStore;
  /** Each operation takes a random number of turns, before and after it happens. */
  readonly storage: Storage;
  readonly pool = Array.from({ length: 7 }, (_, index) => blobOf(`pool ${index} `, 40 + index * 30));
  readonly theirs = Array.from({ length: 5 }, (_, index) => blobOf(`theirs ${index} `, 60 + index * 40));
  readonly upstream = localRegistry({ storage: memoryStorage(), name: "upstream", clock: this.clock });
  readonly release;
  readonly team;
  readonly hub;
  readonly prerelease;
  readonly #random: Random;
  #running = 0;

  constructor(metadata: MetadataStore, random: Random) {
    this.#random = random;
    this.metadata = metadata;
    this.storage = { blobs: this.blobs, metadata: this.#slow(metadata) };
    const { storage, clock } = this;
    this.release = localRegistry({ storage, name: "release", clock });
    this.team = localRegistry({ storage, name: "team", clock, maxBytes: "1GiB" });
    this.hub = cached(this.upstream, { storage, name: "hub", clock, maxBytes: "500B", keepFree: 0 });
    this.prerelease = aggregate({
      local: localRegistry({ storage, name: "prerelease", clock }),
      connectors: [
        { name: "release", source: this.release },
        { name: "hub", source: this.hub, copyToLocal: random.chance(0.5) ? "never" : "onPush" },
      ],
      clock,
    });
  }

  async fillUpstream(): Promise<void> {
    for (const { digest, bytes } of this.theirs) await this.upstream.putBlob("lib", { digest }, chunksOf(bytes));
    for (let image = 0; image < 4; image++)
      await this.upstream.putManifest("lib", `v${image}`, { bytes: manifestOf(this.theirs.slice(image, image + 2)) });
  }

  get writable(): readonly Registry[] {
    return [this.release, this.team, this.prerelease];
  }

  nameOf(registry: Registry): string {
    return registry === this.release ? "release" : registry === this.team ? "team" : "prerelease";
  }

  bytesOf(digest: string): Uint8Array | undefined {
    return [...this.pool, ...this.theirs].find((blob) => blob.digest === digest)?.bytes;
  }

  /** Resolves when no operation of the store has run for some turns. */
  async quiet(): Promise<void> {
    for (let still = 0; still < 5; still = this.#running === 0 ? still + 1 : 0) await turns(1);
  }

  #slow(metadata: MetadataStore): MetadataStore {
    const slow = { ...metadata };
    for (const method of ["get", "page", "names", "commit"] as const) {
      const operation = metadata[method].bind(metadata) as (...args: unknown[]) => Promise<unknown>;
      Object.assign(slow, {
        [method]: async (...args: unknown[]) => {
          this.#running++;
          try {
            await turns(this.#random.below(4));
            const outcome = await operation(...args);
            await turns(this.#random.below(3));
            return outcome;
          } finally {
            this.#running--;
          }
        },
      });
    }
    return slow;
  }
}

/** A storage that fails from its so-many-th operation on, as for a process that is killed. */
export function killedAfter(storage: Storage, operations: number): Storage {
  let left = operations;
  const dying = <T extends object>(target: T): T =>
    new Proxy(target, {
      get(_, property, receiver) {
        const value: unknown = Reflect.get(target, property, receiver);
        if (typeof value !== "function") return value;
        return (...args: unknown[]) => {
          if (left-- <= 0) throw new Error("killed");
          return value.apply(target, args);
        };
      },
    });
  return { blobs: dying(storage.blobs), metadata: dying(storage.metadata) };
}
