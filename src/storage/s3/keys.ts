import { randomBytes } from "node:crypto";
import { RegistryError } from "../../core/errors.js";

/** Where committed blobs are, below the prefix. */
export const blobFolder = "blobs/";
/** Where everything is that belongs to an upload under way: `staged/<id>/…`. */
export const stagedFolder = "staged/";

// Each character sorts after "." and "/", so that keys sort as their ids do.
const idPattern = /^[A-Za-z0-9_]{1,128}$/;
const locationPattern = /^blobs\/[A-Za-z0-9_]{1,128}\.[a-f0-9]{16}$/;

/** What an object below `staged/<id>/` is: that the upload was begun, bytes too few for a part, or that a multipart upload to a location began. */
export type StagedEntry = { readonly kind: "begun" } | { readonly kind: "tail" | "parts"; readonly random: string };

/** Makes a name that was never used before. */
export function newName(): string {
  return randomBytes(8).toString("hex");
}

/** @throws RegistryError BLOB_UPLOAD_INVALID for an id that cannot be part of a key. */
export function checkedId(id: string): string {
  if (idPattern.test(id)) return id;
  throw new RegistryError("BLOB_UPLOAD_INVALID", `${JSON.stringify(id.slice(0, 160))} cannot be an upload's id`);
}

/** The key of a multipart upload is fixed when it begins, long before the digest is known: so a location is named after the upload. */
export function locationOf(id: string, random: string): string {
  return `${blobFolder}${id}.${random}`;
}

export function isLocation(text: string): boolean {
  return locationPattern.test(text);
}

/** @throws RegistryError BLOB_UNKNOWN for a text that is no location of an S3 store. */
export function checkedLocation(location: string): string {
  if (isLocation(location)) return location;
  throw new RegistryError("BLOB_UNKNOWN", `${JSON.stringify(location.slice(0, 200))} is no location in an S3 store`);
}

export function stagedKey(id: string, entry: StagedEntry): string {
  return `${stagedFolder}${id}/${entry.kind === "begun" ? "begun" : `${entry.random}.${entry.kind}`}`;
}

/** The upload that an object below `staged/` belongs to, and what it is there; `undefined` for what somebody else put there. */
export function parseStagedKey(key: string): { readonly id: string; readonly entry: StagedEntry } | undefined {
  const [, id, name = "", random = "", kind] = /^staged\/([A-Za-z0-9_]{1,128})\/(begun|([a-f0-9]{16})\.(tail|parts))$/.exec(key) ?? [];
  if (id === undefined) return undefined;
  if (name === "begun") return { id, entry: { kind: "begun" } };
  return { id, entry: { kind: kind === "parts" ? "parts" : "tail", random } };
}

/** Keys begin with it: empty, or ending in a slash. */
export function normalPrefix(prefix = ""): string {
  const trimmed = prefix.replace(/^\/+|\/+$/g, "");
  return trimmed === "" ? "" : `${trimmed}/`;
}
