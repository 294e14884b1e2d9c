import { randomBytes } from "node:crypto";
import pLimit from "p-limit";
import { RegistryError } from "../../core/errors.js";
import type { Bucket } from "./bucket.js";
import { locationOf, newName } from "./keys.js";
import { mostParts } from "./part-size.js";
import { unquoted } from "./requests.js";
import { isMissingObject, s3Status } from "./s3-errors.js";
import { StagedFolder } from "./staged-folder.js";
import { noParts, type SealedParts, sealed } from "./upload-state.js";

const GiB = 2 ** 30;
const smallestPart = 512 * 2 ** 20;
const partsAtATime = 4;

interface ObjectName {
  readonly bucket: string;
  readonly key: string;
}

/** Its version, so that no copy is made of something else. */
interface Source extends ObjectName {
  readonly size: number;
  readonly etag: string;
}

/**
 * An object of another program as a blob of this store, copied by the service. `undefined` where the service does not permit it: whoever may read the object
 * need not be allowed to copy it.
 *
 * @param o.largest that one request copies: 5 GiB by S3's rules. Beyond it, copies are made in parts.
 * @throws RegistryError BLOB_UNKNOWN when there is no such object, UNAVAILABLE when it was overwritten meanwhile.
 */
export async function takeObject(bucket: Bucket, name: ObjectName, o: { largest?: number } = {}): Promise<string | undefined> {
  const { largest = 5 * GiB } = o;
  try {
    const { ContentLength: size = 0, ETag } = await bucket.send("HeadObjectCommand", { Bucket: name.bucket, Key: name.key });
    const source = { ...name, size, etag: unquoted(ETag) };
    return size <= largest ? await copied(bucket, source) : await copiedInParts(bucket, source, Math.min(largest, partOf(size)));
  } catch (error) {
    if (isRefused(error)) return undefined;
    if (isMissingObject(error))
      throw new RegistryError("BLOB_UNKNOWN", `there is no object ${name.key} in bucket ${name.bucket}`, { cause: error });
    throw bucket.error(error);
  }
}

async function copied(bucket: Bucket, source: Source): Promise<string | undefined> {
  const location = locationOf(randomBytes(16).toString("hex"), newName());
  // Not the source's own: to read its tags takes a permission more.
  const described = { ContentType: "application/octet-stream", MetadataDirective: "REPLACE", TaggingDirective: "REPLACE" };
  const input = { Key: bucket.key(location), ...described, ...copySource(source) };
  let refused = false;
  try {
    await bucket.onceOnly(location, source.size, (condition) =>
      bucket.send("CopyObjectCommand", { ...input, ...condition }).catch((error: unknown) => {
        refused = isRefused(error);
        throw error;
      }),
    );
    return location;
  } catch (error) {
    if (refused) return undefined;
    throw error;
  }
}

/** What a crash leaves of it is found as a staged upload. */
async function copiedInParts(bucket: Bucket, source: Source, partSize: number): Promise<string> {
  const folder = new StagedFolder(bucket, randomBytes(16).toString("hex"));
  await folder.begin();
  try {
    const { multipart, random } = await folder.beginParts();
    const limited = pLimit(partsAtATime);
    const starts = Array.from({ length: Math.ceil(source.size / partSize) }, (_, index) => index * partSize);
    const parts = await Promise.all(
      starts.map((start, index) =>
        limited(async () => {
          const end = Math.min(start + partSize, source.size) - 1;
          const range = { CopySourceRange: `bytes=${start}-${end}` };
          const input = { Key: bucket.key(multipart.key), UploadId: multipart.id, PartNumber: index + 1, ...copySource(source), ...range };
          const { CopyPartResult } = await bucket.send("UploadPartCopyCommand", input);
          return { etag: unquoted(CopyPartResult?.ETag), size: end - start + 1 };
        }),
      ),
    );
    await multipart.complete(parts.reduce<SealedParts>(sealed, noParts));
    // A failure here takes nothing from the blob; what is left is listed as staged.
    await folder.remove([{ kind: "parts", random }, { kind: "begun" }], random).catch(() => {});
    return multipart.key;
  } catch (error) {
    await folder.discard().catch(() => {});
    throw error;
  }
}

/** S3 allows 10,000 parts of at most 5 GiB. */
function partOf(size: number): number {
  return Math.max(smallestPart, Math.ceil(size / mostParts));
}

function copySource({ bucket, key, etag }: Source): { CopySource: string; CopySourceIfMatch?: string } {
  const CopySource = [bucket, ...key.split("/")].map(encodeURIComponent).join("/");
  return { CopySource, ...(etag !== "" && { CopySourceIfMatch: etag }) };
}

function isRefused(error: unknown): boolean {
  return s3Status(error) === 403 || s3Status(error) === 405;
}
