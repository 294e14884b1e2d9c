import { execFileSync, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { createServer as createTlsServer, type TLSSocket } from "node:tls";
import { onTestFinished } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";

export interface TestProxy {
  readonly url: string;
  /** What was asked for, as `host:port`, and with which Proxy-Authorization. */
  readonly asked: { readonly target: string; readonly authorization: string | undefined }[];
}

/** A proxy that takes CONNECT, and leads every host to 127.0.0.1: it is the proxy that resolves names. `status` refuses. */
export async function proxyFor(o: { port: number; status?: number }): Promise<TestProxy> {
  const asked: TestProxy["asked"] = [];
  const server = createServer((_, response) => response.writeHead(400).end());
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => sockets.add(socket));
  server.on("connect", (request, socket: Socket) => {
    asked.push({ target: request.url ?? "", authorization: request.headers["proxy-authorization"] });
    socket.on("error", () => {});
    if (o.status !== undefined) return socket.end(`HTTP/1.1 ${o.status} No\r\ncontent-length: 0\r\n\r\n`);
    const further = connect(o.port, "127.0.0.1", () => socket.write("HTTP/1.1 200 Connection established\r\n\r\n"));
    further.on("error", () => socket.destroy());
    sockets.add(further);
    socket.pipe(further).pipe(socket);
  });
  const url = `http://127.0.0.1:${await listening(server)}`;
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url, asked };
}

export const hasOpenssl = spawnSync("openssl", ["version"]).status === 0;

export interface TestCertificates {
  readonly ca: string;
  readonly server: { readonly cert: string; readonly key: string };
  readonly client: { readonly cert: string; readonly key: string };
}

/** An authority, what it says of `registry.test`, and of a client. */
export function makeCertificates(): TestCertificates {
  const folder = temporaryFolder();
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl("req", "-x509", ...newKey, "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=Manifold test CA");
  writeFileSync(join(folder, "names"), "subjectAltName=DNS:registry.test\n");
  for (const name of ["server", "client"]) {
    openssl("req", ...newKey, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}`);
    const signed = ["-req", "-in", `${name}.csr`, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"];
    openssl("x509", ...signed, "-extfile", "names", "-out", `${name}.pem`);
  }
  const text = (file: string) => readFileSync(join(folder, file), "utf8");
  const pair = (name: string) => ({ cert: text(`${name}.pem`), key: text(`${name}.key`) });
  return { ca: text("ca.pem"), server: pair("server"), client: pair("client") };
}

export interface TlsFront {
  readonly port: number;
  /** The names of the client certificates that were shown, one a connection. */
  readonly clients: (string | undefined)[];
}

/** TLS in front of a port. */
export async function tlsFor(port: number, { ca, server }: TestCertificates): Promise<TlsFront> {
  const clients: TlsFront["clients"] = [];
  const sockets = new Set<Socket>();
  const front = createTlsServer({ ...server, ca, requestCert: true, rejectUnauthorized: false }, (socket: TLSSocket) => {
    const { subject } = socket.getPeerCertificate();
    clients.push([subject?.CN].flat()[0]);
    const further = connect(port, "127.0.0.1");
    for (const one of [socket, further]) one.on("error", () => {}) && sockets.add(one);
    socket.pipe(further).pipe(socket);
  });
  front.on("tlsClientError", () => {});
  const listens = await listening(front);
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    front.close();
  });
  return { port: listens, clients };
}

async function listening(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}
