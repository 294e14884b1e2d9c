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
  readonly HeadBucketCommand: unknown;
  readonly HeadObjectCommand: { readonly ContentLength?: number; readonly ETag?: string };
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

export function sender(client: S3ClientLike, sdk: () => Promise<S3Sdk>, bucket: string): Send {
  return async (name, input, signal) => {
    const Command = (await sdk())[name];
    const command = new Command({ Bucket: bucket, ...input } as never);
    return (await client.send(command as never, signal && { abortSignal: signal })) as never;
  };
}

/** ETags come in quotes, and some services (Ceph) compare them only without. */
export function unquoted(etag: string | undefined): string {
  return (etag ?? "").replace(/^"|"$/g, "");
}
