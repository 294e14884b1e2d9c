import type { Digest } from "../core/digest.js";
import { BoundedList } from "../maintenance/bounded-list.js";
import { ProgressCount } from "../maintenance/progress-count.js";

/** How far an adoption has come. */
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
  /** What it points to in the old registry. */
  readonly there: Digest;
}

/** A tag that was removed here, since it is gone there. */
export interface RemovedTag {
  /** As it is called here. */
  readonly repository: string;
  readonly tag: string;
  readonly digest: Digest;
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
  /** Manifests that lack something there, or whose bytes are damaged; tags that lead to such; and tags that are listed there, but do not say what they point to. */
  readonly incomplete: readonly AdoptProblem[];
  /** What this registry does not take: names and formats it does not know, what cannot be read. */
  readonly skipped: readonly AdoptProblem[];
  /** Tags that others have moved here, left as they are. */
  readonly kept: readonly KeptTag[];
  /** Tags that were removed, since they are gone there. */
  readonly removed: readonly RemovedTag[];
  /** Entries of the lists beyond the limit. */
  readonly omitted: number;
}

/** Counts, and keeps a bounded part of what there is to report. */
export class AdoptCounts {
  readonly #progress: ProgressCount;
  readonly #blobs = { linked: 0, copied: 0 };
  readonly #came = { repositories: 0, manifests: 0, tags: 0 };
  readonly #incomplete: BoundedList<AdoptProblem>;
  readonly #skipped: BoundedList<AdoptProblem>;
  readonly #kept: BoundedList<KeptTag>;
  readonly #removed: BoundedList<RemovedTag>;
  #repository = "";
  #after: string | undefined;

  constructor(limit: number, after: string | undefined, progress: ((progress: AdoptProgress) => void) | undefined) {
    this.#after = after;
    this.#progress = new ProgressCount(0, () => progress?.(this.#state()));
    this.#incomplete = new BoundedList(limit);
    this.#skipped = new BoundedList(limit);
    this.#kept = new BoundedList(limit);
    this.#removed = new BoundedList(limit);
  }

  begin(repository: string): void {
    this.#repository = repository;
    this.#came.repositories++;
  }

  end(repository: string): void {
    this.#after = repository;
    this.#progress.report();
  }

  known(): void {
    this.#progress.known();
  }

  done(): void {
    this.#progress.done();
  }

  read(bytes: number): void {
    this.#progress.received(bytes);
  }

  came(what: "linked" | "copied" | "manifest" | "tag"): void {
    if (what === "linked" || what === "copied") this.#blobs[what]++;
    else this.#came[what === "tag" ? "tags" : "manifests"]++;
  }

  problem(kind: "incomplete" | "skipped", problem: AdoptProblem): void {
    (kind === "incomplete" ? this.#incomplete : this.#skipped).add(problem);
  }

  kept(tag: KeptTag): void {
    this.#kept.add(tag);
  }

  removed(tag: RemovedTag): void {
    this.#removed.add(tag);
  }

  report(): AdoptReport {
    const [incomplete, skipped, kept, removed] = [this.#incomplete, this.#skipped, this.#kept, this.#removed];
    return {
      ...this.#state(),
      ...this.#came,
      complete: incomplete.count === 0 && skipped.count === 0,
      incomplete: incomplete.kept,
      skipped: skipped.kept,
      kept: kept.kept,
      removed: removed.kept,
      omitted: incomplete.omitted + skipped.omitted + kept.omitted + removed.omitted,
    };
  }

  #state(): AdoptProgress {
    return {
      repository: this.#repository,
      ...this.#progress.counts,
      ...this.#blobs,
      ...(this.#after !== undefined && { after: this.#after }),
    };
  }
}
