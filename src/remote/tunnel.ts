import { request as plainRequest } from "node:http";
import { request as secureRequest } from "node:https";
import type { Socket } from "node:net";
import { basicAuthorization } from "./credentials.js";
import type { Target } from "./proxies.js";

/**
 * A connection through a proxy, by CONNECT. It is not judged where it leads: the proxy resolves names, and decides.
 * @throws an error whose code says what went wrong, `ERR_PROXY_407` for a proxy that answers 407.
 */
export function openTunnel(proxy: URL, target: Target, timeout: number): Promise<Socket> {
  const isSecure = proxy.protocol === "https:";
  const host = target.hostname.includes(":") ? `[${target.hostname}]` : target.hostname;
  const authority = `${host}:${target.port || (target.protocol === "https:" ? 443 : 80)}`;
  return new Promise((resolve, reject) => {
    const request = (isSecure ? secureRequest : plainRequest)({
      method: "CONNECT",
      host: proxy.hostname.replace(/^\[(.*)\]$/, "$1"),
      port: proxy.port || (isSecure ? 443 : 80),
      path: authority,
      headers: { host: authority, ...authorizationFor(proxy) },
      // A tunnel is a connection of its own: nothing to keep for others.
      agent: false,
    });
    const timer = setTimeout(() => request.destroy(failure("UND_ERR_CONNECT_TIMEOUT")), timeout);
    const settle = (answer: () => void) => {
      clearTimeout(timer);
      answer();
    };
    request.once("connect", ({ statusCode }, socket: Socket, head) => {
      if (statusCode === 200) {
        if (head.byteLength > 0) socket.unshift(head);
        return settle(() => resolve(socket));
      }
      socket.on("error", () => {}).destroy();
      settle(() => reject(failure(`ERR_PROXY_${statusCode}`)));
    });
    request.once("error", (error) => settle(() => reject(error)));
    request.end();
  });
}

function authorizationFor({ username, password }: URL): { "proxy-authorization"?: string } {
  if (!username && !password) return {};
  return { "proxy-authorization": basicAuthorization(decodeURIComponent(username), decodeURIComponent(password)) };
}

function failure(code: string): Error {
  return Object.assign(new Error("the proxy gave no connection"), { code });
}
