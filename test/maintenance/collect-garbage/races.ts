import { isRegistryError, type Registry } from "oci-manifold";
import { chunksOf, type MetadataStore, parseManifest } from "oci-manifold/extend";
import { collectGarbage } from "oci-manifold/maintenance";
import { collectionBytes } from "./bytes.js";
import { checkEverything } from "./invariants.js";
import { killedAfter, manifestOf, type PoolBlob, Random, turns, World } from "./world.js";

const hour = 3_600_000;

/**
 * Again and again: blob references that nobody has used for longer than the grace, collections of them, and at the same moment those who come to rely on them after all.
 * Throws with the seed when somebody was told yes, and it was not so.
 */
export async function runRaces(seed: number, metadata: MetadataStore, races: number): Promise<void> {
  const random = new Random(seed);
  const world = new World(metadata, random);
  await world.fillUpstream();
  await Promise.all([world.team.ready(), world.prerelease.ready()]);
  try {
    for (let race = 0; race < races; race++) await new Race(world, random).run();
  } catch (error) {
    throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

class Race {
  readonly #world: World;
  readonly #random: Random;
  readonly #registry: Registry;
  readonly #repository: string;
  readonly #blobs: readonly PoolBlob[];

  constructor(world: World, random: Random) {
    this.#world = world;
    this.#random = random;
    this.#registry = random.pick(world.writable);
    this.#repository = random.pick(["a", "b"]);
    this.#blobs = random.some(world.pool, 3);
  }

  async run(): Promise<void> {
    const { clock, storage } = this.#world;
    const registry = this.#registry;
    const put = async (blobs: readonly PoolBlob[]) => {
      const bytes = manifestOf(blobs);
      return (await registry.putManifest(this.#repository, "1", { bytes })).digest;
    };
    await this.#during(async () => {
      for (const { digest, bytes } of this.#blobs) await registry.putBlob(this.#repository, { digest }, chunksOf(bytes));
      // Most blob references were a manifest's before; some manifests are there all the time.
      if (this.#random.chance(0.7)) await registry.deleteManifest(this.#repository, await put(this.#blobs));
      if (this.#random.chance(0.3)) await put(this.#blobs.slice(0, 1));
    });
    await clock.advance(5 * hour);
    const collections = Array.from({ length: 1 + this.#random.below(2) }, async () => {
      await turns(this.#random.below(40));
      const victim = this.#random.chance(0.3) ? killedAfter(storage, this.#random.below(80)) : storage;
      await collectGarbage(victim, { clock, grace: "4h" }).catch((error: unknown) => {
        if (!(error instanceof Error) || error.message !== "killed") throw error;
      });
    });
    const actions = [
      () => this.#putAtOnce(),
      () => this.#putAtOnce(),
      () => this.#askThenPut(),
      () => this.#mountThenPut(),
      () => this.#read(),
      () => this.#pushElsewhere(),
    ];
    const clients = Array.from({ length: 1 + this.#random.below(3) }, async () => {
      // At once, while blob references are looked at; or a minute later, when blobs go.
      const late = this.#random.chance(0.4);
      if (late) await clock.sleep(60_000);
      await turns(this.#random.below(late ? 50 : 200));
      await this.#random.pick(actions)();
    });
    await this.#during(() => Promise.all([...collections, ...clients]));
    await checkEverything(this.#world);
    await this.#during(async () => {
      for (const one of this.#world.writable) for (const repository of [this.#repository, "mounted"]) await this.#empty(one, repository);
    });
  }

  /** So that the next race finds blob references that nobody relies on any more. */
  async #empty(registry: Registry, repository: string): Promise<void> {
    const under = [this.#world.nameOf(registry), repository];
    for (const { key } of await this.#world.metadata.page({ kind: "manifest", under, limit: 100 }))
      await registry.deleteManifest(repository, key.parts[2] ?? "");
  }

  /** Time goes by only while nothing happens: all of this takes place within moments, but for what waits. */
  async #during(work: () => Promise<unknown>): Promise<void> {
    let over = false;
    const running = work().finally(() => {
      over = true;
    });
    running.catch(() => {});
    while (!over) {
      await this.#world.quiet();
      if (!over) await this.#world.clock.advance(this.#random.below(40_000));
    }
    await running;
  }

  /** Without a question: whether it is taken or refused, what is then said holds. */
  async #putAtOnce(): Promise<void> {
    const blobs = this.#random.some(this.#blobs, 3);
    // What a cache trusts was looked at before in its own store, which an aggregate's answer does not show: it may be a connector's.
    const own = this.#registry !== this.#world.prerelease;
    const o = own && this.#random.chance(0.2) ? { references: "trust" as const } : {};
    if (o.references) for (const { digest, bytes } of blobs) await this.#pulled(digest, bytes);
    await this.#registry.putManifest(this.#repository, "2", { bytes: manifestOf(blobs) }, o).catch((error: unknown) => {
      if (!isRegistryError(error) || error.code !== "MANIFEST_BLOB_UNKNOWN") throw error;
    });
  }

  async #pulled(digest: string, bytes: Uint8Array): Promise<void> {
    if ((await this.#registry.resolveBlob(this.#repository, digest)).kind !== "found")
      await this.#registry.putBlob(this.#repository, { digest }, chunksOf(bytes));
  }

  async #askThenPut(): Promise<void> {
    const blobs = this.#random.some(this.#blobs, 3);
    for (const { digest, bytes } of blobs) await this.#pulled(digest, bytes);
    await turns(this.#random.below(100));
    await this.#registry.putManifest(this.#repository, "3", { bytes: manifestOf(blobs) });
  }

  async #mountThenPut(): Promise<void> {
    const blobs = this.#random.some(this.#blobs, 2);
    const to = this.#random.pick(this.#world.writable);
    const from = { registry: this.#registry, repository: this.#repository };
    for (const { digest, bytes } of blobs)
      if (!(await to.mountBlob("mounted", digest, from))) await to.putBlob("mounted", { digest }, chunksOf(bytes));
    await turns(this.#random.below(100));
    await to.putManifest("mounted", "1", { bytes: manifestOf(blobs) });
    await turns(this.#random.below(100));
    for (const { digest } of parseManifest(manifestOf(blobs)).layers) {
      const answer = await to.getBlob("mounted", digest);
      if (answer.kind !== "found") throw new Error(`${digest} was mounted and is ${answer.kind}`);
      await collectionBytes(answer.value.content);
    }
  }

  async #read(): Promise<void> {
    const { digest } = this.#random.pick(this.#blobs);
    // A part, since small blobs are answered as bytes.
    const answer = await this.#registry.getBlob(this.#repository, digest, { range: { start: 0 } });
    if (answer.kind !== "found") return;
    await this.#world.clock.sleep(this.#random.below(30_000));
    await collectionBytes(answer.value.content);
  }

  /** The same bytes for another repository, while they are marked or removed. */
  async #pushElsewhere(): Promise<void> {
    const { digest, bytes } = this.#random.pick(this.#blobs);
    const to = this.#random.pick(this.#world.writable);
    await to.putBlob("mounted", { digest }, chunksOf(bytes));
    await turns(this.#random.below(200));
    const answer = await to.getBlob("mounted", digest);
    if (answer.kind !== "found") throw new Error(`${digest} was pushed and is ${answer.kind}`);
    await collectionBytes(answer.value.content);
  }
}
