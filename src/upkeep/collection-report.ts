import { RegistryError } from "../core/errors.js";
import type { Surroundings } from "../core/events.js";
import type { Duration } from "../core/units.js";

/** In this order. `expired`: quarantine, leases and distrust. */
export const phases = ["links", "blobs", "uploads", "expired", "locations"] as const;
export type CollectPhase = (typeof phases)[number];

export interface CollectOptions extends Surroundings {
  /** What was written, or told to be there, within this time is left alone. At least two hours. Default: "24h". */
  readonly grace?: Duration;
  /** How long bytes that were found to be others than their digest says are kept. Default: "30d". */
  readonly quarantineFor?: Duration;
  /** Changes nothing, and reports what would go. Default: false. */
  readonly dryRun?: boolean;
  /** Ends it, with the signal's reason. What was removed is gone; what progress told last says where to go on. */
  readonly signal?: AbortSignal;
  /** Told after every part of the work. */
  readonly progress?: (progress: CollectProgress) => void;
  /** Goes on behind this place, as progress told it. A dry run that goes on does not know which claims it found before, so it tells of fewer blobs. */
  readonly after?: string;
  /** How many of `removed` are kept; more are only counted. Default: 1,000. */
  readonly limit?: number;
}

/** Something that went, or would go. */
export interface Collected {
  readonly what: "link" | "blob" | "upload" | "staged" | "location" | "quarantined";
  /** The name of the local registry or cache. */
  readonly registry?: string;
  readonly repository?: string;
  readonly digest?: string;
  /** Where the bytes were, or the upload's id. */
  readonly place?: string;
  /** Bytes. */
  readonly size?: number;
  readonly why: string;
}

export interface CollectReport {
  readonly dryRun: boolean;
  /** Claims of repositories. */
  readonly links: { readonly checked: number; readonly removed: number };
  /** Blobs that nobody claims any more. */
  readonly blobs: { readonly checked: number; readonly removed: number; readonly bytes: number };
  /** Upload sessions that had expired. */
  readonly uploads: { readonly checked: number; readonly ended: number };
  /** What was on its way in and belongs to no session. */
  readonly staged: { readonly checked: number; readonly discarded: number };
  readonly quarantined: { readonly checked: number; readonly removed: number; readonly bytes: number };
  readonly leases: { readonly checked: number; readonly removed: number };
  /** Digests of which a member of an aggregate stated what a manifest refuted. */
  readonly distrusted: { readonly checked: number; readonly removed: number };
  /** Committed bytes that no record names. */
  readonly locations: { readonly checked: number; readonly deleted: number; readonly bytes: number };
  /** Bytes of all of these. */
  readonly bytes: number;
  /** Repositories whose claims were left as they are, since a manifest cannot be read: each is told as a `fault`. */
  readonly skipped: number;
  /** False where a dry run found more claims than it can remember: blobs, and bytes, are then no fewer than it says. */
  readonly exact: boolean;
  /** What went, or in a dry run would go. */
  readonly removed: readonly Collected[];
  /** Entries of `removed` beyond `limit`. */
  readonly omitted: number;
}

export interface CollectProgress extends CollectReport {
  /** What it is at. */
  readonly phase: CollectPhase;
  /** Pass it as `after` to go on from here. */
  readonly after: string;
}

/** Where a phase goes on: the parts of a key. */
export type Place = readonly string[];

export function cursorOf(phase: CollectPhase, place: Place): string {
  return [phase, ...place].join(" ");
}

/** @throws RegistryError NAME_INVALID */
export function parseCursor(text: string): { phase: CollectPhase; place: Place } {
  const [first, ...place] = text.split(" ");
  const phase = phases.find((name) => name === first);
  if (phase === undefined)
    throw new RegistryError("NAME_INVALID", `${JSON.stringify(text)} is no place to go on from: pass what progress told`);
  return { phase, place };
}
