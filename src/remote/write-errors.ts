import { type ErrorCode, errorStatus, RegistryError } from "../core/errors.js";
import type { UpstreamCall } from "./endpoint.js";
import { parseRetryAfter } from "./failures.js";
import { onOneLine, withoutSecrets } from "./stated-text.js";
import { discard, headerOf, parseJsonObject, readCapped, type UpstreamResponse } from "./transport.js";
import type { Upstream } from "./upstream.js";

/** A write, and what its refusals are called where the upstream does not say. */
export interface WriteAsk extends UpstreamCall {
  /** Statuses that are success, or that the writer reads itself. */
  readonly accept: readonly number[];
  readonly refusals: Refusals;
}

export interface Refusals {
  /** For 404. */
  readonly absent: ErrorCode;
  /** Whether an upstream's own code for 404 counts: it tells a missing repository from a missing layer. Of a session only its end matters. */
  readonly absentSaysMore?: boolean;
  /** For 413. */
  readonly tooLarge: ErrorCode;
  /** For any other refusal of what was sent: 400, 409, 422. */
  readonly invalid: ErrorCode;
}

/** An error body is a few lines; what is larger comes from no registry. */
const bodyLimit = 64 * 1024;

/**
 * Sends a write and answers the response, its body given up: what a write answers is in its headers.
 * @throws RegistryError for any status that is not accepted; the signal's reason.
 */
export async function sendWrite(upstream: Upstream, ask: WriteAsk): Promise<UpstreamResponse> {
  const reply = await upstream.exchange(ask);
  if (reply.kind === "absent") throw new RegistryError("UNAVAILABLE", `${upstream.name}: ${ask.what}: no answer`);
  if (reply.kind !== "response") throw reply.error;
  const { response } = reply;
  if (!ask.accept.includes(response.status)) throw await writeError(upstream, ask, response);
  discard(response);
  return response;
}

async function writeError(upstream: Upstream, ask: WriteAsk, response: UpstreamResponse): Promise<RegistryError> {
  const { status } = response;
  const stated = await readErrorBody(response);
  if (ask.signal?.aborted) throw ask.signal.reason;
  const code = codeOf(status, stated?.code, ask.refusals);
  const statedText = [stated?.code, stated?.message].filter((text) => text !== undefined && text !== "").join(": ");
  const message = onOneLine(`${upstream.name}: ${ask.what}: answered ${status}${statedText && `: ${statedText}`}`);
  const retryAfter = parseRetryAfter(headerOf(response, "retry-after"), upstream.clock);
  return new RegistryError(code, message, {
    ...(status === 413 && { status }),
    ...(retryAfter !== undefined && errorStatus[code] >= 429 && { retryAfter }),
  });
}

function codeOf(status: number, stated: string | undefined, { absent, absentSaysMore, tooLarge, invalid }: Refusals): ErrorCode {
  switch (status) {
    case 401:
    case 403:
      return "DENIED";
    case 404:
      return (absentSaysMore && refusalCode(stated)) || absent;
    case 405:
      return "UNSUPPORTED";
    case 412:
      return "PRECONDITION_FAILED";
    case 413:
      return tooLarge;
    case 416:
      return "RANGE_INVALID";
    case 429:
      return "TOOMANYREQUESTS";
    case 507:
      return "INSUFFICIENT_STORAGE";
    case 400:
    case 409:
    case 422:
      // With codes of their own for what the client could mend, as ECR's TAG_INVALID for a tag that must not move.
      return refusalCode(stated) ?? invalid;
    default:
      return "UNAVAILABLE";
  }
}

/** A known code that blames the request. Its status may be another than ours: Harbor sends MANIFEST_BLOB_UNKNOWN with 404. */
function refusalCode(code: string | undefined): ErrorCode | undefined {
  if (code === undefined || !Object.hasOwn(errorStatus, code)) return undefined;
  const known = code as ErrorCode;
  if (errorStatus[known] >= 500) return undefined;
  return known === "UNAUTHORIZED" ? "DENIED" : known;
}

/** The first error of `{"errors":[{"code","message"}]}`, as far as there is one. */
async function readErrorBody(response: UpstreamResponse): Promise<{ code?: string; message?: string } | undefined> {
  try {
    const { errors } = parseJsonObject(await readCapped(response, bodyLimit));
    const first: unknown = Array.isArray(errors) ? errors[0] : undefined;
    if (typeof first !== "object" || first === null) return undefined;
    const { code, message } = first as Record<string, unknown>;
    return {
      ...(typeof code === "string" && /^[A-Za-z0-9_]{1,64}$/.test(code) && { code }),
      ...(typeof message === "string" && { message: withoutSecrets(message) }),
    };
  } catch {
    return undefined;
  }
}
