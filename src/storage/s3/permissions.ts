import { storageError } from "../storage-error.js";
import type { Bucket } from "./bucket.js";
import { newName, stagedKey } from "./keys.js";
import { isMissingObject, isMissingUpload, isS3Denied, isS3Full } from "./s3-errors.js";

/**
 * Tries everything that a registry does in the bucket, with an object of its own: a permission that is missing would else show in the middle of a push, or, as that to delete, nowhere.
 *
 * @throws RegistryError UNAVAILABLE that names all that are missing, or says what else is wrong.
 */
export async function checkPermissions(bucket: Bucket): Promise<void> {
  const missing = new Set<string>();
  /** @returns the answer, or `undefined` where there is none. */
  const attempt = async <T>(permission: string, request: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await request();
    } catch (error) {
      if (isS3Denied(error)) missing.add(permission);
      // On a full store reads go on; and another process may just have removed what is asked for.
      else if (!isS3Full(error) && !isMissingObject(error) && !isMissingUpload(error)) throw bucket.error(error);
      return undefined;
    }
  };
  // As a staged upload: what a crash leaves of it is found and collected.
  const Key = bucket.key(stagedKey(newName(), { kind: "begun" }));
  await attempt("s3:ListBucket", () => bucket.send("ListObjectsV2Command", { Prefix: bucket.prefix, MaxKeys: 1 }));
  await attempt("s3:ListBucketMultipartUploads", () => bucket.send("ListMultipartUploadsCommand", { Prefix: Key }));
  const put = await attempt("s3:PutObject", () => bucket.send("PutObjectCommand", { Key, Body: new Uint8Array() }));
  if (put !== undefined) {
    const got = await attempt("s3:GetObject", () => bucket.send("GetObjectCommand", { Key }));
    discard(got?.Body);
  }
  const { UploadId } = (await attempt("s3:PutObject", () => bucket.send("CreateMultipartUploadCommand", { Key }))) ?? {};
  if (UploadId !== undefined) {
    await attempt("s3:ListMultipartUploadParts", () => bucket.send("ListPartsCommand", { Key, UploadId }));
    await attempt("s3:AbortMultipartUpload", () => bucket.send("AbortMultipartUploadCommand", { Key, UploadId }));
  }
  await attempt("s3:DeleteObject", () => bucket.send("DeleteObjectCommand", { Key }));
  if (missing.size === 0) return;
  const where = bucket.prefix === "" ? "" : ` below ${bucket.prefix}`;
  throw storageError(
    "UNAVAILABLE",
    bucket.name,
    `access to the S3 bucket ${bucket.name}${where} is denied for ${[...missing].join(", ")}: permit these credentials to do that`,
  );
}

function discard(body: unknown): void {
  const stream = body as { on?(event: "error", listener: () => void): unknown; destroy?(): unknown } | undefined;
  stream?.on?.("error", () => {});
  stream?.destroy?.();
}
