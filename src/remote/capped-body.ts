import { collect } from "../core/content.js";
import { RemoteFailure } from "./failures.js";
import { contentLength, headerOf, type UpstreamResponse } from "./transport.js";

/**
 * A whole body in memory, refused by its declared length before a byte is read, and by its real one.
 * @throws RemoteFailure when it is larger than `limit` or compressed all the same; whatever the network throws.
 */
export async function readCapped(response: UpstreamResponse, limit: number): Promise<Uint8Array> {
  const tooLarge = () => new RemoteFailure(`the answer is larger than ${limit} bytes`);
  try {
    refuseEncoded(response);
    if ((contentLength(response) ?? 0) > limit) throw tooLarge();
    return await collect(response.body, limit, tooLarge);
  } catch (error) {
    response.body.destroy();
    throw error;
  }
}

/** @throws RemoteFailure when a proxy compressed the body although only `identity` was asked for. */
export function refuseEncoded(response: UpstreamResponse): void {
  const encoding = headerOf(response, "content-encoding");
  if (encoding !== undefined && encoding.toLowerCase() !== "identity") throw new RemoteFailure("the answer is compressed");
}

/** @throws RemoteFailure when the bytes are no JSON object. */
export function parseJsonObject(bytes: Uint8Array): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw new RemoteFailure("the answer is not JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new RemoteFailure("the answer is no JSON object");
  return value as Record<string, unknown>;
}
