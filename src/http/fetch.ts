/**
 * Serves a registry where requests and responses are those of the Web: `fetchHandler` for Hono, Bun and Deno. In Node's own servers `oci-manifold/node` is faster.
 *
 * @example
 * ```ts
 * import { Hono } from "hono";
 * import { localRegistry } from "oci-manifold";
 * import { fetchHandler } from "oci-manifold/fetch";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const images = fetchHandler(localRegistry({ storage: memoryStorage(), name: "release" }), { anonymousWrites: true });
 * const app = new Hono();
 * app.all("/v2/*", (context) => images(context.req.raw));
 * await images.close();
 * ```
 */
import type { ReadyOptions, Registry } from "../core/registry.js";
import { notFoundResponse } from "./errors.js";
import { FetchExchange } from "./fetch-exchange.js";
import { type HandlerLifecycle, type HandlerOptions, HttpService } from "./http-service.js";
import { webResponse } from "./web-response.js";

export type { AccessQuestion, Action, Authorize } from "../access/policy.js";
export type { HandlerLifecycle } from "./http-service.js";

/** As {@link NodeHandlerOptions} of `oci-manifold/node`, but `caller` gets a Web `Request`. */
export interface FetchHandlerOptions extends HandlerOptions<Request> {
  /** The address of the peer: a Web `Request` does not tell it, most runtimes do. Default: events name no address, and no proxy is trusted by its own. */
  readonly address?: (request: Request) => string | undefined;
}

/** What Hono, Bun, Deno and others take: a `Request` in, a `Response` out. */
export interface FetchHandler extends HandlerLifecycle {
  /** Answers what lies at and below `/v2`; everything else is 404. Rejects only when `address` throws. */
  (request: Request): Promise<Response>;
}

/**
 * Serves a registry through Web `Request` and `Response`, as Hono, Bun and Deno have them. The runtime must stream request bodies: one that collects them
 * first keeps whole layers in memory. A response is `complete` in events when the runtime took all of it.
 *
 * @param registry any registry. The handler closes it, unless another composition still holds it.
 * @param options default: reads are open, writes are refused; see `nodeHandler`.
 * @throws RegistryError UNKNOWN for a challenge that cannot be a header, and for proxies or a public URL that cannot be read.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { fetchHandler } from "oci-manifold/fetch";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const images = fetchHandler(localRegistry({ storage: memoryStorage(), name: "release" }), { anonymousWrites: true });
 * await images.ready();
 * // Hono: app.all("/v2/*", (context) => images(context.req.raw)); Bun: Bun.serve({ fetch: images }); Deno: Deno.serve(images).
 * const response = await images(new Request("http://127.0.0.1:5000/v2/"));
 * console.assert(response.status === 200);
 * await images.close({ deadline: "10s" });
 * ```
 */
export function fetchHandler(registry: Registry, options: FetchHandlerOptions = {}): FetchHandler {
  const service = new HttpService<Request>(registry, options);
  const handler = async (request: Request): Promise<Response> => {
    const { pathname, search } = new URL(request.url);
    const target = pathname + search;
    if (!service.handles(target)) return webResponse(notFoundResponse(request.method));
    const peer = options.address?.(request);
    const header = (name: string) => request.headers.get(name) ?? undefined;
    const { address, base } = service.front.arrived({ peer, address: peer, header });
    const exchange = new FetchExchange(request, {
      target,
      address,
      startedAt: service.now(),
      guard: service.guard,
      ended: (one) => service.ended(one),
    });
    const answer = service.begin(exchange, request, base);
    exchange.watch();
    try {
      return await exchange.respond(answer, (error) => service.bodyFailed(exchange, error));
    } catch (error) {
      service.unsendable(exchange, error);
      return webResponse(service.failed(exchange, error));
    }
  };
  return Object.assign(handler, { ready: (o?: ReadyOptions) => service.ready(o), close: service.close });
}
