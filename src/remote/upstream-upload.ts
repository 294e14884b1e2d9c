import type { Digest, DigestAlgorithm } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { mediaTypes } from "../core/media-types.js";
import { headerOf, type UpstreamResponse, wholeNumber } from "./transport.js";
import { pushScope, type Upstream } from "./upstream.js";
import { type Refusals, sendWrite, type WriteAsk } from "./write-errors.js";

/** In milliseconds. Registries over object stores read a large blob again before they answer the PUT that closes its upload. */
const finishTimeout = 5 * 60_000;
/** In milliseconds. An upload that is not wanted any more is worth no long wait: the upstream expires it in the end. */
const abandonTimeout = 10_000;
/** What containerd takes as success too; the specification says 201. */
const finished = [200, 201, 202, 204];

const startRefusals: Refusals = { absent: "NAME_UNKNOWN", absentSaysMore: true, tooLarge: "SIZE_INVALID", invalid: "BLOB_UPLOAD_INVALID" };
const sessionRefusals: Refusals = { absent: "BLOB_UPLOAD_UNKNOWN", tooLarge: "SIZE_INVALID", invalid: "BLOB_UPLOAD_INVALID" };

/** What became of a chunk; refused because it does not start at the offset of the upload. */
export type PatchOutcome = { readonly kind: "taken" } | { readonly kind: "out of order"; readonly offset: ReturnType<typeof statedOffset> };

export interface UploadStart {
  readonly repository: string;
  readonly query?: URLSearchParams;
  readonly scope?: string;
  readonly signal: AbortSignal | undefined;
}

/** POST, which authenticates for the requests that follow: their bodies cannot be sent twice. */
export async function postUpload(upstream: Upstream, start: UploadStart, accept: readonly number[]): Promise<UpstreamResponse> {
  const { repository, query, scope = pushScope(repository), signal } = start;
  const path = `/v2/${repository}/blobs/uploads/${query ? `?${query}` : ""}`;
  const what = `upload to ${repository}`;
  return sendWrite(upstream, { method: "POST", path, scope, what, signal, accept, refusals: startRefusals });
}

/** An upload at the upstream: one request a method, always to the newest location. How far it has come is the user's to know. */
export class UpstreamUpload {
  readonly #upstream: Upstream;
  readonly #repository: string;
  readonly #scope: string;
  #location: URL;

  /** @param response the 202 that opened it. */
  constructor(upstream: Upstream, { repository, scope = pushScope(repository) }: Omit<UploadStart, "signal">, response: UpstreamResponse) {
    this.#upstream = upstream;
    this.#repository = repository;
    this.#scope = scope;
    this.#location = uploadLocation(response, upstream.base, this.#what);
  }

  static async start(
    upstream: Upstream,
    repository: string,
    o: { algorithm?: DigestAlgorithm | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<UpstreamUpload> {
    // Not for the default, which older registries assume.
    const query = o.algorithm === "sha512" ? new URLSearchParams({ "digest-algorithm": o.algorithm }) : undefined;
    const start = { repository, signal: o.signal, ...(query && { query }) };
    return new UpstreamUpload(upstream, start, await postUpload(upstream, start, [202]));
  }

  /**
   * One chunk, streamed.
   * @param o.start goes into a Content-Range, for which the length must be known.
   * @param o.isConfirmed the request that opened the upload was answered just now, so its token holds.
   */
  async patch(
    body: AsyncIterable<Uint8Array>,
    o: { start?: number; length?: number | undefined; isConfirmed?: boolean; signal?: AbortSignal | undefined },
  ): Promise<PatchOutcome> {
    const { start, length, isConfirmed = false, signal } = o;
    const range = start !== undefined && length !== undefined ? `${start}-${start + length - 1}` : undefined;
    const response = await this.#send({
      method: "PATCH",
      body,
      isConfirmed,
      signal,
      accept: [201, 202, 204, 416],
      headers: {
        "content-type": mediaTypes.octetStream,
        ...(length !== undefined && { "content-length": String(length) }),
        ...(range !== undefined && { "content-range": range }),
      },
    });
    if (response.headers.location !== undefined) this.#location = uploadLocation(response, this.#upstream.base, this.#what);
    return response.status === 416 ? { kind: "out of order", offset: statedOffset(response) } : { kind: "taken" };
  }

  /** How many bytes the upstream says it has. */
  async status(signal: AbortSignal | undefined): Promise<ReturnType<typeof statedOffset>> {
    const response = await this.#send({ method: "GET", signal, accept: [200, 202, 204] });
    if (response.headers.location !== undefined) this.#location = uploadLocation(response, this.#upstream.base, this.#what);
    return statedOffset(response);
  }

  async finish(digest: Digest, signal?: AbortSignal): Promise<void> {
    const path = withDigest(this.#location, digest);
    await this.#send({ method: "PUT", path, signal, accept: finished, headersTimeout: finishTimeout });
  }

  /** Gone already, or never to be cancelled: many registries lack the request. */
  async cancel(signal?: AbortSignal): Promise<void> {
    await this.#send({ method: "DELETE", signal, accept: [200, 202, 204, 404, 405] });
  }

  /** For an upload that failed already: whether cancelling it works matters to nobody. */
  async abandon(): Promise<void> {
    await this.cancel(AbortSignal.timeout(abandonTimeout)).catch((error: unknown) => {
      if (!isRegistryError(error) && !(error instanceof DOMException)) throw error;
    });
  }

  get #what(): string {
    return `${this.#upstream.name}: upload to ${this.#repository}`;
  }

  #send(
    ask: Pick<WriteAsk, "method" | "accept" | "signal" | "body" | "headers" | "headersTimeout" | "isConfirmed"> & { path?: URL },
  ): Promise<UpstreamResponse> {
    const what = `upload to ${this.#repository}`;
    return sendWrite(this.#upstream, { path: this.#location, scope: this.#scope, what, refusals: sessionRefusals, ...ask });
  }
}

/**
 * Where an upload goes on. Registries answer with a path or a whole URL, with a query of their own (the state of docker-registry's), and another one each time.
 * @throws RegistryError UNAVAILABLE when there is none, or when it is on another origin: the token and the bytes would go there. The message does not
 *   repeat it, since it may be signed.
 */
function uploadLocation(response: UpstreamResponse, base: URL, what: string): URL {
  const text = headerOf(response, "location");
  if (text === undefined) throw refused(what, "the upstream did not say where the upload goes on");
  if (!URL.canParse(text, response.url.href)) throw refused(what, "the upstream sent the upload to something that is no URL");
  const url = new URL(text, response.url);
  if (url.origin !== base.origin || url.username || url.password) throw refused(what, "the upstream sent the upload to another origin");
  url.hash = "";
  return url;
}

/** Closing an upload adds to the query that is there, which stays as it is, byte for byte: it may be signed. */
function withDigest(location: URL, digest: string): URL {
  const url = new URL(location);
  url.search = [url.search.slice(1), `digest=${encodeURIComponent(digest)}`].filter(Boolean).join("&");
  return url;
}

/**
 * How many bytes an upload has, from the Range of an answer. `0-0` means one byte by the specification, and none in docker-registry and here.
 */
function statedOffset(response: UpstreamResponse): number | "none or one" | undefined {
  const last = wholeNumber(/^(?:bytes=)?0-(\d+)$/.exec(headerOf(response, "range")?.trim() ?? "")?.[1]);
  if (last === undefined) return undefined;
  return last === 0 ? "none or one" : last + 1;
}

function refused(what: string, why: string): RegistryError {
  return new RegistryError("UNAVAILABLE", `${what}: ${why}`);
}
