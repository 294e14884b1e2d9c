import { RegistryError } from "../../core/errors.js";
import type { Bucket } from "./bucket.js";
import { type ListedPart, type S3Answers, unquoted } from "./requests.js";
import { isMissingUpload, s3Code, s3Status } from "./s3-errors.js";
import { noParts, type SealedParts, sealed } from "./upload-state.js";

/** One multipart upload: parts under way to becoming the object at `key`. */
export class Multipart {
  readonly key: string;
  readonly id: string;
  readonly #bucket: Bucket;

  constructor(bucket: Bucket, key: string, id: string) {
    this.#bucket = bucket;
    this.key = key;
    this.id = id;
  }

  static async create(bucket: Bucket, key: string): Promise<Multipart> {
    try {
      const input = { Key: bucket.key(key), ContentType: "application/octet-stream" };
      const { UploadId } = await bucket.send("CreateMultipartUploadCommand", input);
      if (!UploadId) throw new Error("the S3 store began a multipart upload without an id");
      return new Multipart(bucket, key, UploadId);
    } catch (error) {
      throw bucket.error(error);
    }
  }

  /** Stores a part; a number used twice: the later counts. Answers its ETag. */
  async put(number: number, bytes: Uint8Array): Promise<string> {
    try {
      return unquoted((await this.#bucket.send("UploadPartCommand", { ...this.#names, PartNumber: number, Body: bytes })).ETag);
    } catch (error) {
      throw this.#explained(error);
    }
  }

  /** Whether a part is there, and so the upload. */
  async has(number: number): Promise<boolean> {
    try {
      const { Parts } = await this.#page(String(number - 1), 1);
      return Parts?.[0]?.PartNumber === number;
    } catch (error) {
      if (isMissingUpload(error) || s3Status(error) === 404) return false;
      throw this.#bucket.error(error);
    }
  }

  /**
   * Makes the object of the parts 1 to `count`. The parts are the service's to list, and the seal tells whether they are the ones that the upload's state speaks of: one that was
   * overwritten by a writer who lost his right meanwhile must not get in.
   */
  async complete(expected: SealedParts): Promise<void> {
    await this.#bucket
      .onceOnly(this.key, expected.size, async (condition) => {
        const parts = await this.#parts(expected);
        await this.#bucket.send("CompleteMultipartUploadCommand", { ...this.#names, MultipartUpload: { Parts: parts }, ...condition });
      })
      .catch((error: unknown) => {
        throw this.#explained(error);
      });
  }

  /** Idempotent. */
  async abort(): Promise<void> {
    await this.#bucket.send("AbortMultipartUploadCommand", this.#names).catch((error: unknown) => {
      if (!isMissingUpload(error) && s3Status(error) !== 404) throw this.#bucket.error(error);
    });
  }

  async #parts(expected: SealedParts): Promise<object[]> {
    const parts: object[] = [];
    let found = noParts;
    let after: string | undefined = "0";
    while (after !== undefined && found.count < expected.count) {
      const page: S3Answers["ListPartsCommand"] = await this.#page(after, 1000);
      for (const part of (page.Parts ?? []).slice(0, expected.count - found.count)) {
        found = sealed(found, { etag: unquoted(part.ETag), size: part.Size ?? 0 });
        parts.push(namedPart(part));
      }
      after = page.IsTruncated ? page.NextPartNumberMarker : undefined;
    }
    if (found.seal !== expected.seal)
      throw new RegistryError("BLOB_UPLOAD_INVALID", "the parts of the upload are not those that were stored: start it again");
    return parts;
  }

  #page(after: string, limit: number): Promise<S3Answers["ListPartsCommand"]> {
    return this.#bucket.send("ListPartsCommand", { ...this.#names, PartNumberMarker: after, MaxParts: limit });
  }

  get #names() {
    return { Key: this.#bucket.key(this.key), UploadId: this.id };
  }

  #explained(error: unknown): unknown {
    if (isMissingUpload(error))
      return new RegistryError("BLOB_UPLOAD_UNKNOWN", "the upload is gone from the store: start it again", { cause: error });
    if (s3Code(error) === "InvalidPart")
      return new RegistryError("BLOB_UPLOAD_INVALID", "a part of the upload is gone from the store: start it again", { cause: error });
    return this.#bucket.error(error);
  }
}

/** With its checksums, where the service keeps some: it wants to hear them again. */
function namedPart(part: ListedPart): object {
  const checksums = Object.entries(part).filter(([name]) => name.startsWith("Checksum"));
  return { PartNumber: part.PartNumber, ETag: part.ETag, ...Object.fromEntries(checksums) };
}

/** Aborts every multipart upload whose key begins like this. Finds those of one whole key on MinIO too, which lists no others. */
export async function abortUploads(bucket: Bucket, keyPrefix: string): Promise<void> {
  let more: { KeyMarker?: string; UploadIdMarker?: string } | undefined = {};
  while (more) {
    const page: S3Answers["ListMultipartUploadsCommand"] = await listUploads(bucket, keyPrefix, more);
    for (const { Key = "", UploadId } of page.Uploads ?? [])
      if (UploadId) await new Multipart(bucket, Key.slice(bucket.prefix.length), UploadId).abort();
    const { NextKeyMarker, NextUploadIdMarker } = page;
    more =
      page.IsTruncated && NextKeyMarker !== undefined
        ? { KeyMarker: NextKeyMarker, ...(NextUploadIdMarker && { UploadIdMarker: NextUploadIdMarker }) }
        : undefined;
  }
}

async function listUploads(bucket: Bucket, keyPrefix: string, more: object): Promise<S3Answers["ListMultipartUploadsCommand"]> {
  try {
    return await bucket.send("ListMultipartUploadsCommand", { Prefix: bucket.key(keyPrefix), ...more });
  } catch (error) {
    throw bucket.error(error);
  }
}
