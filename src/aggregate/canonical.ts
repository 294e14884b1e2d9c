import type { ConnectedMember } from "./members.js";

/**
 * The one name for a repository that a connector knows under several: a filter in front of an aggregate cannot be walked around by another spelling any more
 * than one in front of the connector's source. The first connector that has another name decides.
 */
export class CanonicalNames {
  readonly #members: () => readonly ConnectedMember[];
  /** Among aggregates that show each other the call comes back within itself: then this one has no opinion. */
  #isAsking = false;

  constructor(members: () => readonly ConnectedMember[]) {
    this.#members = members;
  }

  of(repository: string): string {
    if (this.#isAsking) return repository;
    this.#isAsking = true;
    try {
      for (const { byName } of this.#members()) {
        const name = byName?.canonicalName?.(repository) ?? repository;
        if (name !== repository) return name;
      }
      return repository;
    } finally {
      this.#isAsking = false;
    }
  }
}
