import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { localRegistry, type Registry } from "oci-manifold";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { memoryStorage } from "oci-manifold/storage/memory";
import { onTestFinished } from "vitest";
import { digestOf } from "../../src/core/digest.js";
import { isRegistryError, type RegistryError } from "../../src/core/errors.js";
import { mediaTypes } from "../../src/core/media-types.js";

export interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
}

export interface PushServer {
  readonly url: string;
  readonly requests: Seen[];
}

/** A server that ends with the test and remembers what it was asked. */
export async function pushServer(listener: RequestListener): Promise<PushServer> {
  const requests: Seen[] = [];
  const server = tuneServer(
    createServer((request, response) => {
      requests.push({ method: request.method ?? "", url: request.url ?? "", headers: request.headers });
      listener(request, response);
    }),
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}

/** Sees a request first; true: it has answered it. */
export type Meddler = (request: IncomingMessage, response: ServerResponse) => boolean;

export interface ManifoldUpstream extends PushServer {
  /** What stands behind it. */
  readonly registry: Registry;
  meddle: Meddler | undefined;
  /** The scopes of each token request. */
  readonly scopes: string[][];
  /** Refuses every token given so far. */
  revoke(): void;
}

/** A real Manifold as upstream. With `tokens` it asks for a token good for what a request does, as docker's registry does. */
export async function manifoldUpstream(o: { tokens?: boolean } = {}): Promise<ManifoldUpstream> {
  const registry = localRegistry({ storage: memoryStorage(), name: "upstream", maxUploadsPerCaller: 10_000 });
  const handler = nodeHandler(registry, { authorize: () => true });
  const scopes: string[][] = [];
  let tokens = new Map<string, string[]>();
  let issued = 0;
  const server = await pushServer((request, response) => {
    const url = new URL(request.url ?? "", "http://upstream");
    if (url.pathname === "/token") {
      const asked = url.searchParams.getAll("scope");
      scopes.push(asked);
      tokens.set(`t0ken-${++issued}`, asked);
      response.end(JSON.stringify({ token: `t0ken-${issued}`, expires_in: 3600 }));
      return;
    }
    if (upstream.meddle?.(request, response)) return;
    const scope = scopeOf(request.method ?? "", url.pathname);
    const held = tokens.get(request.headers.authorization?.slice("Bearer ".length) ?? "");
    if (o.tokens && !held?.includes(scope)) {
      const challenge = `Bearer realm="${server.url}/token",service="up",scope="${scope}"`;
      response.writeHead(401, { "www-authenticate": challenge }).end();
      return;
    }
    handler(request, response);
  });
  const upstream: ManifoldUpstream = {
    ...server,
    registry,
    meddle: undefined,
    scopes,
    revoke: () => {
      tokens = new Map();
    },
  };
  return upstream;
}

function scopeOf(method: string, path: string): string {
  const name = /^\/v2\/(.+)\/(?:manifests|blobs|tags|referrers)\//.exec(path)?.[1];
  const isUpload = path.includes("/blobs/uploads/");
  const actions = method === "DELETE" && !isUpload ? "delete" : isUpload || method === "PUT" ? "pull,push" : "pull";
  return `repository:${name}:${actions}`;
}

/** The requests so far, ids and states of uploads left out. */
export function asked(upstream: { readonly requests: readonly Seen[] }): string[] {
  return upstream.requests.map(({ method, url }) =>
    `${method} ${decodeURIComponent(url)}`.replace(/uploads\/[0-9a-f]{32}/, "uploads/ID").replace(/sha256:[0-9a-f]{64}/g, "DIGEST"),
  );
}

export async function errorFrom(work: Promise<unknown>): Promise<RegistryError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (isRegistryError(error)) return error;
  throw new Error(`expected a RegistryError, got ${String(error)}`);
}

export async function* chunked(...chunks: readonly (Uint8Array | Error | Promise<unknown>)[]): AsyncGenerator<Uint8Array> {
  for (const chunk of chunks) {
    if (chunk instanceof Error) throw chunk;
    if (chunk instanceof Uint8Array) yield chunk;
    else await chunk;
  }
}

export const config = Buffer.from("{}");

export function manifestOf(fields: object = {}): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: digestOf(config), size: config.byteLength },
      layers: [],
      ...fields,
    }),
  );
}
