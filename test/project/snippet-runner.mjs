// Runs one compiled snippet: node snippet-runner.mjs <file>. A snippet passes when its module evaluates to the end; then the process ends.
// Ports are free ones of 127.0.0.1, and no name but the machine's own is looked up.
import dns from "node:dns";
import { syncBuiltinESMExports } from "node:module";
import net from "node:net";
import { pathToFileURL } from "node:url";

const { listen } = net.Server.prototype;
net.Server.prototype.listen = function onFreePort(...args) {
  const callback = args.find((argument) => typeof argument === "function");
  return listen.call(this, { port: 0, host: "127.0.0.1" }, ...(callback ? [callback] : []));
};

const { lookup } = dns;
dns.lookup = (host, ...rest) => {
  if (host === "localhost" || net.isIP(host)) return lookup(host, ...rest);
  const callback = rest.at(-1);
  return process.nextTick(callback, Object.assign(new Error(`a snippet asked for ${host}`), { code: "ENOTFOUND" }));
};
syncBuiltinESMExports();

const [, , file] = process.argv;
await import(pathToFileURL(file).href);
// Callbacks of what the snippet started, such as a server's, get their turn. Cases given to node:test run when the module is done: they end by themselves.
if (!process.env.SNIPPET_HAS_TESTS) setTimeout(() => process.exit(), 100);
