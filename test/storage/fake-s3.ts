import { createHash, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import type { S3ClientLike, S3Sdk } from "oci-manifold/storage/s3";

type Input = Record<string, unknown> & { Key: string; Body: Uint8Array; Prefix: string; UploadId: string; PartNumber: number };

/** One request: its command without "Command", what it asks, and how to have it answered as usual. */
export interface FakeS3Request {
  readonly command: string;
  readonly input: Input;
  readonly answer: () => Promise<object>;
}

export const s3Failure = (name: string, httpStatusCode: number) =>
  Object.assign(new Error(`${name} happened`), { name, $metadata: { httpStatusCode, requestId: "r1" } });

const missing = () => s3Failure("NoSuchKey", 404);
const etagOf = (bytes: Uint8Array) => `"${createHash("md5").update(bytes).digest("hex")}"`;
const commands = [
  "AbortMultipartUpload",
  "CompleteMultipartUpload",
  "CopyObject",
  "CreateMultipartUpload",
  "DeleteObject",
  "GetObject",
  "HeadObject",
  "ListMultipartUploads",
  "ListObjectsV2",
  "ListParts",
  "PutObject",
  "UploadPart",
  "UploadPartCopy",
] as const;

const classOf = (command: string) =>
  class {
    readonly command = command;
    readonly input: object;
    constructor(input: object) {
      this.input = input;
    }
  };

/** The command classes of a fake SDK. */
export const fakeSdk = Object.fromEntries(commands.map((name) => [`${name}Command`, classOf(name)])) as unknown as S3Sdk;

/** An `S3Client` over a bucket in memory. What goes wrong a test puts into `intercept`. */
export class FakeS3 implements S3ClientLike {
  readonly objects = new Map<string, Uint8Array>();
  readonly uploads = new Map<string, { readonly key: string; readonly parts: Map<number, Uint8Array> }>();
  /** Every request, in order. */
  readonly asked: string[] = [];
  intercept: (request: FakeS3Request) => Promise<object> = ({ answer }) => answer();
  listedAtOnce = 1000;
  /** The clock of the service. */
  now: () => number = Date.now;

  async send(command: never): Promise<unknown> {
    const { command: name, input } = command as { command: string; input: Input };
    this.asked.push(name);
    return this.intercept({ command: name, input, answer: async () => this.#answer(name, input) });
  }

  countOf(command: string): number {
    return this.asked.filter((name) => name === command).length;
  }

  #answer(command: string, input: Input): object {
    const { Key } = input;
    switch (command) {
      case "PutObject":
        return this.#put(input, new Uint8Array(input.Body));
      case "GetObject":
        return this.#get(input);
      case "HeadObject":
        return { ContentLength: this.#object(Key).byteLength, ETag: etagOf(this.#object(Key)), LastModified: new Date(this.now()) };
      case "CopyObject":
        return this.#put(input, this.#copied(input));
      case "UploadPartCopy": {
        const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(String(input.CopySourceRange)) ?? [];
        const part = this.#copied(input).subarray(Number(start), Number(end) + 1);
        this.#upload(input).parts.set(input.PartNumber, part);
        return { CopyPartResult: { ETag: etagOf(part) } };
      }
      case "DeleteObject":
        this.objects.delete(Key);
        return {};
      case "ListObjectsV2":
        return this.#list(input);
      case "CreateMultipartUpload": {
        const UploadId = randomBytes(8).toString("hex");
        this.uploads.set(UploadId, { key: Key, parts: new Map() });
        return { UploadId };
      }
      case "UploadPart":
        this.#upload(input).parts.set(input.PartNumber, new Uint8Array(input.Body));
        return { ETag: etagOf(input.Body) };
      case "ListParts":
        return this.#parts(input);
      case "CompleteMultipartUpload":
        return this.#complete(input);
      case "AbortMultipartUpload":
        this.#upload(input);
        this.uploads.delete(input.UploadId);
        return {};
      case "ListMultipartUploads": {
        const found = [...this.uploads].filter(([, { key }]) => key.startsWith(input.Prefix));
        return { Uploads: found.map(([UploadId, { key }]) => ({ Key: key, UploadId })) };
      }
      default:
        return {};
    }
  }

  #put({ Key, IfNoneMatch }: Input, bytes: Uint8Array): object {
    if (IfNoneMatch === "*" && this.objects.has(Key)) throw s3Failure("PreconditionFailed", 412);
    this.objects.set(Key, bytes);
    return { ETag: etagOf(bytes) };
  }

  #get({ Key, Range, IfMatch }: Input): object {
    const bytes = this.#object(Key);
    const ETag = etagOf(bytes);
    if (IfMatch !== undefined && `"${IfMatch}"` !== ETag) throw s3Failure("PreconditionFailed", 412);
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(String(Range ?? "")) ?? [];
    const start = Number(from ?? 0);
    const end = to === undefined ? bytes.byteLength : Number(to) + 1;
    const range = Range === undefined ? {} : { ContentRange: `bytes ${start}-${end - 1}/${bytes.byteLength}` };
    return { Body: Readable.from([bytes.subarray(start, end)]), ETag, ContentLength: end - start, ...range };
  }

  #copied({ CopySource, CopySourceIfMatch }: Input): Uint8Array {
    const bytes = this.#object(decodeURIComponent(String(CopySource)).replace(/^[^/]*\//, ""));
    if (CopySourceIfMatch !== undefined && `"${CopySourceIfMatch}"` !== etagOf(bytes)) throw s3Failure("PreconditionFailed", 412);
    return bytes;
  }

  #list({ Prefix, Delimiter, StartAfter = "", MaxKeys, ContinuationToken = "" }: Input): object {
    const after = String(ContinuationToken || StartAfter);
    const folded = (key: string) => {
      const end = Delimiter === undefined ? -1 : key.indexOf(String(Delimiter), Prefix.length);
      return end < 0 ? key : key.slice(0, end + 1);
    };
    const below = [...this.objects.keys()].filter((key) => key.startsWith(Prefix) && (ContinuationToken ? folded(key) : key) > after);
    const keys = [...new Set(below.sort().map(folded))];
    const page = keys.slice(0, Math.min(Number(MaxKeys), this.listedAtOnce));
    const CommonPrefixes = page.filter((key) => !this.objects.has(key)).map((common) => ({ Prefix: common }));
    const Contents = page
      .filter((key) => this.objects.has(key))
      .map((Key) => ({ Key, Size: this.objects.get(Key)?.byteLength, LastModified: new Date(this.now()) }));
    return { Contents, CommonPrefixes, IsTruncated: page.length < keys.length, NextContinuationToken: page.at(-1) };
  }

  #parts({ PartNumberMarker, MaxParts, ...input }: Input): object {
    const parts = [...this.#upload(input as Input).parts].sort(([a], [b]) => a - b).filter(([number]) => number > Number(PartNumberMarker));
    const Parts = parts
      .slice(0, Number(MaxParts))
      .map(([PartNumber, bytes]) => ({ PartNumber, ETag: etagOf(bytes), Size: bytes.byteLength }));
    return { Parts, IsTruncated: Parts.length < parts.length, NextPartNumberMarker: String(Parts.at(-1)?.PartNumber) };
  }

  #complete(input: Input): object {
    const { parts } = this.#upload(input);
    const { Parts } = input.MultipartUpload as { Parts: { PartNumber: number; ETag: string }[] };
    const chosen = Parts.map(({ PartNumber, ETag }) => {
      const part = parts.get(PartNumber);
      if (!part || etagOf(part) !== ETag) throw s3Failure("InvalidPart", 400);
      return part;
    });
    if (chosen.slice(0, -1).some((part) => part.byteLength < 5 * 2 ** 20)) throw s3Failure("EntityTooSmall", 400);
    this.#put(input, Buffer.concat(chosen));
    this.uploads.delete(input.UploadId);
    return {};
  }

  #object(key: string): Uint8Array {
    const bytes = this.objects.get(key);
    if (!bytes) throw missing();
    return bytes;
  }

  #upload({ UploadId }: Input) {
    const upload = this.uploads.get(UploadId);
    if (!upload) throw s3Failure("NoSuchUpload", 404);
    return upload;
  }
}
