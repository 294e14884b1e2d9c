import { randomBytes } from "node:crypto";
import { type BlobContent, isRegistryError, type Lookup, mediaTypes, type Registry } from "oci-manifold";
import { chunksOf, digestOf, type MetadataStore, parseManifest } from "oci-manifold/extend";
import { collectGarbage } from "oci-manifold/maintenance";
import { collectionBytes } from "./bytes.js";
import { checkEverything, checkWhatIsLeft } from "./invariants.js";
import { killedAfter, manifestOf, type PoolBlob, Random, turns, World } from "./world.js";

const hour = 3_600_000;
const grace = 4 * hour;
const codes = (error: unknown): string => (isRegistryError(error) ? error.code : String(error));

interface Known {
  readonly registry: Registry;
  readonly repository: string;
  readonly digest: string;
  readonly bytes: Buffer;
}

/** Clients and collections over one storage, for some simulated days. Throws with the seed when something that was promised does not hold. */
export async function runModel(seed: number, metadata: MetadataStore, size: { clients: number; steps: number }): Promise<void> {
  const random = new Random(seed);
  const world = new World(metadata, random);
  await world.fillUpstream();
  await Promise.all([world.team.ready(), world.prerelease.ready()]);
  const model = new Model(world, random);
  let over = false;
  const clients = Promise.all([
    ...Array.from({ length: size.clients }, () => model.client(size.steps)),
    model.collector(size.steps),
    model.collector(size.steps),
  ]);
  const end = () => {
    over = true;
  };
  clients.then(end, end);
  try {
    while (!over) {
      const still = random.chance(0.7);
      await (still ? world.quiet() : turns(random.below(20)));
      if (still && random.chance(0.1)) await checkEverything(world);
      await world.clock.advance(random.below(still ? 20 * 60_000 : 3000));
    }
    await clients;
    await model.finish();
  } catch (error) {
    throw new Error(`seed ${seed}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

class Model {
  readonly #world: World;
  readonly #random: Random;
  readonly #known: Known[] = [];
  /** How often each manifest was deleted, wherever. */
  readonly #deleted = new Map<string, number>();

  constructor(world: World, random: Random) {
    this.#world = world;
    this.#random = random;
  }

  async client(steps: number): Promise<void> {
    const { clock } = this.#world;
    const operations = [
      () => this.#push(),
      () => this.#push(),
      () => this.#push(),
      () => this.#pull(),
      () => this.#pullThroughCache(),
      () => this.#deleteManifest(),
      () => this.#deleteManifest(),
      () => this.#deleteBlob(),
      () => this.#index(),
      () => this.#retag(),
      () => this.#crash(),
    ];
    for (let step = 0; step < steps; step++) {
      await clock.sleep(this.#random.below(2 * hour));
      await this.#random.pick(operations)();
    }
  }

  async collector(steps: number): Promise<void> {
    const { clock, storage } = this.#world;
    for (let step = 0; step < steps; step++) {
      await clock.sleep(this.#random.below(2 * hour));
      const o = { clock, grace: "4h" as const };
      const ended = new AbortController();
      let told = 0;
      const last = this.#random.below(8);
      const kinds = [
        () => collectGarbage(storage, o),
        () => collectGarbage(storage, o),
        () => collectGarbage(storage, { ...o, dryRun: true }),
        () => collectGarbage(killedAfter(storage, this.#random.below(150)), o),
        () => collectGarbage(storage, { ...o, signal: ended.signal, progress: () => ++told > last && ended.abort(new Error("killed")) }),
      ];
      await this.#random
        .pick(kinds)()
        .catch((error: unknown) => {
          if (!(error instanceof Error) || error.message !== "killed") throw error;
        });
    }
  }

  /** Makes sure that the repository has the blobs, as clients do, and puts the manifest some time later. */
  async #push(): Promise<void> {
    const { clock, pool, theirs, prerelease } = this.#world;
    const registry = this.#random.pick(this.#world.writable);
    const repository = this.#random.pick(["a", "b", "lib", "scratch"]);
    const blobs = this.#random.some(registry === prerelease ? [...pool, ...theirs] : pool, 3);
    const asked = clock.now();
    const how: string[] = [];
    for (const blob of blobs) how.push(await this.#obtain(registry, repository, blob));
    await clock.sleep(this.#random.below((grace / 2) * 1.1));
    const bytes = manifestOf(blobs);
    const refused = await registry.putManifest(repository, this.#random.pick(["1", "2", "3"]), { bytes }).then(
      () => undefined,
      (error: unknown) => codes(error),
    );
    if (refused === undefined) {
      this.#known.push({ registry, repository, digest: digestOf(bytes), bytes });
      return;
    }
    const late = clock.now() - asked > grace / 2;
    if (refused === "MANIFEST_BLOB_UNKNOWN" && (late || repository === "scratch")) return;
    const where = `${this.#world.nameOf(registry)}/${repository}`;
    throw new Error(`a manifest put to ${where} ${clock.now() - asked} ms after ${how.join(", ")} was refused: ${refused}`);
  }

  async #obtain(registry: Registry, repository: string, blob: PoolBlob): Promise<string> {
    const { release, team, prerelease, hub } = this.#world;
    const { digest } = blob;
    const how = this.#random.pick(["HEAD", "HEAD", "mount", "mount of any", "upload"]);
    if (how === "HEAD" && (await registry.resolveBlob(repository, digest)).kind === "found") return how;
    if (how === "mount") {
      const from = {
        registry: this.#random.pick<Registry>([release, team, prerelease, hub]),
        repository: this.#random.pick(["a", "b", "lib"]),
      };
      if (await registry.mountBlob(repository, digest, from)) return how;
    }
    if (how === "mount of any" && (await registry.mountBlob(repository, digest))) return how;
    if (this.#random.chance(0.5)) await registry.putBlob(repository, { digest }, chunksOf(blob.bytes));
    else {
      const session = await registry.startUpload(repository);
      await session.append(chunksOf(blob.bytes));
      await session.commit(digest);
    }
    return "upload";
  }

  async #pull(): Promise<void> {
    if (this.#known.length === 0) return;
    const { registry, repository, digest, bytes } = this.#random.pick(this.#known);
    const before = this.#deleted.get(digest);
    const lookup = await registry.getManifest(repository, digest);
    if (lookup.kind !== "found") return;
    for (const { digest: layer } of parseManifest(bytes).layers) {
      const answer = await registry.getBlob(repository, layer);
      if (answer.kind === "found") await this.#read(answer, layer);
      else if (repository !== "scratch" && this.#deleted.get(digest) === before)
        throw new Error(`${layer} of ${this.#world.nameOf(registry)}/${repository} is ${answer.kind} though ${digest} is there`);
    }
  }

  /** Half a minute later at most, the bytes can still be read. */
  async #read(answer: Extract<Lookup<BlobContent>, { kind: "found" }>, digest: string): Promise<void> {
    await this.#world.clock.sleep(this.#random.below(30_000));
    const bytes = await collectionBytes(answer.value.content);
    if (digestOf(bytes) !== digest) throw new Error(`${digest} has other bytes`);
  }

  async #pullThroughCache(): Promise<void> {
    const { hub } = this.#world;
    const lookup = await hub.getManifest("lib", `v${this.#random.below(4)}`);
    if (lookup.kind !== "found") throw new Error("the upstream's manifest is gone");
    for (const { digest } of parseManifest(lookup.value.bytes).layers) {
      const answer = await hub.getBlob("lib", digest);
      if (answer.kind !== "found") throw new Error(`the cache's ${digest} is ${answer.kind}`);
      await this.#read(answer, digest);
    }
  }

  async #deleteManifest(): Promise<void> {
    if (this.#known.length === 0) return;
    const { registry, repository, digest } = this.#random.pick(this.#known);
    this.#deleted.set(digest, (this.#deleted.get(digest) ?? 0) + 1);
    await registry.deleteManifest(repository, digest).catch((error: unknown) => {
      // Deleted already; or only a connector has it.
      if (!["MANIFEST_UNKNOWN", "UNSUPPORTED"].includes(codes(error))) throw error;
    });
    this.#deleted.set(digest, (this.#deleted.get(digest) ?? 0) + 1);
  }

  /** Only in one repository: whoever deletes a blob takes it from everybody who was told that it is there. */
  async #deleteBlob(): Promise<void> {
    const { digest } = this.#random.pick(this.#world.pool);
    await this.#random
      .pick(this.#world.writable)
      .deleteBlob("scratch", digest)
      .catch((error: unknown) => {
        if (!["BLOB_UNKNOWN", "UNSUPPORTED"].includes(codes(error))) throw error;
      });
  }

  async #index(): Promise<void> {
    if (this.#known.length === 0) return;
    const { registry, repository, digest, bytes: child } = this.#random.pick(this.#known);
    const manifests = [{ mediaType: mediaTypes.ociManifest, digest, size: child.byteLength }];
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests }));
    await registry.putManifest(repository, "index", { bytes }).catch((error: unknown) => {
      if (codes(error) !== "MANIFEST_BLOB_UNKNOWN") throw error;
    });
  }

  async #retag(): Promise<void> {
    if (this.#known.length === 0) return;
    const { registry, repository, digest, bytes } = this.#random.pick(this.#known);
    const before = this.#deleted.get(digest);
    if ((await registry.resolveManifest(repository, digest)).kind !== "found") return;
    await registry.putManifest(repository, "moved", { bytes }).catch((error: unknown) => {
      const gone = this.#deleted.get(digest) !== before || repository === "scratch";
      if (codes(error) !== "MANIFEST_BLOB_UNKNOWN" || !gone) throw error;
    });
  }

  /** What a killed process leaves. */
  async #crash(): Promise<void> {
    const { blobs } = this.#world;
    const { bytes } = this.#random.pick(this.#world.pool);
    const staged = await blobs.stage(randomBytes(16).toString("hex"));
    await staged.append(chunksOf(bytes));
    if (this.#random.chance(0.5)) await staged.commit(digestOf(bytes));
  }

  /** After two graces one collection leaves exactly what is live. */
  async finish(): Promise<void> {
    const { clock, storage } = this.#world;
    await this.#world.quiet();
    await checkEverything(this.#world);
    await clock.advance(30 * hour);
    let over = false;
    const last = collectGarbage(storage, { clock, grace: "4h" }).finally(() => {
      over = true;
    });
    last.catch(() => {});
    while (!over) {
      await this.#world.quiet();
      await clock.advance(60_000);
    }
    await last;
    await checkEverything(this.#world);
    await checkWhatIsLeft(this.#world);
  }
}
