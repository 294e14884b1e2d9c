import { type BlockList, isIP } from "node:net";
import { RegistryError } from "../core/errors.js";
import { addressList, isListed, kindOfAddress } from "./addresses.js";

/** Where a connection is to lead. */
export interface Target {
  readonly protocol: string;
  /** Without brackets. */
  readonly hostname: string;
  /** Absent: the scheme's. */
  readonly port?: string | undefined;
}

/** The proxy for a target, if there is one. */
export type ProxyChoice = (target: Target) => URL | undefined;

/**
 * Reads the option `proxy`.
 * @throws RegistryError UNKNOWN for what is no URL of a proxy. The message does not repeat it: it may hold a password.
 */
export function chooseProxy(option: string | false, environment: NodeJS.ProcessEnv = process.env): ProxyChoice {
  if (option === false) return () => undefined;
  if (option === "environment") return fromEnvironment(environment);
  const proxy = readProxy(option, "the option proxy");
  return () => proxy;
}

/**
 * As Go's clients read it, docker among them: each scheme has its own variable, `NO_PROXY` holds names with their subdomains, addresses and
 * blocks, each with or without a port, and this machine is never asked for through a proxy.
 */
function fromEnvironment(environment: NodeJS.ProcessEnv): ProxyChoice {
  const read = (name: string) => {
    const text = environment[name.toLowerCase()] || environment[name];
    return text ? readProxy(text, name) : undefined;
  };
  const proxies = new Map([
    ["http:", read("HTTP_PROXY")],
    ["https:", read("HTTPS_PROXY")],
  ]);
  const exceptions = (environment.no_proxy || environment.NO_PROXY || "")
    .split(/[\s,]+/)
    .filter(Boolean)
    .map(readException);
  return (target) => {
    const { hostname, protocol } = target;
    const isHere = hostname === "localhost" || (isIP(hostname) !== 0 && kindOfAddress(hostname) === "loopback");
    return isHere || exceptions.some((exempts) => exempts(target)) ? undefined : proxies.get(protocol);
  };
}

function readException(entry: string): (target: Target) => boolean {
  if (entry === "*") return () => true;
  const bare = entry.replace(/^\[(.*)\]$/, "$1");
  const [, host = bare, port] = (isIP(bare) === 6 ? undefined : /^\[?(.+?)\]?:(\d+)$/.exec(entry)) ?? [];
  const isPort = (target: Target) => port === undefined || port === (target.port || (target.protocol === "https:" ? "443" : "80"));
  const block = readBlock(host);
  if (block) return (target) => isIP(target.hostname) !== 0 && isListed(block, target.hostname) && isPort(target);
  const name = host.toLowerCase().replace(/^\*\./, ".");
  // With a dot in front only what is below it.
  const [exact, below] = name.startsWith(".") ? [undefined, name] : [name, `.${name}`];
  return (target) => (target.hostname === exact || target.hostname.endsWith(below)) && isPort(target);
}

function readBlock(text: string): BlockList | undefined {
  try {
    return addressList([text]);
  } catch {
    return undefined;
  }
}

function readProxy(text: string, where: string): URL {
  const whole = text.includes("://") ? text : `http://${text}`;
  const url = URL.canParse(whole) ? new URL(whole) : undefined;
  if (!url || (url.protocol !== "http:" && url.protocol !== "https:") || !url.hostname) {
    throw new RegistryError("UNKNOWN", `${where} must be the URL of an HTTP proxy, such as "http://proxy.example:3128"`);
  }
  return url;
}
