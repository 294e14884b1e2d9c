import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type FakeAuth, FakeTokens } from "./fake-upstream-auth.js";
import { FakeContent } from "./fake-upstream-content.js";
import { type FakeRequest, type Fault, send, spoil } from "./fake-upstream-faults.js";
import { answer, scopeOf } from "./fake-upstream-routes.js";

export type { FakeAuth } from "./fake-upstream-auth.js";
export type { FakeImage, FakeImageOptions, FakeRepository } from "./fake-upstream-content.js";
export type { FakeRequest, Fault } from "./fake-upstream-faults.js";

export interface FakeUpstreamOptions {
  /** Default: `{ kind: "none" }`. */
  readonly auth?: FakeAuth;
  /** Default true. False: 404, as registries before distribution-spec 1.1. */
  readonly referrers?: boolean;
  /** Default true. False: 404. */
  readonly catalog?: boolean;
  /** The most names in one page of a listing. Default 1000. */
  readonly pageSize?: number;
  readonly intercept?: Intercept;
}

/** Decides what goes wrong with a request; a promise holds the answer back. */
export type Intercept = (request: FakeRequest) => Fault | undefined | Promise<Fault | undefined>;

/** A registry for tests, and what it saw. */
export interface FakeUpstream
  extends Pick<FakeContent, "addBlob" | "addManifest" | "addImage" | "addIndex" | "repository" | "repositories">,
    AsyncDisposable {
  /** `http://127.0.0.1:<port>` */
  readonly url: string;
  /** Every request in order of arrival, those to the token endpoint too. Set its `length` to 0 to forget them. */
  readonly requests: FakeRequest[];
  /** May be set at any time. */
  intercept: Intercept | undefined;
  /** May be changed at any time. */
  auth: FakeAuth;
  readonly tokensIssued: number;
  /** Every token given out so far is refused from now on. */
  revokeTokens(): void;
  /** Idempotent; ends open connections. */
  close(): Promise<void>;
}

/**
 * A registry on a port of 127.0.0.1 that answers the pull API as the specification wants it (manifests, blobs with Range, tags, catalog,
 * referrers, tokens) and misbehaves on demand: `intercept` sees every request and answers what goes wrong with it. Resolves when it listens.
 * It takes no pushes; content is put in by `addImage`, `addIndex`, `addManifest` and `addBlob`.
 *
 * @example
 * ```ts
 * import { fakeUpstream } from "oci-manifold/testing";
 * const upstream = await fakeUpstream({ auth: { kind: "bearer" } });
 * const image = upstream.addImage("library/alpine", "3", { layers: [1024, 4096] });
 * upstream.intercept = ({ url }) => (url.includes("/blobs/") ? { truncateAfter: 100 } : undefined);
 * console.log(upstream.url, image.digest);
 * await upstream.close();
 * ```
 */
export async function fakeUpstream(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const content = new FakeContent();
  const tokens = new FakeTokens(options.auth ?? { kind: "none" });
  const requests: FakeRequest[] = [];
  const ways = { referrers: options.referrers ?? true, catalog: options.catalog ?? true, pageSize: options.pageSize ?? 1000 };
  let url = "";

  const handle = async (incoming: IncomingMessage, response: ServerResponse) => {
    const request: FakeRequest = { method: incoming.method ?? "", url: incoming.url ?? "", headers: incoming.headers };
    requests.push(request);
    let form = "";
    for await (const chunk of incoming) form += chunk;
    const path = new URL(request.url, url).pathname;
    const reply =
      path === "/token"
        ? tokens.issue(request, form)
        : (tokens.challenge(request, scopeOf(decodeURIComponent(path)), url) ?? answer(content, request, ways));
    const fault = (await upstream.intercept?.(request)) ?? {};
    await send(incoming, response, spoil(reply, fault), fault);
  };
  const server = createServer((incoming, response) => {
    // A client that leaves, or an intercept that throws: the connection ends, the test sees the rest.
    handle(incoming, response).catch(() => incoming.socket.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
    return closing;
  };
  const upstream: FakeUpstream = {
    url,
    requests,
    intercept: options.intercept,
    repositories: content.repositories,
    repository: content.repository.bind(content),
    addBlob: content.addBlob.bind(content),
    addManifest: content.addManifest.bind(content),
    addImage: content.addImage.bind(content),
    addIndex: content.addIndex.bind(content),
    get auth() {
      return tokens.auth;
    },
    set auth(auth) {
      tokens.auth = auth;
    },
    get tokensIssued() {
      return tokens.issued;
    },
    revokeTokens: () => tokens.revoke(),
    close,
    [Symbol.asyncDispose]: close,
  };
  return upstream;
}
