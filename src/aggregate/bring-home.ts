import pLimit from "p-limit";
import type { Clock } from "../core/clock.js";
import { contentChunks } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { RegistryError } from "../core/errors.js";
import type { EventSink } from "../core/events.js";
import type { Manifest } from "../core/manifest.js";
import { requiredReferences } from "../core/references.js";
import type { LinkingRegistry, Registry } from "../core/registry.js";
import type { ConnectedMember } from "./members.js";

export interface BringHomeOptions {
  readonly name: string;
  readonly local: LinkingRegistry;
  readonly members: readonly ConnectedMember[];
  /** The aggregate itself, for children of an index that only a connector has. */
  outer(): Registry;
  readonly clock: Clock;
  readonly events: EventSink;
}

/** How many blobs are copied at a time: they compete with pulls for the same upstreams. */
const concurrency = 2;

/** Copies what a pushed manifest refers to from behind connectors into the local store, so that it cannot dangle. */
export class BringHome {
  readonly #o: BringHomeOptions;
  readonly #limit = pLimit(concurrency);
  readonly #closing = new AbortController();
  #closed = false;
  readonly #running = new Set<Promise<void>>();

  constructor(options: BringHomeOptions) {
    this.#o = options;
  }

  /** In the background; a failure leaves the link as it is and is told as a `fault`. */
  later(repository: string, manifest: Manifest): void {
    if (this.#closed) return;
    const run = this.#manifest(repository, manifest).finally(() => this.#running.delete(run));
    this.#running.add(run);
  }

  async close(deadline: number): Promise<void> {
    this.#closed = true;
    await Promise.race([Promise.all(this.#running), this.#o.clock.sleep(deadline)]);
    this.#closing.abort(new RegistryError("UNAVAILABLE", "the registry is closing"));
    await Promise.all(this.#running);
  }

  async #manifest(repository: string, manifest: Manifest): Promise<void> {
    const { blobs, children } = requiredReferences(manifest);
    await Promise.all([
      ...blobs.map((blob) => this.#contained(blob, () => this.#limit(() => this.#blob(repository, blob)))),
      ...children.map((child) => this.#contained(child, () => this.#child(repository, child))),
    ]);
  }

  async #blob(repository: string, { digest, size }: Descriptor): Promise<void> {
    const { local, members } = this.#o;
    const here = await local.resolveBlob(repository, digest);
    if (here.kind !== "linked" || this.#closed) return;
    const member = members.find(({ connector }) => connector.name === here.origin.member);
    if (!member || member.connector.bringHome === "never") return;
    const { signal } = this.#closing;
    const there = await member.bySourceName.getBlob(here.origin.repository, digest, { signal, verify: false });
    if (there.kind !== "found") throw new RegistryError("BLOB_UNKNOWN", `${here.origin.member} does not give ${digest}`);
    await local.putBlob(repository, { digest, size }, contentChunks(there.value.content), { signal });
  }

  async #child(repository: string, { digest }: Descriptor): Promise<void> {
    const { local, outer } = this.#o;
    if ((await local.resolveManifest(repository, digest)).kind === "found") return;
    const there = await outer().getManifest(repository, digest, { signal: this.#closing.signal });
    if (there.kind !== "found") return;
    const { bytes, descriptor } = there.value;
    // The aggregate's own put links the child's blobs and brings them home in turn.
    await outer().putManifest(repository, digest, { bytes, mediaType: descriptor.mediaType });
  }

  async #contained({ digest }: Descriptor, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      const { clock, events, name } = this.#o;
      const why = error instanceof Error ? error.message : String(error);
      events.emit("fault", { time: clock.now(), registry: name, message: `${digest} could not be brought home: ${why}` });
    }
  }
}
