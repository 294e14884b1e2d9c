import { Agent, type IncomingHttpHeaders, request } from "node:http";

export type Fields = Readonly<Record<string, string | readonly string[]>>;

/** Where a recorded client works: its repositories begin with `repository`. */
export interface Place {
  readonly origin: string;
  readonly repository: string;
}

/** An answer, and what clients insist on in it: a script fails where the client it stands for would have. */
export class Answer {
  constructor(
    readonly asked: string,
    readonly url: URL,
    readonly status: number,
    readonly headers: IncomingHttpHeaders,
    readonly body: Buffer,
  ) {}

  fail(problem: string): never {
    const { asked, status, headers, body } = this;
    throw new Error(`${problem}\n${asked}\nanswered ${status} ${JSON.stringify(headers, null, 1)}\n${body.subarray(0, 1000)}`);
  }

  is(...statuses: number[]): this {
    return statuses.includes(this.status) ? this : this.fail(`expected ${statuses.join(" or ")}`);
  }

  /** One header field, which has to be there. */
  field(name: string): string {
    const value = this.headers[name];
    return typeof value === "string" && value !== "" ? value : this.fail(`no ${name}`);
  }

  has(name: string, value: string): this {
    const found = this.field(name);
    return found === value ? this : this.fail(`${name} is ${found}, expected ${value}`);
  }

  /** Go's ContentLength, which is -1 unless the header says it. */
  get size(): number {
    const text = this.field("content-length");
    return /^\d+$/.test(text) ? Number(text) : this.fail("Content-Length is not a number");
  }

  get digest(): string {
    const text = this.field("docker-content-digest");
    return /^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$/.test(text) ? text : this.fail("Docker-Content-Digest is not a digest");
  }

  /** Has what a client makes a descriptor of: without any of it, it gives up or fetches the whole manifest instead. */
  describes(reference: string): this {
    this.field("content-type");
    if (this.size === 0) this.fail("Content-Length is 0");
    const { digest } = this;
    return reference.includes(":") && digest !== reference ? this.fail(`Docker-Content-Digest is not ${reference}`) : this;
  }

  /** Where an upload goes on. containerd reads anything but a path or a whole URL as a host name. */
  get location(): URL {
    const text = this.field("location");
    if (!text.startsWith("/") && !text.includes("://")) this.fail("Location is neither a path nor a URL");
    const next = new URL(text, this.url);
    return next.host === this.url.host ? next : this.fail("Location is on another host");
  }

  /** The next page: crane and oras read the first Link up to its `>`, and refuse another host. */
  get next(): URL | undefined {
    const { link } = this.headers;
    if (link === undefined) return undefined;
    const [, target] = /^<([^>]+)>;\s*rel="?next"?$/.exec(String(link)) ?? this.fail("Link cannot be read");
    const url = new URL(target ?? "", this.url);
    return url.host === this.url.host ? url : this.fail("Link is on another host");
  }

  json(): Readonly<Record<string, unknown>> {
    const value: unknown = JSON.parse(this.body.toString());
    return isRecord(value) ? value : this.fail("not a JSON object");
  }

  /** A list in the body; clients that are not written in Go fail at null. */
  strings(name: string): string[] {
    const list = this.json()[name];
    return Array.isArray(list) && list.every((item) => typeof item === "string") ? list : this.fail(`${name} is not a list of strings`);
  }

  get errorCode(): string {
    const { errors } = this.json();
    const [first]: unknown[] = Array.isArray(errors) ? errors : [];
    if (!isRecord(first) || typeof first.code !== "string" || typeof first.message !== "string") this.fail("not the JSON of errors");
    return first.code;
  }
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export interface Sent {
  readonly headers?: Fields;
  readonly body?: Uint8Array;
  /** Sends a body whose length is not known beforehand. */
  readonly streamed?: boolean;
  /** Cuts the connection when this many bytes of the answer's body have come. */
  readonly cutAfter?: number;
}

/** Sends requests as Go's HTTP client writes them. */
export class RecordedClient {
  readonly #agent = new Agent({ keepAlive: true });

  constructor(
    readonly origin: string,
    readonly always: Fields,
  ) {}

  async send(method: string, target: string | URL, o: Sent = {}): Promise<Answer> {
    const url = new URL(target, this.origin);
    const fields: Record<string, string | readonly string[]> = { ...this.always, ...o.headers };
    // Go asks for gzip by itself, except by HEAD and for ranges.
    if (method !== "HEAD" && fields.range === undefined) fields["accept-encoding"] ??= "gzip";
    if (o.streamed) fields["transfer-encoding"] = "chunked";
    else if (o.body !== undefined || !["GET", "HEAD", "DELETE"].includes(method))
      fields["content-length"] = String(o.body?.byteLength ?? 0);
    const answer = await this.#exchange(method, url, fields, o);
    // Nothing undoes a compression that came unasked, and digests would no longer match.
    if (answer.headers["content-encoding"] !== undefined) answer.fail("compressed");
    if (answer.status >= 400 && method !== "HEAD") {
      if (!answer.field("content-type").startsWith("application/json")) answer.fail("an error that is not JSON");
      if (answer.errorCode === "") answer.fail("an error without a code");
    }
    return answer;
  }

  #exchange(method: string, url: URL, fields: Fields, { body, cutAfter = Number.POSITIVE_INFINITY }: Sent): Promise<Answer> {
    const headers = Object.fromEntries(
      Object.entries(fields).map(([name, value]) => [name, typeof value === "string" ? value : [...value]]),
    );
    return new Promise((resolve, reject) => {
      // The path as it is written, since scripts differ in what they percent-encode.
      const sent = request({ host: url.hostname, port: url.port, path: url.pathname + url.search, method, headers, agent: this.#agent });
      sent.on("error", reject);
      sent.once("response", (incoming) => {
        const chunks: Buffer[] = [];
        let read = 0;
        const done = () => {
          const asked = `${method} ${url} ${JSON.stringify(headers)}`;
          resolve(new Answer(asked, url, incoming.statusCode ?? 0, incoming.headers, Buffer.concat(chunks)));
        };
        incoming.on("data", (chunk: Buffer) => {
          chunks.push(chunk);
          read += chunk.byteLength;
          if (read < cutAfter) return;
          done();
          sent.destroy();
        });
        incoming.on("error", reject);
        incoming.once("end", done);
      });
      sent.end(body);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}
