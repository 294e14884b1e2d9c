import { Readable } from "node:stream";
import type { BlobStore } from "../../core/blob-store.js";
import { type Clock, systemClock } from "../../core/clock.js";
import { type EventSink, noEvents, safeSink } from "../../core/events.js";
import { type Duration, type Size, toBytes, toMilliseconds } from "../../core/units.js";
import { started } from "../start.js";
import { openBucket } from "./bucket.js";
import { takeObject } from "./foreign-object.js";
import { checkedId, checkedLocation } from "./keys.js";
import { listBlobs, listUploads } from "./listings.js";
import { PartMemory } from "./part-memory.js";
import { checkPermissions } from "./permissions.js";
import { loadPresigner, loadSdk, type ModuleSource, type S3ClientLike, type S3Presigner, type S3Sdk } from "./s3-sdk.js";
import { StagedFolder } from "./staged-folder.js";
import { gone, StagedObject } from "./staged-object.js";
import { decodeState } from "./upload-state.js";

export interface S3BlobStoreOptions {
  /** An `S3Client` of the host's. Its endpoint, region, credentials, retries and timeouts are its own business; `close` leaves it open. */
  readonly client: S3ClientLike;
  /** Must exist: it is not created. */
  readonly bucket: string;
  /** Where in the bucket everything is kept, for example `"registry/"`. The whole bucket by default. */
  readonly prefix?: string;
  /** The module `@aws-sdk/client-s3`, or what loads it. By default it is imported at the first use; bundled hosts pass it. */
  readonly sdk?: ModuleSource<S3Sdk>;
  /** Whether pulls can be sent to the bucket by presigned URLs; a client whose endpoint is the one that pullers reach, where that is another. Default: `false`. */
  readonly presign?: boolean | S3ClientLike;
  /** The module `@aws-sdk/s3-request-presigner`, or what loads it. By default it is imported when `presign` is on. */
  readonly presigner?: ModuleSource<S3Presigner>;
  /**
   * How many bytes of parts all uploads together keep in memory. A fast upload has five parts of 8 MiB. Beyond it uploads wait, at most for a minute, then their answer is
   * 429; a part that waits for its client is stored meanwhile. Default: `"512MiB"`.
   */
  readonly maxBuffered?: Size;
  /** How long the service may take for what carries no bytes of blobs, and for the first byte of one, all attempts of the client together. Default: `"10s"`. */
  readonly requestTimeout?: Duration;
  /** How long a blob that is read may stay without a byte before it is asked for again. Default: `"30s"`. */
  readonly stallTimeout?: Duration;
  /** Bytes a second. What is sent may take as long as it would at this rate, and `requestTimeout` more. Default: `"128KiB"`. */
  readonly minUploadRate?: Size;
  /** How long `ready` waits for a service that does not answer yet. Default: `"60s"`. */
  readonly startTimeout?: Duration;
  /** Told when a start has to wait. */
  readonly events?: EventSink;
  /** For tests. Default: the system's. */
  readonly clock?: Clock;
}

/**
 * Blobs as objects in a bucket of S3, or of a store that speaks its protocol. Layers stream through in parts, so that memory does not grow with them. Any request of an upload may come to any process that
 * uses the same bucket, prefix and metadata. The package `@aws-sdk/client-s3` is the host's; `ready` tells early what is wrong.
 *
 * @throws RegistryError from its methods: UNAVAILABLE when the store cannot be reached, refuses access, or has no such bucket, or a package is missing;
 *   INSUFFICIENT_STORAGE when a quota is used up; BLOB_UPLOAD_UNKNOWN for an upload that is gone, BLOB_UPLOAD_INVALID for one that has to be started again.
 *   Reading a location that is gone fails on the stream with BLOB_UNKNOWN.
 *
 * @example
 * ```ts
 * import { S3Client } from "@aws-sdk/client-s3";
 * import { s3BlobStore } from "oci-manifold/storage/s3";
 * const blobs = s3BlobStore({ client: new S3Client({ region: "eu-central-1" }), bucket: "images", prefix: "registry/" });
 * console.log(blobs.capabilities.presign);
 * ```
 */
export function s3BlobStore(o: S3BlobStoreOptions): BlobStore {
  const sdk = loadSdk(o.sdk);
  const presigner = loadPresigner(o.presigner);
  const bucket = openBucket(o);
  const clock = o.clock ?? systemClock;
  const events = safeSink(o.events ?? noEvents);
  const startLimit = toMilliseconds(o.startTimeout ?? "60s");
  const closed = new AbortController();
  // Once for all registries over the store.
  let checked: Promise<void> | undefined;
  const memory = new PartMemory(toBytes(o.maxBuffered ?? "512MiB"), o.clock);
  const presigning = o.presign === true ? o.client : o.presign || undefined;

  async function presign(client: S3ClientLike, location: string, expiresIn: number): Promise<string> {
    const [{ getSignedUrl }, { GetObjectCommand }] = await Promise.all([presigner(), sdk()]);
    const input = { Bucket: o.bucket, Key: bucket.key(checkedLocation(location)), ResponseContentType: "application/octet-stream" };
    return getSignedUrl(client as never, new GetObjectCommand(input as never) as never, { expiresIn });
  }

  return {
    capabilities: { readStaged: false, presign: presigning !== undefined },

    async stage(id) {
      const folder = new StagedFolder(bucket, checkedId(id));
      await folder.begin();
      return new StagedObject(bucket, memory, folder);
    },

    async reopen(id, encoded) {
      const state = decodeState(encoded);
      const folder = new StagedFolder(bucket, checkedId(id));
      if (!state) throw gone(id);
      const [entries, parts] = await Promise.all([
        folder.entries(),
        state.upload ? folder.multipart(state.upload).has(state.parts.count) : true,
      ]);
      if (!parts || !entries.some(({ entry }) => entry.kind === "begun")) throw gone(id);
      const named = (random: string) => entries.find(({ entry }) => entry.kind !== "begun" && entry.random === random);
      // An older state's tail may have become part of another: the upload then goes on from where it surely stands.
      const lost = state.tail.findIndex(({ random, size }) => named(random)?.size !== size);
      const tail = lost < 0 ? state.tail : state.tail.slice(0, lost);
      const known = [...tail.map(({ random }) => random), state.upload?.random];
      const stale = entries.flatMap(({ entry }) => (entry.kind === "begun" || known.includes(entry.random) ? [] : [entry]));
      return new StagedObject(bucket, memory, folder, { state: { ...state, tail }, stale });
    },

    read(location, options) {
      try {
        return bucket.read(checkedLocation(location), options?.range);
      } catch (error) {
        return new Readable({
          read() {
            this.destroy(error as Error);
          },
        });
      }
    },

    copyFrom: async (source) => (source.kind === "object" ? takeObject(bucket, source) : undefined),
    delete: async (location) => bucket.delete(checkedLocation(location)),
    list: (page) => listBlobs(bucket, page),
    listStaged: (page) => listUploads(bucket, page),
    discardStaged: async (id) => new StagedFolder(bucket, checkedId(id)).discard(),
    ...(presigning && { presign: async (location, { expiresIn }) => presign(presigning, location, expiresIn) }),

    // A clock of the host's stands for that of the service.
    now: async () => (o.clock && o.clock !== systemClock ? undefined : await bucket.now()) ?? clock.now(),

    async ready() {
      if (presigning) await presigner();
      checked ??= started({ what: `the S3 store of bucket ${o.bucket}`, clock, events, limit: startLimit, signal: closed.signal }, () =>
        checkPermissions(bucket),
      ).catch((error: unknown) => {
        checked = undefined;
        throw error;
      });
      await checked;
    },
    async close() {
      closed.abort();
    },
  };
}
