import { type Clock, systemClock } from "../../core/clock.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../../core/units.js";
import { DeadlineError, withinDeadline } from "../deadline.js";
import type { Outage } from "../outage.js";
import { isS3Outage } from "./s3-errors.js";
import type { S3ClientLike, S3Sdk } from "./s3-sdk.js";

export interface ListedObject {
  readonly Key?: string;
  readonly Size?: number;
  readonly LastModified?: Date;
}

export interface ListedPart {
  readonly PartNumber?: number;
  readonly ETag?: string;
  readonly Size?: number;
}

/** What is used of the answer to each command. */
export interface S3Answers {
  readonly AbortMultipartUploadCommand: unknown;
  readonly CompleteMultipartUploadCommand: unknown;
  readonly CopyObjectCommand: unknown;
  readonly CreateMultipartUploadCommand: { readonly UploadId?: string };
  readonly DeleteObjectCommand: unknown;
  readonly GetObjectCommand: {
    readonly Body?: unknown;
    readonly ETag?: string;
    readonly ContentLength?: number;
    readonly ContentRange?: string;
  };
  readonly HeadObjectCommand: { readonly ContentLength?: number; readonly ETag?: string; readonly LastModified?: Date };
  readonly ListMultipartUploadsCommand: {
    readonly Uploads?: readonly { readonly Key?: string; readonly UploadId?: string }[];
    readonly IsTruncated?: boolean;
    readonly NextKeyMarker?: string;
    readonly NextUploadIdMarker?: string;
  };
  readonly ListObjectsV2Command: {
    readonly Contents?: readonly ListedObject[];
    readonly CommonPrefixes?: readonly { readonly Prefix?: string }[];
    readonly IsTruncated?: boolean;
    readonly NextContinuationToken?: string;
  };
  readonly ListPartsCommand: {
    readonly Parts?: readonly ListedPart[];
    readonly IsTruncated?: boolean;
    readonly NextPartNumberMarker?: string;
  };
  readonly PutObjectCommand: unknown;
  readonly UploadPartCommand: { readonly ETag?: string };
  readonly UploadPartCopyCommand: { readonly CopyPartResult?: { readonly ETag?: string } };
}

/** Sends a command to the bucket and answers what the service did; its errors are the SDK's. */
export type Send = <K extends keyof S3Answers & keyof S3Sdk>(command: K, input: object, signal?: AbortSignal) => Promise<S3Answers[K]>;

/** How long the service may take, as a host sets it. */
export interface S3Limits {
  readonly requestTimeout?: Duration;
  readonly stallTimeout?: Duration;
  readonly minUploadRate?: Size;
}

/** In milliseconds, and bytes a second. */
export interface Deadlines {
  readonly request: number;
  readonly stall: number;
  readonly uploadRate: number;
}

export function deadlinesOf({ requestTimeout = "10s", stallTimeout = "30s", minUploadRate = "128KiB" }: S3Limits): Deadlines {
  return { request: toMilliseconds(requestTimeout), stall: toMilliseconds(stallTimeout), uploadRate: toBytes(minUploadRate) };
}

/** How long the service may be at work on bytes that it has already, in milliseconds: S3 takes minutes to put a large object together. */
const atWork = 5 * 60_000;
const atWorkCommands: ReadonlySet<string> = new Set(["CompleteMultipartUploadCommand", "CopyObjectCommand", "UploadPartCopyCommand"]);

interface Patience {
  readonly deadlines?: Deadlines;
  /** Told of each answer, and of each request without one. */
  readonly outage?: Outage;
  readonly clock?: Clock;
}

/** Each request has a deadline of its own, all the client's attempts together: whatever the client waits for, whoever asked hears of it. */
export function sender(client: S3ClientLike, sdk: () => Promise<S3Sdk>, bucket: string, o: Patience = {}): Send {
  const { deadlines = deadlinesOf({}), clock = systemClock, outage } = o;
  return async (name, input, signal) => {
    const Command = (await sdk())[name];
    const command = new Command({ Bucket: bucket, ...input } as never);
    const lastFailure = watchAttempts(command);
    const what = name.replace(/Command$/, "");
    try {
      const answer = await withinDeadline({ clock, what, within: limitOf(name, input, deadlines), signal }, (abortSignal) =>
        client.send(command as never, { abortSignal }),
      );
      outage?.over();
      return answer as never;
    } catch (error) {
      const said = error instanceof DeadlineError ? (lastFailure() ?? error) : error;
      if (isS3Outage(said)) outage?.failed();
      throw said;
    }
  };
}

/** The client shows no progress of a body, so its size counts, at the slowest rate. */
function limitOf(name: string, input: { readonly Body?: Uint8Array }, { request, uploadRate }: Deadlines): number {
  if (atWorkCommands.has(name)) return atWork;
  return request + ((input.Body?.byteLength ?? 0) / uploadRate) * 1000;
}

/** As far as a command of the SDK has it; other clients' have none. */
interface Attempts {
  readonly middlewareStack?: { add?(middleware: (next: Attempt) => Attempt, o: { step: string; priority: string; name: string }): void };
}
type Attempt = (args: unknown) => Promise<unknown>;

/**
 * The SDK repeats what fails by itself, with pauses, so that a deadline may end it between two attempts. What the last of them failed with is then the reason to tell, with the
 * pause that the service has asked for.
 */
function watchAttempts(command: Attempts): () => unknown {
  let last: unknown;
  const watch = (next: Attempt) => async (args: unknown) => {
    try {
      return await next(args);
    } catch (error) {
      last = error;
      throw error;
    }
  };
  // Within the SDK's repetition, which is of high priority.
  command.middlewareStack?.add?.(watch, { step: "finalizeRequest", priority: "low", name: "oci-manifold-attempts" });
  return () => last;
}

/** ETags come in quotes, and some services (Ceph) compare them only without. */
export function unquoted(etag: string | undefined): string {
  return (etag ?? "").replace(/^"|"$/g, "");
}
