import { once } from "node:events";
import { createServer, type RequestListener, type Server, type ServerOptions } from "node:http";
import { connect as connectHttp2, createServer as createHttp2Server } from "node:http2";
import { createServer as createSecureServer } from "node:https";
import { type AddressInfo, connect } from "node:net";
import { connect as connectTls } from "node:tls";
import { digestOf } from "oci-manifold/extend";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { expect, onTestFinished, test, vi } from "vitest";
import { emptyRegistry, listening, raw } from "./support.js";

interface Listening {
  listen(port: number, host: string): unknown;
  address(): ReturnType<Server["address"]>;
  close(): unknown;
}

async function portOf(server: Listening & NodeJS.EventEmitter): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  return (server.address() as AddressInfo).port;
}

function tuned(listener: RequestListener, o: ServerOptions = {}): Promise<number> {
  return portOf(tuneServer(createServer(o, listener)));
}

const images = () => nodeHandler(emptyRegistry(), { anonymousWrites: true });
const post = (size: number, more: string) =>
  `POST /v2/app/blobs/uploads/?digest=${digestOf(Buffer.alloc(size, "a"))} HTTP/1.1\r\nHost: x\r\nContent-Length: ${size}\r\n${more}\r\n`;

/** What a registry's clients understand. */
function expectRefusal(text: string, status: number, code: string): void {
  const [head = "", body = ""] = text.split("\r\n\r\n", 2);
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `));
  expect(head).toMatch(/\r\nDocker-Distribution-API-Version: registry\/2.0(\r\n|$)/);
  expect(head).toMatch(/\r\nContent-Type: application\/json(\r\n|$)/);
  expect(head).toMatch(/\r\nConnection: close(\r\n|$)/);
  expect(head).toContain(`\r\nContent-Length: ${body.length}`);
  expect(JSON.parse(body)).toMatchObject({ errors: [{ code, message: expect.any(String) }] });
}

test("limits that suit a registry; twice is once", () => {
  const server = createServer();
  const { headersTimeout, requestTimeout } = server;
  server.timeout = 1000;
  expect(tuneServer(tuneServer(server))).toBe(server);
  expect(server).toMatchObject({ requestTimeout, timeout: 0, headersTimeout, keepAliveTimeout: 75_000 });
  for (const event of ["clientError", "checkContinue", "checkExpectation"]) expect(server.listenerCount(event)).toBe(1);
  const longer = createServer();
  longer.keepAliveTimeout = 300_000;
  expect(tuneServer(longer).keepAliveTimeout).toBe(300_000);
  const off = createServer();
  off.keepAliveTimeout = 0;
  expect(tuneServer(off).keepAliveTimeout).toBe(0);
});

test("listeners of the host's are left alone", () => {
  const server = createServer();
  const own = () => {};
  for (const event of ["clientError", "checkContinue", "checkExpectation"]) server.on(event, own);
  tuneServer(server);
  for (const event of ["clientError", "checkContinue", "checkExpectation"]) expect(server.listeners(event)).toEqual([own]);
});

test.each([
  ["what is no HTTP", "NONSENSE\r\n\r\n", 400, "UNSUPPORTED"],
  ["a broken body", "PUT /v2/app/manifests/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "UNSUPPORTED"],
  ["too large a header", `GET /v2/ HTTP/1.1\r\nHost: x\r\nX-A: ${"a".repeat(40_000)}\r\n\r\n`, 431, "UNSUPPORTED"],
  ["an unknown expectation", "GET /v2/ HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\n\r\n", 417, "UNSUPPORTED"],
])("%s is refused in the registry's words", async (_, text, status, code) => {
  expectRefusal(await raw(await tuned(images()), text), status, code);
});

test("a header that does not come is 408", async () => {
  const port = await tuned(images(), { headersTimeout: 50, connectionsCheckingInterval: 20 });
  const socket = connect(port, "127.0.0.1", () => socket.write("GET /v2/ HTTP/1.1\r\n"));
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  await once(socket, "close");
  expectRefusal(text, 408, "UNAVAILABLE");
});

test.each([false, true])(
  "requestTimeout ends slow bodies of other routes, not those of pushes (host has its own clientError: %s)",
  async (own) => {
    const registry = images();
    const server = createServer({ requestTimeout: 300, headersTimeout: 300, connectionsCheckingInterval: 50 }, (request, response) =>
      registry(request, response, () => void request.resume().on("end", () => response.end("read"))),
    );
    let told = 0;
    if (own)
      server.on("clientError", (_, socket) => {
        told++;
        socket.destroy();
      });
    const port = await portOf(tuneServer(server));
    const texts = ["", "", ""];
    const open = (index: number, head: string) => {
      const socket = connect(port, "127.0.0.1", () => socket.write(head));
      socket.on("error", () => {});
      socket.on("data", (chunk: Buffer) => {
        texts[index] = `${texts[index]}${chunk}`;
      });
      return socket;
    };
    // The last one was in the host's hands before: a connection is not for ever what it was once.
    const push = open(0, `${post(10, "Connection: close\r\n")}aaaaa`);
    const other = open(1, "PUT /other HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\naaaaa");
    const both = open(2, `${post(10, "")}aaaaaaaaaaPUT /other HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\naaaaa`);
    await Promise.all([once(other, "close"), once(both, "close")]);
    if (own) expect(told).toBe(2);
    else expectRefusal(texts[1] ?? "", 408, "UNAVAILABLE");
    expect(texts[2]).toMatch(/^HTTP\/1\.1 201 /);
    // Several looks at the connections later.
    await new Promise((resolve) => setTimeout(resolve, 200));
    push.write("aaaaa");
    await once(push, "close");
    expect(texts[0]).toMatch(/^HTTP\/1\.1 201 /);
  },
);

test("a server reads no more from a connection on which many requests of other routes wait", async () => {
  let seen = 0;
  const waiting: (() => void)[] = [];
  const port = await tuned((_request, response) => {
    seen++;
    waiting.push(() => response.end());
  });
  const one = `GET /${"x".repeat(2000)} HTTP/1.1\r\nHost: x\r\n\r\n`;
  const socket = connect(port, "127.0.0.1", () => socket.write(one.repeat(2000)));
  socket.on("error", () => {});
  await vi.waitFor(() => expect(seen).toBeGreaterThan(100));
  // Another connection is read: by then this one would have been, too.
  const before = seen;
  const other = connect(port, "127.0.0.1", () => other.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
  await vi.waitFor(() => expect(seen).toBe(before + 1));
  other.destroy();
  expect(seen).toBeLessThan(200);
  socket.destroy();
  for (const end of waiting) end();
});

test("where a response is on its way, nothing is written into it", async () => {
  const port = await tuned((_request, response) => void response.writeHead(200, { "Content-Length": 100 }).write("begun"));
  const socket = connect(port, "127.0.0.1", () => socket.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
  let text = "";
  socket.on("data", (chunk: Buffer) => {
    text += chunk;
    if (text.endsWith("begun")) socket.write("NONSENSE\r\n\r\n");
  });
  socket.on("error", () => {});
  await once(socket, "close");
  expect(text.endsWith("begun")).toBe(true);
});

test("a push gets 100 Continue when its body is read, and not when it is refused", async () => {
  const expects = "Expect: 100-continue\r\nConnection: close\r\n";
  const refused = await raw(await tuned(nodeHandler(emptyRegistry())), post(100_000_000, expects));
  expect(refused).toMatch(/^HTTP\/1\.1 401 /);
  expect(refused).toMatch(/\r\nConnection: close\r\n/);
  expect(refused).not.toContain("100 Continue");

  const socket = connect(await tuned(images()), "127.0.0.1", () => socket.write(post(10, expects)));
  let text = "";
  socket.on("data", (chunk) => {
    if (text === "") socket.write("a".repeat(10));
    text += chunk;
  });
  await once(socket, "close");
  expect(text.match(/^HTTP\/1\.1 .*$/gm)?.map((line) => line.trim())).toEqual(["HTTP/1.1 100 Continue", "HTTP/1.1 201 Created"]);
});

test("the host's other routes get their bodies too", async () => {
  const port = await tuned(async (request, response) => {
    let text = "";
    for await (const chunk of request) text += chunk;
    response.end(text.toUpperCase());
  });
  const socket = connect(port, "127.0.0.1", () =>
    socket.write("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"),
  );
  let text = "";
  socket.on("data", (chunk) => {
    if (text === "") socket.write("hello");
    text += chunk;
  });
  await once(socket, "close");
  expect(text).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK[\s\S]*HELLO$/);
});

test("https: malformed requests are answered, broken handshakes end", async () => {
  // A shared key in place of a certificate, which nobody here could make.
  const psk = Buffer.alloc(32, 1);
  const ciphers = { ciphers: "PSK", maxVersion: "TLSv1.2" } as const;
  const port = await portOf(tuneServer(createSecureServer({ ...ciphers, pskCallback: () => psk, pskIdentityHint: "x" }, images())));
  const socket = connectTls({
    ...ciphers,
    host: "127.0.0.1",
    port,
    pskCallback: () => ({ identity: "x", psk }),
    checkServerIdentity: () => undefined,
  });
  socket.write("NONSENSE\r\n\r\n");
  let text = "";
  socket.on("data", (chunk) => {
    text += chunk;
  });
  await once(socket, "close");
  expectRefusal(text, 400, "UNSUPPORTED");
  expect(await raw(port, "GET / HTTP/1.1\r\n\r\n")).not.toContain("HTTP/1.1");
});

test("http2: continue is deferred, other expectations are refused", async () => {
  const port = await portOf(
    tuneServer(createHttp2Server(nodeHandler(emptyRegistry(), { authorize: ({ repository }) => repository === "app" }))),
  );
  const client = connectHttp2(`http://127.0.0.1:${port}`);
  onTestFinished(() => client.destroy());
  const digest = digestOf(Buffer.from("hello"));
  const push = async (repository: string, expectation: string) => {
    const stream = client.request({ ":method": "POST", ":path": `/v2/${repository}/blobs/uploads/?digest=${digest}`, expect: expectation });
    let continued = false;
    stream.once("continue", () => {
      continued = true;
      stream.end("hello");
    });
    stream.on("error", () => {});
    const [headers] = await once(stream, "response");
    let text = "";
    for await (const chunk of stream) text += chunk;
    if (!continued) stream.destroy();
    return { status: headers[":status"], continued, text };
  };
  expect(await push("app", "100-continue")).toMatchObject({ status: 201, continued: true });
  expect(await push("other", "100-continue")).toMatchObject({ status: 401, continued: false });
  expect(await push("app", "miracles")).toMatchObject({ status: 417, text: expect.stringContaining("UNSUPPORTED") });
});

test("a push to a server that is not tuned warns once; a pull does not", async () => {
  const warnings: string[] = [];
  const listener = (warning: Error) => warnings.push(warning.message);
  process.on("warning", listener);
  onTestFinished(() => void process.off("warning", listener));
  const port = await portOf(createServer(images()));
  const url = `http://127.0.0.1:${port}`;
  await fetch(`${url}/v2/`);
  await new Promise((resolve) => setImmediate(resolve));
  expect(warnings).toEqual([]);
  for (let i = 0; i < 2; i++) await fetch(`${url}/v2/app/manifests/a`, { method: "PUT", body: "{}" });
  await vi.waitFor(() => expect(warnings).toEqual([expect.stringContaining("tuneServer()")]));
  const good = await listening(images());
  await fetch(`${good.url}/v2/app/manifests/a`, { method: "PUT", body: "{}" });
  await new Promise((resolve) => setImmediate(resolve));
  expect(warnings.length).toBe(1);
});

test("a request may have 30 KiB of headers, not 40; the host's own limit stays", async () => {
  const ask = async (port: number, size: number) =>
    raw(port, `GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${"t".repeat(size * 1024)}\r\nConnection: close\r\n\r\n`);
  const port = await tuned(images());
  expect(await ask(port, 30)).toMatch(/^HTTP\/1.1 200 /);
  expect(await ask(port, 40)).toMatch(/^HTTP\/1.1 431 /);
  expect(await ask(await tuned(images(), { maxHeaderSize: 8192 }), 10)).toMatch(/^HTTP\/1.1 431 /);
});
