import type { RecordKind } from "../../core/records.js";
import type { ChangedRow } from "../sql/rows.js";
import type { Place } from "./folder-identity.js";
import type { DriverLocation } from "./sqlite-driver.js";
import type { sqliteCommitTexts } from "./sqlite-statements.js";

/** What the thread that commits (`commit-worker.mjs`) is started with. */
export interface CommitStart {
  /** Of the database: the same file as the main thread's. */
  readonly place: Place;
  readonly driver: DriverLocation;
  /** Statements that set up the connection. */
  readonly settings: string;
  readonly texts: typeof sqliteCommitTexts;
  /** The version of the format that this library knows: databases that need a newer one are not written. */
  readonly format: number;
  /** For how many milliseconds another process may hold the database before a commit gives up. */
  readonly patience: number;
  /** Shared with the main thread: see `commit-exit.ts`. */
  readonly gate: SharedArrayBuffer;
}

/** A condition whose key was made to text. */
export interface CommitCondition {
  readonly kind: RecordKind;
  readonly key: string;
  readonly is: "absent" | "present" | "version";
  readonly version?: number;
}

export interface CommitRequest {
  readonly conditions: readonly CommitCondition[];
  readonly rows: readonly ChangedRow[];
}

/** What is sent to the thread: a group of commits; before that, part of its only commit, where that is large; or that it is over. */
export type CommitMessage = { readonly group: readonly CommitRequest[] } | { readonly part: CommitRequest } | "close";

/** An error as it crosses between threads: drivers tell what happened by their codes. */
export interface CommitFailure {
  readonly message: string;
  readonly code?: unknown;
  readonly errcode?: unknown;
  /** The database is not where it was: why. */
  readonly left?: string;
  /** Another process has brought the database to this format, which the library does not know. */
  readonly needs?: number;
}

/** The versions from the first, exclusive, to the second, inclusive, were given in one transaction. */
export type VersionSpan = readonly [number, number];

/** The answer to one group, in its order. `false`: the conditions did not hold. */
export interface GroupAnswer {
  readonly outcomes: readonly (boolean | CommitFailure)[];
  /** What the group's transactions have taken of the sequence of versions, in order. */
  readonly spans: readonly VersionSpan[];
}
