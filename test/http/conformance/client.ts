import { connect } from "node:net";
import { Readable } from "node:stream";
import { digestOf } from "oci-manifold/extend";
import { type Dispatcher, request } from "undici";
import { expect } from "vitest";
import { type Algorithm, octets } from "./content.js";

/** A response, read to its end. Header names are in lower case. */
export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** Of the first error in the body. */
  readonly code: string | undefined;
}

/** What comes piece by piece goes out chunked, without a length. */
export type Body = string | Uint8Array | AsyncIterable<Uint8Array>;

export type Fields = Readonly<Record<string, string>>;

/** The codes of the specification, then ours. */
const codes = new Set(
  "BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS RANGE_INVALID PRECONDITION_FAILED UNKNOWN UNAVAILABLE INSUFFICIENT_STORAGE".split(
    " ",
  ),
);

/** Talks to a registry, and checks of every single response what must hold of each. */
export class Client {
  #at: { url: string; port: number } | undefined;

  connect(at: { url: string; port: number }): void {
    this.#at = at;
  }

  get port(): number {
    return this.#running.port;
  }

  get #running(): { url: string; port: number } {
    if (!this.#at) throw new Error("not connected");
    return this.#at;
  }

  get = (path: string, headers: Fields = {}) => this.send("GET", path, headers);
  head = (path: string, headers: Fields = {}) => this.send("HEAD", path, headers);
  delete = (path: string, headers: Fields = {}) => this.send("DELETE", path, headers);
  post = (path: string, headers: Fields = {}, body?: Body) => this.send("POST", path, headers, body);
  put = (path: string, headers: Fields = {}, body?: Body) => this.send("PUT", path, headers, body);
  patch = (path: string, headers: Fields = {}, body?: Body) => this.send("PATCH", path, headers, body);

  async send(method: string, path: string, fields: Fields = {}, body?: Body): Promise<Answer> {
    // Every client of HTTP libraries offers compression; nothing may come compressed.
    const headers = { "Accept-Encoding": "gzip, deflate, br", ...fields };
    const sent = typeof body === "string" || body === undefined || body instanceof Uint8Array ? body : Readable.from(body);
    const response = await request(this.#running.url + path, { method: method as Dispatcher.HttpMethod, headers, body: sent });
    const joined = Object.entries(response.headers).map(([name, value]) => [name, Array.isArray(value) ? value.join(", ") : value]);
    const answer = {
      status: response.statusCode,
      headers: Object.fromEntries(joined) as Record<string, string>,
      body: Buffer.from(await response.body.arrayBuffer()),
    };
    return { ...answer, code: checked(method, path, answer).code };
  }

  /** One request as it is written, whose connection ends with the response: for what a library would tidy up or refuse to send. */
  async raw(method: string, target: string, lines: readonly string[] = [], body: Uint8Array | string = ""): Promise<Answer> {
    const head = [`${method} ${target} HTTP/1.1`, "Host: registry.example", "Connection: close", ...lines].join("\r\n");
    const text = await exchanged(this.port, Buffer.concat([Buffer.from(`${head}\r\n\r\n`), Buffer.from(body)]), method === "HEAD");
    const end = text.indexOf("\r\n\r\n");
    const [status = "", ...fields] = text.slice(0, end).split("\r\n");
    const headers: Record<string, string> = {};
    for (const field of fields) {
      const colon = field.indexOf(":");
      const name = field.slice(0, colon).toLowerCase();
      const value = field.slice(colon + 1).trim();
      headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
    }
    const answer = { status: Number(status.split(" ")[1]), headers, body: Buffer.from(text.slice(end + 4), "latin1") };
    return { ...answer, code: checked(method, target, answer).code };
  }

  /** The location of a new upload session. */
  async begin(repository: string, query = ""): Promise<string> {
    const begun = await this.post(`/v2/${repository}/blobs/uploads/${query}`);
    expect(begun.status).toBe(202);
    return locationOf(begun);
  }

  /** Pushes a blob in one request; answers its digest. */
  async pushBlob(repository: string, bytes: Uint8Array, algorithm: Algorithm = "sha256"): Promise<string> {
    const digest = digestOf(bytes, algorithm);
    const pushed = await this.post(`/v2/${repository}/blobs/uploads/?digest=${digest}`, octets, bytes);
    expect(pushed).toMatchObject({ status: 201, headers: { "docker-content-digest": digest } });
    return digest;
  }

  /** The digest a tag stands at; `undefined` when there is no such tag. */
  async tagged(repository: string, tag: string): Promise<string | undefined> {
    const got = await this.head(`/v2/${repository}/manifests/${tag}`);
    if (got.status === 404) return undefined;
    expect(got.status).toBe(200);
    return got.headers["docker-content-digest"];
  }

  /** None also where the registry has forgotten a repository that has nothing left. */
  async tags(repository: string, query = ""): Promise<string[]> {
    const got = await this.get(`/v2/${repository}/tags/list${query}`);
    if (got.code === "NAME_UNKNOWN") return [];
    expect(got.status).toBe(200);
    return json<{ tags: string[] }>(got).tags;
  }

  async referrers(repository: string, subject: string, query = ""): Promise<ReferrerDescriptor[]> {
    const got = await this.get(`/v2/${repository}/referrers/${subject}${query}`);
    expect(got).toMatchObject({ status: 200, headers: { "content-type": "application/vnd.oci.image.index.v1+json" } });
    return json<{ manifests: ReferrerDescriptor[] }>(got).manifests;
  }
}

export interface ReferrerDescriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly artifactType?: string;
  readonly annotations?: Fields;
}

export function json<T>(answer: Answer): T {
  return JSON.parse(answer.body.toString()) as T;
}

/** Relative, below `/v2/`, and free of a query that a client would have to keep. */
export function locationOf(answer: Answer): string {
  const location = answer.headers.location ?? "";
  expect(location).toMatch(/^\/v2\/[^?#]+$/);
  return location;
}

/** Follows `Link: <…>; rel="next"`. */
export function nextOf(answer: Answer): string | undefined {
  const { link } = answer.headers;
  if (link === undefined) return undefined;
  const target = /^<(\/v2\/[^<>]+)>; ?rel="?next"?$/.exec(link)?.[1];
  expect(target, `a relative Link, not ${link}`).toBeDefined();
  return target;
}

/** The first response to these bytes: up to its Content-Length, or to the end of the connection where nothing may follow the header. */
function exchanged(port: number, bytes: Buffer, bare: boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => socket.write(bytes));
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
      const end = text.indexOf("\r\n\r\n");
      const length = end < 0 ? undefined : /^content-length: (\d+)\r?$/im.exec(text.slice(0, end))?.[1];
      if (bare || length === undefined || text.length < end + 4 + Number(length)) return;
      socket.destroy();
      resolve(text);
    });
    socket.on("close", () => resolve(text));
    socket.on("error", reject);
  });
}

function checked(method: string, target: string, { status, headers, body }: Omit<Answer, "code">): { code: string | undefined } {
  const what = `${method} ${target.slice(0, 200)} -> ${status}`;
  expect(headers["docker-distribution-api-version"], what).toBe("registry/2.0");
  expect(headers["content-encoding"], what).toBeUndefined();
  expect(headers["cache-control"], what).toContain("no-transform");
  expect(headers["transfer-encoding"], what).toBeUndefined();
  const bare = status === 204 || status === 304;
  if (bare || method === "HEAD") expect(body.length, what).toBe(0);
  if (!bare) expect(headers["content-length"], what).toMatch(/^\d+$/);
  if (!bare && method !== "HEAD") expect(headers["content-length"], what).toBe(String(body.length));
  if (/\/blobs\/sha\d+(?::|%3a)[^/]+$/i.test(target.split("?")[0] ?? "") && (status === 200 || status === 206)) {
    expect(headers, what).toMatchObject({ "x-content-type-options": "nosniff", "content-security-policy": "sandbox" });
  }
  if (status < 400) return { code: undefined };
  expect(headers["content-type"], what).toBe("application/json");
  if (status === 401) expect(headers["www-authenticate"], what).toMatch(/^\w+ \w+="/);
  if (status === 429 || status === 503) expect(headers["retry-after"], what).toMatch(/^\d+$/);
  if (method === "HEAD") return { code: undefined };
  const { errors, ...rest } = JSON.parse(body.toString()) as { errors: { code: string; message: string; detail?: unknown }[] };
  expect([rest, errors.length > 0], what).toEqual([{}, true]);
  for (const { code, message, detail: _, ...others } of errors) {
    expect(codes, what).toContain(code);
    expect([typeof message, others], what).toEqual(["string", {}]);
  }
  return { code: errors[0]?.code };
}
