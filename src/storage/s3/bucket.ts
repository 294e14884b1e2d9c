import type { Readable } from "node:stream";
import { type Clock, systemClock } from "../../core/clock.js";
import { Outage } from "../outage.js";
import { storageError } from "../storage-error.js";
import { newName, normalPrefix, stagedKey } from "./keys.js";
import { ObjectReader } from "./object-reader.js";
import { deadlinesOf, type ListedObject, type S3Answers, type S3Limits, type Send, sender, unquoted } from "./requests.js";
import { isConflict, isMissingObject, isUnknownCondition, s3Error } from "./s3-errors.js";
import { loadSdk, type ModuleSource, type S3ClientLike, type S3Sdk } from "./s3-sdk.js";

/** The service answers at most so many keys at a time. */
const listedAtOnce = 1000;

export interface BucketSettings extends S3Limits {
  readonly client: S3ClientLike;
  readonly bucket: string;
  readonly prefix?: string;
  readonly sdk?: ModuleSource<S3Sdk>;
  readonly clock?: Clock;
}

/** @throws RegistryError UNKNOWN for a duration or size that is none. */
export function openBucket(o: BucketSettings): Bucket {
  const { client, bucket, clock = systemClock } = o;
  const deadlines = deadlinesOf(o);
  const outage = new Outage(clock);
  const send = sender(client, loadSdk(o.sdk), bucket, { deadlines, outage, clock });
  return new Bucket(bucket, o.prefix, send, { outage, stall: deadlines.stall, clock });
}

/** Objects below a prefix of a bucket. Keys are relative to the prefix. */
export class Bucket {
  readonly name: string;
  readonly prefix: string;
  readonly send: Send;
  /** Until the service says that it does not know the condition. */
  #conditions = true;

  readonly #outage: Outage;
  readonly #stall: number;
  readonly #clock: Clock;

  constructor(name: string, prefix: string | undefined, send: Send, o: { outage?: Outage; stall?: number; clock?: Clock } = {}) {
    const { clock = systemClock, outage = new Outage(clock), stall = deadlinesOf({}).stall } = o;
    this.name = name;
    this.prefix = normalPrefix(prefix);
    this.send = send;
    this.#outage = outage;
    this.#stall = stall;
    this.#clock = clock;
  }

  /** The error to throw for one of the SDK's. */
  error(error: unknown): unknown {
    return s3Error(this.name, error, this.#outage.retryAfter);
  }

  key(key: string): string {
    return this.prefix + key;
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    await this.#explained(this.send("PutObjectCommand", { Key: this.key(key), Body: bytes }));
  }

  /** Stores an object under a key that only the caller knows, and never twice, also when the first answer is lost. */
  async putNew(key: string, bytes: Uint8Array): Promise<void> {
    await this.onceOnly(key, bytes.byteLength, (condition) =>
      this.send("PutObjectCommand", { Key: this.key(key), Body: bytes, ContentType: "application/octet-stream", ...condition }),
    );
  }

  /**
   * Writes an object on the condition that there is none. A failed write may have been carried out, with the answer lost, or been repeated by the
   * SDK and then met by what it had written itself: since only the caller knows the key, an object of the right size is the one.
   */
  async onceOnly(key: string, size: number, write: (condition: { IfNoneMatch?: "*" }) => Promise<unknown>): Promise<void> {
    try {
      await write(this.#conditions ? { IfNoneMatch: "*" } : {});
    } catch (error) {
      if (this.#conditions && isUnknownCondition(error)) {
        this.#conditions = false;
        return this.onceOnly(key, size, write);
      }
      if ((await this.size(key).catch(() => undefined)) === size) return;
      if (isConflict(error))
        throw storageError("UNAVAILABLE", this.name, `the S3 store refuses to write ${key} to bucket ${this.name}: try again`, {
          cause: error,
          retryAfter: 1,
        });
      throw this.error(error);
    }
  }

  /** The time that the service gives a new object. */
  async now(): Promise<number | undefined> {
    // As a staged upload: what a crash leaves of it is found and collected.
    const key = stagedKey(newName(), { kind: "begun" });
    await this.put(key, new Uint8Array());
    try {
      return (await this.send("HeadObjectCommand", { Key: this.key(key) })).LastModified?.getTime();
    } catch (error) {
      throw this.error(error);
    } finally {
      await this.delete(key);
    }
  }

  async size(key: string): Promise<number | undefined> {
    try {
      return (await this.send("HeadObjectCommand", { Key: this.key(key) })).ContentLength;
    } catch (error) {
      if (isMissingObject(error)) return undefined;
      throw this.error(error);
    }
  }

  /** The bytes, as a stream that asks for them when it is read. */
  read(key: string, range?: { readonly start: number; readonly end: number }): Readable {
    const open = async (o: { range: string | undefined; etag: string | undefined; signal: AbortSignal }) => {
      const condition = { ...(o.range && { Range: o.range }), ...(o.etag && { IfMatch: o.etag }) };
      const answer = await this.send("GetObjectCommand", { Key: this.key(key), ...condition }, o.signal);
      return { body: answer.Body, etag: unquoted(answer.ETag), length: answer.ContentLength, range: answer.ContentRange };
    };
    const explain = (error: unknown) =>
      isMissingObject(error)
        ? storageError("BLOB_UNKNOWN", this.name, `no bytes are stored at ${key} in bucket ${this.name}`, { cause: error })
        : this.error(error);
    return new ObjectReader({ key, open, explain, stall: this.#stall, clock: this.#clock, ...(range && { range }) });
  }

  /** Idempotent. */
  async delete(key: string): Promise<void> {
    await this.send("DeleteObjectCommand", { Key: this.key(key) }).catch((error: unknown) => {
      // Google answers 404, unlike S3.
      if (!isMissingObject(error)) throw this.error(error);
    });
  }

  /** Objects in the order of their keys, a page in memory at a time. */
  async *list(o: { prefix: string; after?: string; atOnce?: number }): AsyncGenerator<{ key: string; size: number; modifiedAt: number }> {
    // The service refuses to start before the prefix, or starts over.
    const start = o.after !== undefined && o.after > o.prefix ? { StartAfter: this.key(o.after) } : {};
    const MaxKeys = Math.min(listedAtOnce, o.atOnce ?? listedAtOnce);
    let more: { ContinuationToken?: string } | undefined = {};
    while (more) {
      const input: object = { Prefix: this.key(o.prefix), MaxKeys, ...start, ...more };
      const page: S3Answers["ListObjectsV2Command"] = await this.#explained(this.send("ListObjectsV2Command", input));
      for (const object of page.Contents ?? []) yield this.#listed(object);
      const token: string | undefined = page.NextContinuationToken;
      more = page.IsTruncated && token ? { ContinuationToken: token } : undefined;
    }
  }

  /** The names of what looks like folders directly below a prefix, as keys sort: with a "/" behind each. */
  async *folders(prefix: string, after: string | undefined, atOnce: number): AsyncGenerator<string> {
    // "0" is the character after "/": nothing below that folder sorts as high.
    const start = after === undefined ? {} : { StartAfter: this.key(`${prefix}${after}0`) };
    const input = { Prefix: this.key(prefix), Delimiter: "/", MaxKeys: Math.min(listedAtOnce, atOnce), ...start };
    let more: { ContinuationToken?: string } | undefined = {};
    while (more) {
      const page: S3Answers["ListObjectsV2Command"] = await this.#explained(this.send("ListObjectsV2Command", { ...input, ...more }));
      for (const { Prefix = "" } of page.CommonPrefixes ?? []) {
        const name = Prefix.slice(this.prefix.length + prefix.length, -1);
        // Some services begin with the folder that they were told to start after.
        if (name !== "" && (after === undefined || `${name}/` > `${after}/`)) yield name;
      }
      const token: string | undefined = page.NextContinuationToken;
      more = page.IsTruncated && token ? { ContinuationToken: token } : undefined;
    }
  }

  #listed({ Key = "", Size = 0, LastModified }: ListedObject): { key: string; size: number; modifiedAt: number } {
    return { key: Key.slice(this.prefix.length), size: Size, modifiedAt: LastModified?.getTime() ?? 0 };
  }

  #explained<T>(answer: Promise<T>): Promise<T> {
    return answer.catch((error: unknown) => Promise.reject(this.error(error)));
  }
}
