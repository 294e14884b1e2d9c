import { createHmac, randomBytes } from "node:crypto";
import { RegistryError } from "./errors.js";
import type { CallOptions } from "./registry.js";

/** The request header in which aggregates tell each other which of them a question has passed. */
export const viaHeader = "manifold-via";

/** So many aggregates in a row are a loop whose members do not know themselves again, as behind a load balancer of several processes. */
export const viaLimit = 32;

/** The same header's value in the answer to a question that came back: whoever asked is told even where there is no body, and that it is no outage. */
export const viaLoop = "loop";

/** 16 bytes in base64url: opaque, since it travels to other people's registries. */
const hopPattern = /^[A-Za-z0-9_-]{22}$/;

/** Of this process: only it can write hops that it takes for its own. */
const secret = randomBytes(32);

function sealOf(id: Uint8Array): Buffer {
  return createHmac("sha256", secret).update(id).digest().subarray(0, 8);
}

/** What one aggregate of this process calls itself in `via`, for as long as it lives. */
export function newHop(): string {
  const id = randomBytes(8);
  return Buffer.concat([id, sealOf(id)]).toString("base64url");
}

/** Whether an aggregate of this process wrote it. */
export function isOwnHop(hop: string): boolean {
  const bytes = Buffer.from(hop, "base64url");
  // The last character has bits to spare: several texts are the same bytes.
  return bytes.toString("base64url") === hop && sealOf(bytes.subarray(0, 8)).equals(bytes.subarray(8));
}

/**
 * The header's value, `undefined` when there is nothing to tell.
 *
 * @example
 * ```ts
 * import { decodeVia, encodeVia } from "oci-manifold/extend";
 * const header = encodeVia(["AAAAAAAAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBBBBBBBB"]);
 * console.assert(decodeVia(header)?.length === 2);
 * ```
 */
export function encodeVia(via: readonly string[] | undefined): string | undefined {
  return via && via.length > 0 ? via.join(", ") : undefined;
}

/**
 * The aggregates a request has passed. To ignore a malformed header would let a loop go on.
 * @throws RegistryError UNSUPPORTED (400) for a value that no aggregate writes.
 */
export function decodeVia(header: string | undefined): readonly string[] | undefined {
  if (header === undefined || header === "") return undefined;
  const hops = header.length <= viaLimit * 26 ? header.split(",", viaLimit + 1).map((hop) => hop.trim()) : [];
  if (hops.length > 0 && hops.length <= viaLimit && hops.every((hop) => hopPattern.test(hop))) return hops;
  throw new RegistryError("UNSUPPORTED", `${viaHeader} must hold at most ${viaLimit} identifiers of aggregates`, { status: 400 });
}

/** Whether all whom a question has passed are known for sure; a client may have made up the others. */
export function isViaKnown(o: Pick<CallOptions, "via" | "knownVia"> | undefined): boolean {
  return (o?.via?.length ?? 0) <= (o?.knownVia?.length ?? 0);
}

/** Marks the error of an aggregate that is asked by itself; it survives being folded. */
export function isLoop({ detail }: RegistryError): boolean {
  return typeof detail === "object" && detail !== null && "loop" in detail && detail.loop === true;
}
