import type { ConnectedMember } from "./members.js";

/**
 * The one name for a repository that a connector knows under several: a filter in front of an aggregate cannot be walked around by another spelling any more
 * than one in front of the connector's source. The first connector with an opinion decides.
 */
export class CanonicalNames {
  readonly #members: () => readonly ConnectedMember[];
  /** Among aggregates that show each other the question comes back; whoever is asking already has no opinion then. */
  #asking = false;

  constructor(members: () => readonly ConnectedMember[]) {
    this.#members = members;
  }

  of(repository: string): string {
    if (this.#asking) return repository;
    this.#asking = true;
    try {
      for (const { byName } of this.#members()) {
        const name = byName?.canonicalName?.(repository) ?? repository;
        if (name !== repository) return name;
      }
      return repository;
    } finally {
      this.#asking = false;
    }
  }
}
