import { type Digest, parseDigest } from "./digest.js";
import { RegistryError } from "./errors.js";

// distribution-spec, "Pulling manifests": the grammar of <name> and <reference>.
const namePattern = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const tagPattern = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/;
/** The longest repository name clients agree on (docker counts host and name together; the specification recommends 255). */
const nameLimit = 255;

export function isRepositoryName(text: string): boolean {
  return text.length <= nameLimit && namePattern.test(text);
}

/** @throws RegistryError NAME_INVALID */
export function parseRepositoryName(text: string): string {
  if (isRepositoryName(text)) return text;
  throw new RegistryError(
    "NAME_INVALID",
    `${JSON.stringify(text.slice(0, 300))} is not a repository name: lower-case letters, digits and single separators (. _ __ -), segments joined by "/", at most ${nameLimit} characters`,
  );
}

export function isTag(text: string): boolean {
  return tagPattern.test(text);
}

/**
 * Checks a permanent name that records are kept under: a local registry's, a cache's, a connector's.
 * @param what what it would name, for the message.
 * @throws RegistryError NAME_INVALID
 */
export function assertPermanentName(name: string, what: string): void {
  if (/^[a-z0-9]+(?:[.-][a-z0-9]+)*$/.test(name)) return;
  throw new RegistryError(
    "NAME_INVALID",
    `${JSON.stringify(name)} cannot name a ${what}: use lower-case letters and digits, with "-" or "." between them`,
  );
}

/** A manifest is named by a tag or by its digest. */
export type Reference = { kind: "tag"; tag: string } | { kind: "digest"; digest: Digest };

/**
 * Reads `<reference>`: whatever holds a colon must be a digest.
 * @throws RegistryError DIGEST_INVALID, or MANIFEST_INVALID for a malformed tag.
 */
export function parseReference(text: string): Reference {
  if (text.includes(":")) return { kind: "digest", digest: parseDigest(text) };
  return { kind: "tag", tag: parseTag(text) };
}

/** @throws RegistryError MANIFEST_INVALID */
export function parseTag(text: string): string {
  if (isTag(text)) return text;
  throw new RegistryError(
    "MANIFEST_INVALID",
    `${JSON.stringify(text.slice(0, 160))} is not a tag: a letter, digit or "_", then up to 127 letters, digits, ".", "_" or "-"`,
  );
}
