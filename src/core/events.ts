import type { Clock } from "./clock.js";
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

/** A reference to content that no member can give any more. */
export interface DanglingEvent {
  readonly time: number;
  readonly registry: string;
  readonly repository: string;
  readonly digest: string;
  readonly origin?: string;
}

/** Every event the library emits, by type. */
export interface Events {
  "manifest.get": ManifestEvent;
  "manifest.put": ManifestEvent;
  "manifest.delete": ManifestEvent;
  denied: DenialEvent;
  request: HttpEvent;
  fill: FillEvent;
  stale: StaleEvent;
  dangling: DanglingEvent;
  /** Something went wrong beside a request; the request itself was answered. */
  fault: { readonly time: number; readonly registry: string; readonly message: string };
}

/** Takes events, synchronously. What it throws is contained and lost: an observer cannot break a pull. */
export interface EventSink {
  emit<K extends keyof Events>(type: K, event: Events[K]): void;
}

export const noEvents: EventSink = { emit() {} };

/** The same sink, with its throws contained. */
export function contained(sink: EventSink): EventSink {
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
export interface Surroundings {
  readonly clock?: Clock;
  readonly events?: EventSink;
}
