import { createHash } from "node:crypto";
import type { StagedState } from "../../core/blob-store.js";

/** What an upload is between two requests. The parts themselves are not listed, as there may be 10,000: the service lists them, the seal tells whether those are ours. */
export interface UploadState {
  /** The multipart upload, once a part of it is stored. */
  readonly upload: MultipartUpload | undefined;
  /** Parts 1 to `count`, their bytes, and a hash over the ETag and size of each. */
  readonly parts: SealedParts;
  /** The objects with the bytes after the parts, too few for one, in order: one for each request that brought some. */
  readonly tail: readonly TailPiece[];
}

export interface TailPiece {
  readonly random: string;
  readonly size: number;
}

/** So many objects, then they are written anew as one: each is named in the state, and read for the next part. */
export const mostPieces = 8;

export function tailSize({ tail }: UploadState): number {
  return tail.reduce((sum, { size }) => sum + size, 0);
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
export const newUpload: UploadState = { upload: undefined, parts: noParts, tail: [] };

/** The parts with one more. */
export function sealed(parts: SealedParts, part: { readonly etag: string; readonly size: number }): SealedParts {
  const seal = createHash("sha256").update(`${parts.seal} ${part.etag} ${part.size}`).digest("hex").slice(0, 32);
  return { count: parts.count + 1, size: parts.size + part.size, seal };
}

export function sizeOf(state: UploadState): number {
  return state.parts.size + tailSize(state);
}

export function encodeState({ upload, parts, tail }: UploadState): StagedState {
  return {
    ...(upload && { upload: upload.id, object: upload.random, parts: parts.count, partBytes: parts.size, seal: parts.seal }),
    ...(tail.length > 0 && { tail: tail.map(({ random }) => random).join(), tailBytes: tail.map(({ size }) => size).join() }),
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
  return { ...known, tail: piecesOf(tail, tailBytes) };
}

function piecesOf(randoms: unknown, sizes: unknown): readonly TailPiece[] {
  // Before there could be several, the size was a number.
  if (typeof randoms !== "string" || (typeof sizes !== "string" && typeof sizes !== "number")) return [];
  const each = String(sizes).split(",").map(Number);
  return randoms.split(",").flatMap((random, index) => {
    const size = each[index];
    return size === undefined ? [] : [{ random, size }];
  });
}
