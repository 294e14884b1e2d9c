import { createHash } from "node:crypto";
import type { StagedState } from "../../core/blob-store.js";

/** What an upload is between two requests. The parts themselves are not listed, as there may be 10,000: the service lists them, the seal tells whether those are ours. */
export interface UploadState {
  /** The multipart upload, once a part of it is stored. */
  readonly upload: MultipartUpload | undefined;
  /** Parts 1 to `count`, their bytes, and a hash over the ETag and size of each. */
  readonly parts: SealedParts;
  /** The object with the bytes after the parts, too few for one. */
  readonly tail: { readonly random: string; readonly size: number } | undefined;
}

export interface MultipartUpload {
  /** S3's id of it. */
  readonly id: string;
  /** Of the location it leads to. */
  readonly random: string;
}

export interface SealedParts {
  readonly count: number;
  readonly size: number;
  readonly seal: string;
}

export const noParts: SealedParts = { count: 0, size: 0, seal: "" };
export const newUpload: UploadState = { upload: undefined, parts: noParts, tail: undefined };

/** The parts with one more. */
export function sealed(parts: SealedParts, part: { readonly etag: string; readonly size: number }): SealedParts {
  const seal = createHash("sha256").update(`${parts.seal} ${part.etag} ${part.size}`).digest("hex").slice(0, 32);
  return { count: parts.count + 1, size: parts.size + part.size, seal };
}

export function sizeOf({ parts, tail }: UploadState): number {
  return parts.size + (tail?.size ?? 0);
}

export function encodeState({ upload, parts, tail }: UploadState): StagedState {
  return {
    ...(upload && { upload: upload.id, object: upload.random, parts: parts.count, partBytes: parts.size, seal: parts.seal }),
    ...(tail && { tail: tail.random, tailBytes: tail.size }),
  };
}

/** `undefined` for a state that another kind of store wrote. */
export function decodeState(state: StagedState): UploadState | undefined {
  const { upload, object, parts, partBytes, seal, tail, tailBytes } = state;
  if (Object.keys(state).some((key) => !["upload", "object", "parts", "partBytes", "seal", "tail", "tailBytes"].includes(key)))
    return undefined;
  const known =
    typeof upload === "string" &&
    typeof object === "string" &&
    typeof parts === "number" &&
    typeof partBytes === "number" &&
    typeof seal === "string"
      ? { upload: { id: upload, random: object }, parts: { count: parts, size: partBytes, seal } }
      : { upload: undefined, parts: noParts };
  return { ...known, tail: typeof tail === "string" && typeof tailBytes === "number" ? { random: tail, size: tailBytes } : undefined };
}
