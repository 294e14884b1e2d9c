import type { Digest } from "../core/digest.js";

/** Told while it runs. */
export interface AdoptProgress {
  /** The repository that is being read, as it is called there. */
  readonly repository: string;
  /** Manifests, blobs and tags that are known so far. */
  readonly items: number;
  /** Those that are here, or found not to be had. */
  readonly done: number;
  /** Bytes that went through this process, to be verified or copied. */
  readonly bytes: number;
  /** Blobs that the store took by itself: hard links, or copies within the object store. */
  readonly linked: number;
  /** Blobs that were read and written. */
  readonly copied: number;
  /** The last repository that is done: pass it as `after` to go on from there. Absent: none is. */
  readonly after?: string;
}

/** What was not taken, and why. */
export interface AdoptProblem {
  /** As it is called there. */
  readonly repository: string;
  /** A manifest's digest or a tag. Absent: the whole repository. */
  readonly reference?: string;
  readonly why: string;
}

/** A tag that was moved here by somebody else since it was taken, and was left as it is. */
export interface KeptTag {
  /** As it is called here. */
  readonly repository: string;
  readonly tag: string;
  readonly here: Digest;
  /** What it stands at in the old registry. */
  readonly there: Digest;
}

export interface AdoptReport extends AdoptProgress {
  /** Everything that is there is here: nothing is incomplete, and nothing was skipped. */
  readonly complete: boolean;
  /** Repositories that were read. */
  readonly repositories: number;
  /** Manifests that came; those that were here already are not among them. */
  readonly manifests: number;
  /** Tags that came or moved. */
  readonly tags: number;
  /** Manifests that lack something there, or whose bytes are damaged, and tags that lead to such. */
  readonly incomplete: readonly AdoptProblem[];
  /** What this registry does not take: names and formats it does not know, what cannot be read. */
  readonly skipped: readonly AdoptProblem[];
  readonly kept: readonly KeptTag[];
  /** Tags that were removed, since they are gone there. */
  readonly removed: readonly { readonly repository: string; readonly tag: string; readonly digest: Digest }[];
  /** Entries of the lists beyond the limit. */
  readonly omitted: number;
}

/** Between two tellings of bytes alone. */
const tellEvery = 4 * 1024 * 1024;

/** Counts, and keeps a bounded part of what there is to report. */
export class AdoptTally {
  readonly #limit: number;
  readonly #progress: ((progress: AdoptProgress) => void) | undefined;
  readonly #counts = { items: 0, done: 0, bytes: 0, linked: 0, copied: 0 };
  readonly #came = { repositories: 0, manifests: 0, tags: 0 };
  readonly #lists: {
    incomplete: AdoptProblem[];
    skipped: AdoptProblem[];
    kept: KeptTag[];
    removed: { repository: string; tag: string; digest: Digest }[];
  } = { incomplete: [], skipped: [], kept: [], removed: [] };
  #problems = 0;
  #omitted = 0;
  #untold = 0;
  #repository = "";
  #after: string | undefined;

  constructor(limit: number, after: string | undefined, progress: ((progress: AdoptProgress) => void) | undefined) {
    this.#limit = limit;
    this.#after = after;
    this.#progress = progress;
  }

  begin(repository: string): void {
    this.#repository = repository;
    this.#came.repositories++;
  }

  end(repository: string): void {
    this.#after = repository;
    this.#tell();
  }

  known(): void {
    this.#counts.items++;
  }

  done(): void {
    this.#counts.done++;
    this.#tell();
  }

  read(bytes: number): void {
    this.#counts.bytes += bytes;
    this.#untold += bytes;
    if (this.#untold >= tellEvery) this.#tell();
  }

  came(what: "linked" | "copied" | "manifest" | "tag"): void {
    if (what === "linked" || what === "copied") this.#counts[what]++;
    else this.#came[what === "tag" ? "tags" : "manifests"]++;
  }

  problem(kind: "incomplete" | "skipped", problem: AdoptProblem): void {
    this.#problems++;
    this.#add(this.#lists[kind], problem);
  }

  kept(tag: KeptTag): void {
    this.#add(this.#lists.kept, tag);
  }

  removed(tag: { repository: string; tag: string; digest: Digest }): void {
    this.#add(this.#lists.removed, tag);
  }

  report(): AdoptReport {
    return { ...this.#state(), ...this.#came, complete: this.#problems === 0, ...this.#lists, omitted: this.#omitted };
  }

  #add<T>(list: T[], entry: T): void {
    if (list.length < this.#limit) list.push(entry);
    else this.#omitted++;
  }

  #tell(): void {
    this.#untold = 0;
    this.#progress?.(this.#state());
  }

  #state(): AdoptProgress {
    return { repository: this.#repository, ...this.#counts, ...(this.#after !== undefined && { after: this.#after }) };
  }
}
