/**
 * Serves a registry in Koa 2 and 3: `koaHandler` is a middleware, with the context as the request that `caller` is asked about.
 *
 * @example
 * ```ts
 * import Koa from "koa";
 * import { localRegistry } from "oci-manifold";
 * import { koaHandler } from "oci-manifold/koa";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const images = koaHandler(localRegistry({ storage: memoryStorage(), name: "release" }), { anonymousWrites: true });
 * const app = new Koa().use(images); // before any body parser
 * const server = app.listen(0, "127.0.0.1");
 * server.close();
 * await images.close();
 * ```
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { ReadyOptions, Registry } from "../core/registry.js";
import { type HandlerLifecycle, type HandlerOptions, HttpService } from "./http-service.js";
import type { NodeHandler } from "./node.js";
import { serveNode } from "./node.js";

export type { AccessQuestion, Action, Authorize } from "../access/policy.js";
export type { HandlerLifecycle } from "./http-service.js";

/** What is needed of Koa's context. */
export interface KoaContext {
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
  readonly originalUrl: string;
  /** Koa's own: heeds `app.proxy`. */
  readonly ip: string;
  respond?: boolean | undefined;
}

/** As {@link NodeHandlerOptions} of `oci-manifold/node`, but `caller` gets Koa's context. */
export type KoaHandlerOptions<Context extends KoaContext = KoaContext> = HandlerOptions<Context>;

/** A middleware of Koa 2 and 3. */
export interface KoaHandler<Context extends KoaContext = KoaContext> extends HandlerLifecycle {
  (context: Context, next: () => Promise<unknown>): Promise<void>;
}

/**
 * Serves a registry as Koa 2 or 3 middleware. What does not lie at or below `/v2` goes to the next middleware. Mount it before body parsers.
 *
 * @param served a registry, or a handler made by `nodeHandler`, whose options then hold.
 * @param options default: reads are open, writes are refused; see `nodeHandler`.
 * @throws RegistryError UNKNOWN for a challenge that cannot be a header, and for proxies or a public URL that cannot be read.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { koaHandler } from "oci-manifold/koa";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 *
 * const images = koaHandler(localRegistry({ storage: memoryStorage(), name: "release" }), { anonymousWrites: true });
 * await images.ready();
 * // app.use(images);
 * await images.close({ deadline: "10s" });
 * ```
 */
export function koaHandler(served: NodeHandler<IncomingMessage>): KoaHandler;
export function koaHandler<Context extends KoaContext = KoaContext>(
  served: Registry,
  options?: KoaHandlerOptions<Context>,
): KoaHandler<Context>;
export function koaHandler<Context extends KoaContext>(
  served: Registry | NodeHandler<IncomingMessage>,
  options: KoaHandlerOptions<Context> = {},
): KoaHandler<Context> {
  if (typeof served === "function") return wrapNodeHandler(served);
  const service = new HttpService<Context>(served, options);
  const middleware = async (context: Context, next: () => Promise<unknown>): Promise<void> => {
    // Not `url`: koa-mount cuts its prefix off that.
    const target = context.originalUrl;
    if (!service.handles(target)) {
      await next();
      return;
    }
    // Koa then leaves the response alone.
    context.respond = false;
    const ended = responseEnd(context.res);
    serveNode(service, context.req, context.res, { subject: context, target, address: context.ip });
    await ended;
  };
  return Object.assign(middleware, { ready: (o?: ReadyOptions) => service.ready(o), close: service.close });
}

function wrapNodeHandler(handler: NodeHandler<IncomingMessage>): KoaHandler {
  const middleware = async (context: KoaContext, next: () => Promise<unknown>): Promise<void> => {
    const { req, res } = context;
    let passedOn = false;
    context.respond = false;
    const ended = responseEnd(res);
    handler(Object.assign(req, { originalUrl: context.originalUrl }), res, () => {
      passedOn = true;
    });
    if (!passedOn) return ended;
    context.respond = true;
    await next();
  };
  return Object.assign(middleware, {
    ready: (o?: ReadyOptions) => handler.ready(o),
    close: (o?: Parameters<NodeHandler["close"]>[0]) => handler.close(o),
  });
}

/** Middleware in front of this one measures and logs when this resolves. */
function responseEnd(response: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    response.once("close", () => resolve());
  });
}
