import { createHash, type Hash } from "node:crypto";
import { RegistryError } from "./errors.js";

/** `sha256:<64 hex>` or `sha512:<128 hex>`, checked by {@link parseDigest}. (image-spec, "Digests") */
export type Digest = string & { readonly __digest: true };

export const digestAlgorithms = ["sha256", "sha512"] as const;
export type DigestAlgorithm = (typeof digestAlgorithms)[number];

const digestPattern = /^(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$/;

export function isDigest(text: string): text is Digest {
  return digestPattern.test(text);
}

/**
 * Checks a digest given as text.
 * @throws RegistryError DIGEST_INVALID for another algorithm, upper-case letters or a wrong length.
 */
export function parseDigest(text: string): Digest {
  if (isDigest(text)) return text;
  throw new RegistryError(
    "DIGEST_INVALID",
    `${JSON.stringify(text.slice(0, 160))} is not a digest: expected sha256:<64 hex digits> or sha512:<128 hex digits>, in lower case`,
  );
}

export function algorithmOf(digest: Digest): DigestAlgorithm {
  return digest.startsWith("sha512:") ? "sha512" : "sha256";
}

/** A running digest over bytes that pass by. */
export class Hasher {
  readonly algorithm: DigestAlgorithm;
  #hash: Hash;
  #digest: Digest | undefined;
  /** Bytes taken in so far. */
  size = 0;

  constructor(algorithm: DigestAlgorithm) {
    this.algorithm = algorithm;
    this.#hash = createHash(algorithm);
  }

  update(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    this.size += chunk.byteLength;
  }

  /** Another one that has seen the same bytes, and goes its own way from here. */
  copy(): Hasher {
    const other = new Hasher(this.algorithm);
    other.#hash = this.#hash.copy();
    other.size = this.size;
    return other;
  }

  /** The digest of everything so far; the hasher takes in nothing afterwards. */
  digest(): Digest {
    this.#digest ??= `${this.algorithm}:${this.#hash.digest("hex")}` as Digest;
    return this.#digest;
  }
}

export function digestOf(bytes: Uint8Array, algorithm: DigestAlgorithm = "sha256"): Digest {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}` as Digest;
}
