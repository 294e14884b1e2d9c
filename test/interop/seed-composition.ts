import { existsSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { AggregateRegistry } from "oci-manifold";
import { type DockerRegistry, dockerRegistry, skopeo, skopeoCopy } from "./clients.js";
import { type Layout, type LayoutImage, type Sample, sampleLayout } from "./layouts.js";
import { atEnd, temporaryFolder } from "./processes.js";

const built = (file: string) => fileURLToPath(new URL(`../../${file}`, import.meta.url));

/** examples/aggregation.ts over two docker-registries, and what is stored in all of them. */
export interface Composition extends Sample {
  readonly host: string;
  readonly origin: string;
  readonly prerelease: AggregateRegistry;
  /** Stands for Docker Hub: anonymous, and without a catalog. Holds library/alpine, library/node and library/other. */
  readonly open: DockerRegistry;
  /** As the composition sees the open registry: a front that knows no catalog, and what it was asked, such as `GET /v2/library/node/manifests/22.1`. */
  readonly front: Front;
  /** Asks for a password. Holds team/app and team/secret. */
  readonly closed: DockerRegistry;
  readonly node: LayoutImage;
  readonly vendor: LayoutImage;
  readonly other: LayoutImage;
  /** For what is to be the content of one test only. */
  fresh(tag: string): Promise<LayoutImage>;
}

export interface Front {
  readonly url: string;
  readonly asked: readonly string[];
}

/** The library as the example sees it: another copy than that of the tests, which are run from the sources. */
export async function builtLibrary(): Promise<typeof import("oci-manifold") & typeof import("oci-manifold/maintenance")> {
  const [root, maintenance] = await Promise.all(
    ["dist/index.js", "dist/maintenance/index.js"].map((entry) => import(/* @vite-ignore */ pathToFileURL(built(entry)).href)),
  );
  return { ...root, ...maintenance };
}

export const vendorUser = "ann";
export const vendorPassword = "secret of this test";
const htpasswd = `${vendorUser}:$2y$05$abcdefghijklmnopqrstuuK68T2GZt7oNDqyUIhn5IHnKuQbnATx6`;

export async function startComposition(): Promise<Composition> {
  const example = built("examples/dist/aggregation.js");
  if (!existsSync(example)) throw new Error("the example is not built: npm run build && npm run build:examples");
  const [open, closed] = await Promise.all([dockerRegistry(), dockerRegistry({ htpasswd })]);
  const sample = await sampleLayout(await temporaryFolder());
  const { layout } = sample;
  const fresh = (tag: string) => layout.image(tag, [100_000, 2000, 30_000]);
  const [node, vendor, other] = [await fresh("node"), await fresh("vendor"), await fresh("other")];
  await pushAll(layout, open, closed);

  const front = await withoutCatalog(open.origin);
  Object.assign(process.env, {
    UPSTREAM: front.url,
    PRIVATE_UPSTREAM: closed.origin,
    PRIVATE_USER: vendorUser,
    PRIVATE_PASSWORD: vendorPassword,
  });
  const {
    start,
  }: { start(port: number, dir: string): Promise<{ server: Server; prerelease: AggregateRegistry; close(): Promise<void> }> } =
    await import(/* @vite-ignore */ pathToFileURL(example).href);
  const { server, prerelease, close } = await start(0, await temporaryFolder());
  atEnd(close);
  const host = `127.0.0.1:${portOf(server)}`;
  return { ...sample, host, origin: `http://${host}`, prerelease, open, front, closed, node, vendor, other, fresh };
}

async function pushAll(layout: Layout, open: DockerRegistry, closed: DockerRegistry): Promise<void> {
  const names = [
    ["index", "library/alpine:3.20"],
    ["node", "library/node:22.1"],
    ["other", "library/node:18.2"],
    ["other", "library/other:1"],
  ] as const;
  for (const [tag, name] of names) await skopeoCopy(layout.reference(tag), `docker://${open.host}/${name}`);
  const login = ["--dest-tls-verify=false", "--dest-creds", `${vendorUser}:${vendorPassword}`];
  for (const [tag, name] of [
    ["vendor", "team/app:1"],
    ["other", "team/secret:1"],
  ] as const)
    await skopeo("copy", "--all", "--quiet", "--preserve-digests", ...login, layout.reference(tag), `docker://${closed.host}/${name}`);
}

/** A front that passes everything on except the catalog, which it refuses as Docker Hub does. */
async function withoutCatalog(origin: string): Promise<Front> {
  const asked: string[] = [];
  const server = createServer(async (request, response) => {
    const { method = "GET", url: path = "/" } = request;
    asked.push(`${method} ${path}`);
    if (path.startsWith("/v2/_catalog")) return void response.writeHead(401).end();
    const { accept, range } = request.headers;
    try {
      const answer = await fetch(`${origin}${path}`, {
        method,
        headers: { ...(accept && { accept }), ...(range && { range }) },
      });
      response.writeHead(answer.status, Object.fromEntries(answer.headers));
      await pipeline(answer.body ?? [], response);
    } catch {
      if (!response.headersSent) response.writeHead(502);
      response.end();
    }
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  atEnd(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return { url: `http://127.0.0.1:${portOf(server)}`, asked };
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port;
}
