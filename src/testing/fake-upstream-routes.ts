import type { Descriptor } from "../core/descriptor.js";
import { parseManifest } from "../core/manifest.js";
import { mediaTypes } from "../core/media-types.js";
import type { FakeContent, FakeRepository } from "./fake-upstream-content.js";
import type { FakeReply, FakeRequest } from "./fake-upstream-faults.js";

export interface FakeWays {
  /** False: 404, as registries before distribution-spec 1.1. */
  readonly referrers: boolean;
  /** False: 404, as Docker Hub and GHCR. */
  readonly catalog: boolean;
  /** The most names in one page of a listing. */
  readonly pageSize: number;
}

/** What a token must be good for. */
export function scopeOf(path: string): string {
  const name = /^\/v2\/(.+)\/(?:manifests|blobs|tags|referrers)\/[^/]+$/.exec(path)?.[1];
  return name === undefined ? "registry:catalog:*" : `repository:${name}:pull`;
}

/** Answers the pull API as the specification wants it. */
export function answer(content: FakeContent, request: FakeRequest, ways: FakeWays): FakeReply {
  const url = new URL(request.url, "http://fake");
  const path = decodeURIComponent(url.pathname);
  if (request.method !== "GET" && request.method !== "HEAD") return failure(405, "UNSUPPORTED");
  if (path === "/v2/" || path === "/v2") return json({});
  if (path === "/v2/_catalog" && ways.catalog) {
    return listing([...content.repositories.keys()], url, ways.pageSize, (names) => ({ repositories: names }));
  }
  const match = /^\/v2\/(.+)\/(manifests|blobs|tags|referrers)\/([^/]+)$/.exec(path);
  const [, name = "", kind, last = ""] = match ?? [];
  const repository = content.repositories.get(name);
  if (kind === "referrers" && ways.referrers) return referrers(repository, last, url.searchParams.get("artifactType"));
  if (!repository) return failure(404, "NAME_UNKNOWN");
  if (kind === "manifests") return manifest(repository, last);
  if (kind === "blobs") return blob(repository, last, request.headers.range);
  if (kind === "tags" && last === "list") return listing([...repository.tags.keys()], url, ways.pageSize, (tags) => ({ name, tags }));
  return failure(404, "NAME_UNKNOWN");
}

function manifest(repository: FakeRepository, reference: string): FakeReply {
  const digest = reference.includes(":") ? reference : (repository.tags.get(reference) ?? "");
  const stored = repository.manifests.get(digest);
  if (!stored) return failure(404, "MANIFEST_UNKNOWN");
  return ok(stored.bytes, { "content-type": stored.mediaType, "docker-content-digest": digest });
}

function blob(repository: FakeRepository, digest: string, range: string | undefined): FakeReply {
  const bytes = repository.blobs.get(digest);
  if (!bytes) return failure(404, "BLOB_UNKNOWN");
  const headers = { "content-type": mediaTypes.octetStream, "docker-content-digest": digest, "accept-ranges": "bytes" };
  const match = /^bytes=(\d*)-(\d*)$/.exec(range ?? "");
  if (!match || (match[1] === "" && match[2] === "")) return ok(bytes, headers);
  const total = bytes.byteLength;
  const start = match[1] ? Number(match[1]) : Math.max(0, total - Number(match[2]));
  const end = match[1] && match[2] ? Math.min(Number(match[2]), total - 1) : total - 1;
  if (start > end) {
    const refused = failure(416, "RANGE_INVALID");
    return { ...refused, headers: { ...refused.headers, "content-range": `bytes */${total}` } };
  }
  const part = ok(bytes.subarray(start, end + 1), { ...headers, "content-range": `bytes ${start}-${end}/${total}` });
  return { ...part, status: 206 };
}

function listing(names: string[], url: URL, pageSize: number, body: (names: string[]) => object): FakeReply {
  const last = url.searchParams.get("last");
  const n = Math.min(Number(url.searchParams.get("n") ?? pageSize), pageSize);
  const rest = names.sort().filter((name) => last === null || name > last);
  const page = rest.slice(0, n);
  const reply = json(body(page));
  const end = page.at(-1);
  if (rest.length <= n || end === undefined) return reply;
  const next = new URLSearchParams({ n: String(n), last: end });
  return { ...reply, headers: { ...reply.headers, link: `<${url.pathname}?${next}>; rel="next"` } };
}

function referrers(repository: FakeRepository | undefined, subject: string, artifactType: string | null): FakeReply {
  const manifests: Descriptor[] = [];
  for (const [digest, { bytes, mediaType }] of repository?.manifests ?? []) {
    try {
      const parsed = parseManifest(bytes, mediaType);
      if (parsed.subject?.digest !== subject || (artifactType !== null && parsed.artifactType !== artifactType)) continue;
      const { annotations, artifactType: type } = parsed;
      const descriptor = { mediaType, digest: digest as Descriptor["digest"], size: bytes.byteLength };
      manifests.push({ ...descriptor, ...(type && { artifactType: type }), ...(annotations && { annotations }) });
    } catch {
      // Tests store malformed manifests on purpose; they refer to nothing.
    }
  }
  const reply = json({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests });
  const headers = { ...reply.headers, "content-type": mediaTypes.ociIndex };
  return { ...reply, headers: artifactType === null ? headers : { ...headers, "oci-filters-applied": "artifactType" } };
}

function ok(body: Uint8Array, headers: Record<string, string>): FakeReply {
  return { status: 200, headers: { ...headers, "content-length": String(body.byteLength) }, body };
}

function json(value: object): FakeReply {
  return ok(Buffer.from(JSON.stringify(value)), { "content-type": "application/json" });
}

function failure(status: number, code: string): FakeReply {
  return { ...json({ errors: [{ code, message: "fake upstream" }] }), status };
}
