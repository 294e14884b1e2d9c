import pLimit from "p-limit";
import type { Clock } from "../core/clock.js";
import { contentChunks } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import type { Digest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import { type EventSink, reportFault } from "../core/events.js";
import { orThrow } from "../core/lookup.js";
import { followManifest, type Manifest } from "../core/manifest.js";
import { allPages } from "../core/page.js";
import { requiredReferences } from "../core/references.js";
import type { Registry } from "../core/registry.js";
import type { StoringRegistry } from "../core/storing-registry.js";
import type { Membership } from "./members.js";

interface LocalCopiesOptions {
  readonly name: string;
  readonly local: StoringRegistry;
  readonly membership: Membership;
  /** The aggregate itself, for children of an index that only a connector has. */
  outer(): Registry;
  readonly clock: Clock;
  readonly events: EventSink;
}

/** When a copy is made: each connector says which one it wants. */
type Occasion = "onPush" | "onPull";

/** How many blobs are copied at a time: they compete with pulls for the same upstreams. */
const concurrency = 2;

/** Copies content from behind connectors to local, in the background, so that it cannot dangle: what a push refers to, or what is pulled, as each connector says. */
export class LocalCopies {
  readonly #o: LocalCopiesOptions;
  readonly #limit = pLimit(concurrency);
  readonly #closing = new AbortController();
  #closed = false;
  #resumed = false;
  /** How many copies are not over. */
  #waiting = 0;
  readonly #running = new Set<Promise<void>>();
  /** Being copied, as `repository@digest`: many pulls of one blob make one copy. */
  readonly #copying = new Set<string>();

  constructor(options: LocalCopiesOptions) {
    this.#o = options;
  }

  /** Copies what a pushed manifest refers to. A failure leaves the blob reference as it is and is told as a `fault`. */
  copyLater(repository: string, manifest: Manifest): void {
    this.#run(`what ${repository} refers to`, () => this.#manifest(repository, manifest));
  }

  /** Copies what was pulled through a blob reference. */
  pulled(repository: string, blob: Pick<Descriptor, "digest">): void {
    const copy = `${repository}@${blob.digest}`;
    if (this.#copying.has(copy)) return;
    this.#copying.add(copy);
    this.#run(blob.digest, () => this.#copy(repository, blob, "onPull").finally(() => this.#copying.delete(copy)));
  }

  /** Goes on with what a crash or a failure left behind, once. */
  resume(): void {
    const wanted = this.#o.membership.connectors.some(({ copyToLocal = "onPush" }) => copyToLocal === "onPush");
    if (this.#resumed || !wanted) return;
    this.#resumed = true;
    this.#run("what was left behind", () => this.#resume());
  }

  async close(deadline: number): Promise<void> {
    this.#closed = true;
    const done = new AbortController();
    await Promise.race([Promise.all(this.#running), this.#o.clock.sleep(deadline, done.signal).catch(() => {})]);
    done.abort();
    this.#closing.abort(new RegistryError("UNAVAILABLE", "the registry is closing"));
    await Promise.all(this.#running);
  }

  #run(what: string, run: () => Promise<void>): void {
    if (this.#closed) return;
    const running = this.#contained(what, run).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async #resume(): Promise<void> {
    const { local } = this.#o;
    const repositories = allPages(async (page) => orThrow(await local.listRepositories(page), "NAME_UNKNOWN"));
    for await (const repository of repositories) {
      if (this.#closed) return;
      if (!(await this.#leftBehind(repository))) continue;
      for await (const { digest } of allPages((page) => local.listManifests(repository, page))) {
        if (this.#closed) return;
        const stored = await local.getManifest(repository, digest);
        if (stored.kind !== "found") continue;
        const { bytes, descriptor } = stored.value;
        await this.#contained(digest, () => this.#manifest(repository, followManifest(bytes, descriptor.mediaType)));
      }
    }
  }

  /** Whether a blob reference says that something is missing. Only then manifests are read: most repositories have nothing behind connectors. */
  async #leftBehind(repository: string): Promise<boolean> {
    for await (const { origin } of allPages((page) => this.#o.local.listBlobReferences(repository, page))) {
      if (origin && this.#isWanted(origin.member, "onPush")) return true;
    }
    return false;
  }

  #isWanted(member: string, occasion: Occasion): boolean {
    const connector = this.#o.membership.connectors.find(({ name }) => name === member);
    return connector !== undefined && (connector.copyToLocal ?? "onPush") === occasion;
  }

  async #manifest(repository: string, manifest: Manifest): Promise<void> {
    const { blobs, children } = requiredReferences(manifest);
    await Promise.all([
      ...blobs.map((blob) => this.#contained(blob.digest, () => this.#copy(repository, blob, "onPush"))),
      ...children.map((child) => this.#contained(child.digest, () => this.#child(repository, child))),
    ]);
  }

  #copy(repository: string, { digest }: Pick<Descriptor, "digest">, occasion: Occasion): Promise<void> {
    const { clock, events, name } = this.#o;
    this.#waiting++;
    return this.#limit(async () => {
      const copied = await this.#blob(repository, digest, occasion).finally(() => this.#waiting--);
      if (copied) events.emit("copied", { time: clock.now(), registry: name, repository, digest, ...copied, waiting: this.#waiting });
    });
  }

  async #blob(repository: string, digest: Digest, occasion: Occasion): Promise<{ member: string; bytes: number } | undefined> {
    const { local, membership } = this.#o;
    const here = await local.resolveBlob(repository, digest, { priority: "background" });
    if (here.kind !== "linked" || this.#closed || !this.#isWanted(here.origin.member, occasion)) return undefined;
    const { member: from, repository: there } = here.origin;
    const { size } = await membership.during(async (members) => {
      const member = members.find(({ connector }) => connector.name === from);
      const { signal } = this.#closing;
      const lookup = await member?.bySourceName.getBlob(there, digest, { signal, verify: false, unsized: true, priority: "background" });
      if (lookup?.kind !== "found") throw new RegistryError("BLOB_UNKNOWN", `${from} does not give ${digest}`);
      // Without the size that the manifest says: the bytes are right by their digest.
      return local.putBlob(repository, { digest }, contentChunks(lookup.value.content), { signal });
    });
    return { member: from, bytes: size };
  }

  async #child(repository: string, { digest }: Descriptor): Promise<void> {
    const { local, outer } = this.#o;
    if (this.#closed || (await local.resolveManifest(repository, digest)).kind === "found") return;
    const there = await outer().getManifest(repository, digest, { signal: this.#closing.signal });
    if (there.kind !== "found" || this.#closed) return;
    const { bytes, descriptor } = there.value;
    // The aggregate's own put refers to the child's blobs and copies them to local as well.
    await outer().putManifest(repository, digest, { bytes, mediaType: descriptor.mediaType });
  }

  async #contained(what: string, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      reportFault(this.#o, `${what} could not be copied to local`, error);
    }
  }
}
