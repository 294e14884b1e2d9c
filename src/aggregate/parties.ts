import type { Member } from "../core/connector.js";
import type { Descriptor } from "../core/descriptor.js";
import { isDigest } from "../core/digest.js";
import type { Lookup } from "../core/lookup.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { isLoop } from "../core/via.js";
import type { Failure } from "./failures.js";
import { type ConnectedMember, localName } from "./members.js";

/** A member as a resolver sees it during one question. */
export class Party implements Member {
  readonly name: string;
  readonly onFailure: "stop" | "next";
  readonly #registry: Registry;
  readonly #call: CallOptions | undefined;
  #loop: Failure | undefined;

  constructor(name: string, onFailure: "stop" | "next", registry: Registry, call: CallOptions | undefined) {
    this.name = name;
    this.onFailure = onFailure;
    this.#registry = registry;
    this.#call = call;
  }

  /** What it said when it was asked for a tag and the question had come back in a loop. */
  get loop(): Failure | undefined {
    return this.#loop;
  }

  async resolveManifest(repository: string, reference: string): Promise<Lookup<Descriptor>> {
    return this.#heard(reference, await this.#registry.resolveManifest(repository, reference, this.#call));
  }

  async getManifest(repository: string, reference: string): Promise<Lookup<ManifestContent>> {
    return this.#heard(reference, await this.#registry.getManifest(repository, reference, this.#call));
  }

  #heard<T>(reference: string, lookup: Lookup<T>): Lookup<T> {
    if (lookup.kind === "unavailable" && !isDigest(reference) && isLoop(lookup.error)) this.#loop = lookup;
    return lookup;
  }
}

/** Who may be asked by name, the aggregate's own registry first. */
export function partiesOf(local: Registry, members: readonly ConnectedMember[], call: CallOptions | undefined): readonly Party[] {
  const own = new Party(localName, "stop", local, call);
  const others = members.flatMap(({ connector, byName }) =>
    byName ? [new Party(connector.name, connector.onFailure ?? "stop", byName, call)] : [],
  );
  return [own, ...others];
}
