import type { Clock } from "./clock.js";
import { errorText } from "./errors.js";
import type { Caller } from "./registry.js";

/** What every event about a request says. */
export interface RequestFacts {
  /** Milliseconds since the epoch. */
  readonly time: number;
  readonly caller?: Caller;
  readonly address?: string;
  readonly trace?: string;
  readonly repository: string;
}

export interface ManifestEvent extends RequestFacts {
  readonly reference: string;
  /** Absent when the operation failed before a digest was known. */
  readonly digest?: string;
  /** Who answered, outermost first. */
  readonly member?: readonly string[];
  readonly cache?: "hit" | "miss" | "stale";
  /** The manifest's size. */
  readonly bytes?: number;
  /** `ok`, or the code of the error the client got. */
  readonly outcome: string;
}

export interface DenialEvent extends RequestFacts {
  readonly action: string;
  readonly reference?: string;
  readonly code: string;
}

/** One HTTP request, when its response has ended. */
export interface HttpEvent {
  readonly time: number;
  readonly method: string;
  /** Path and query as received. */
  readonly url: string;
  readonly status: number;
  readonly caller?: Caller;
  readonly address?: string;
  readonly member?: readonly string[];
  readonly cache?: "hit" | "miss" | "stale";
  /** Body bytes sent. */
  readonly bytes: number;
  /** Milliseconds from the request to the end of the response. */
  readonly duration: number;
  /** The response ended before its body was complete. */
  readonly aborted: boolean;
}

export interface FillEvent {
  readonly time: number;
  readonly registry: string;
  readonly repository: string;
  readonly digest: string;
  /** Bytes received from the source. */
  readonly bytes: number;
  /** Absent when the blob is whole and stored. */
  readonly error?: string;
}

/** A cache gave what its source did not confirm in time, or found that the source has a tag no more. */
export interface StaleEvent {
  readonly time: number;
  readonly registry: string;
  readonly repository: string;
  readonly tag: string;
  /** `stale`: the source could not be asked. `gone`: it says that there is no such tag. */
  readonly why: "stale" | "gone";
  /** Milliseconds since the source last confirmed the tag. */
  readonly age: number;
  readonly message?: string;
}

/** An upstream's state has changed; told once, not for every request. */
export interface UpstreamEvent {
  readonly time: number;
  readonly registry: string;
  /** Scheme, host and port. */
  readonly url: string;
  /** `limited`: it has asked for fewer requests, or its pull limit is nearly used up. */
  readonly state: "up" | "down" | "limited";
  readonly message?: string;
}

/** A reference to content that no member can give any more. */
export interface DanglingEvent {
  readonly time: number;
  readonly registry: string;
  readonly repository: string;
  readonly digest: string;
  readonly origin?: string;
}

/** A repository's name that was served from one member is now claimed by another; told once for each pair. */
export interface ConflictEvent {
  readonly time: number;
  readonly registry: string;
  readonly repository: string;
  readonly reference: string;
  /** Who claims the name; `local` is the aggregate's own registry. */
  readonly member: string;
  /** Whom the name was served from before, and since when. */
  readonly origin: string;
  readonly since: number;
  readonly refused: boolean;
}

/** A blob that was behind a connector is now in the aggregate's own store. */
export interface CopyEvent {
  readonly time: number;
  readonly registry: string;
  readonly repository: string;
  readonly digest: string;
  /** Whence it came. */
  readonly member: string;
  readonly bytes: number;
  /** Copies that still run or wait. */
  readonly waiting: number;
}

/** A scrub found that a stored blob is no longer what it was, and took it out of use, unless it only looks. */
export interface DamageEvent {
  readonly time: number;
  readonly digest: string;
  /** Where the blob store had it. */
  readonly location: string;
  readonly size: number;
  /** `corrupt`: other bytes, too few or too many; they are in quarantine. `missing`: nothing is there. */
  readonly what: "corrupt" | "missing";
  readonly why: string;
}

/** Every event the library emits, by type. */
export interface Events {
  "manifest.get": ManifestEvent;
  "manifest.put": ManifestEvent;
  "manifest.delete": ManifestEvent;
  denied: DenialEvent;
  request: HttpEvent;
  fill: FillEvent;
  upstream: UpstreamEvent;
  stale: StaleEvent;
  dangling: DanglingEvent;
  conflict: ConflictEvent;
  copied: CopyEvent;
  damage: DamageEvent;
  /** Something went wrong beside a request; the request itself was answered. */
  fault: { readonly time: number; readonly registry: string; readonly message: string };
}

/** Takes events, synchronously. What it throws is contained and lost: an observer cannot break a pull. */
export interface EventSink {
  emit<K extends keyof Events>(type: K, event: Events[K]): void;
}

export const noEvents: EventSink = { emit() {} };

/** The same sink, with its throws contained. */
export function safeSink(sink: EventSink): EventSink {
  return {
    emit(type, event) {
      try {
        sink.emit(type, event);
      } catch {
        // By contract: see EventSink.
      }
    },
  };
}

/** What every factory accepts beside its own options. */
export interface RuntimeOptions {
  readonly clock?: Clock;
  readonly events?: EventSink;
}

/** Tells the host that something went wrong in the background, where no caller hears of it: what, and why. */
export function reportFault(
  { events, clock, name }: { readonly events: EventSink; readonly clock: Clock; readonly name: string },
  what: string,
  error: unknown,
): void {
  events.emit("fault", { time: clock.now(), registry: name, message: `${what}: ${errorText(error)}` });
}
