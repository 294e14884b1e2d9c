import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { aggregate, type LocalRegistryOptions, localRegistry, mediaTypes, type Registry, remoteRegistry, type Storage } from "oci-manifold";
import { chunksOf, digestOf, type StoringRegistry } from "oci-manifold/extend";
import { type NodeHandlerOptions, nodeHandler } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import { afterAll, beforeAll, describe } from "vitest";
import { temporaryFolder } from "../../fixtures/temporary-folder.js";
import { Client } from "./client.js";

/** A registry behind a real socket. */
export interface Running {
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

export interface StartOptions {
  /** Manifests may refer to what is not there. */
  readonly sparse?: boolean;
  /** How much may be uploaded at a time. */
  readonly limits?: Pick<LocalRegistryOptions, "maxUploads" | "maxUploadBytes">;
  /** What is served instead of the registry: a view of it, or a table that holds it. */
  readonly wrap?: (registry: Registry) => Registry;
  /** Default: everybody may do everything. */
  readonly handler?: NodeHandlerOptions;
}

export interface Kind {
  readonly name: string;
  start(o?: StartOptions): Promise<Running>;
}

/** What only the connector of an aggregate has. */
export const connected = { repository: "connected/app", tag: "latest", layer: Buffer.from("a layer that only the connector has") };

async function serve(registry: Registry, handlerOptions: NodeHandlerOptions = { anonymousWrites: true }): Promise<Running> {
  const handler = nodeHandler(registry, handlerOptions);
  await handler.ready();
  const server = createServer(handler);
  server.requestTimeout = 0;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    async close() {
      server.closeAllConnections();
      server.close();
      await handler.close({ deadline: "1s" });
    },
  };
}

function local(storage: Storage, { sparse = false, limits }: StartOptions): StoringRegistry {
  return localRegistry({ storage, name: "conformance", sparse, ...limits });
}

/** An aggregate over an empty local registry and a connector that has something. */
async function aggregated(o: StartOptions): Promise<Registry> {
  const other = localRegistry({ storage: memoryStorage(), name: "other" });
  const { repository, tag, layer } = connected;
  const config = Buffer.from("{}");
  for (const bytes of [layer, config]) await other.putBlob(repository, { digest: digestOf(bytes) }, chunksOf(bytes));
  const manifest = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: { mediaType: "application/vnd.oci.empty.v1+json", digest: digestOf(config), size: config.length },
    layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest: digestOf(layer), size: layer.length }],
  };
  await other.putManifest(repository, tag, { bytes: Buffer.from(JSON.stringify(manifest)) });
  return aggregate({ local: local(memoryStorage(), o), connectors: [{ name: "other", source: other }] });
}

function kind(name: string, make: (o: StartOptions) => Registry | Promise<Registry>): Kind {
  return {
    name,
    async start(o = {}) {
      const registry = await make(o);
      return serve(o.wrap ? o.wrap(registry) : registry, o.handler);
    },
  };
}

const inMemory = kind("in memory", (o) => local(memoryStorage(), o));
const inFiles = kind("in files", (o) => local(fileStorage(temporaryFolder()), o));
const inAggregate = kind("aggregate", aggregated);
/** Server, client, server: what a client of ours asks of a server of ours has to come out the same. */
const throughRemote: Kind = {
  name: "through a remote",
  async start(o = {}) {
    const behind = await serve(await aggregated(o));
    const remote = remoteRegistry(behind.url, { readOnly: false });
    const front = await serve(o.wrap ? o.wrap(remote) : remote, o.handler);
    return {
      ...front,
      async close() {
        await front.close();
        await behind.close();
      },
    };
  },
};

export const kinds: readonly Kind[] = [inMemory, inFiles, inAggregate, throughRemote];
/** Those with a connector, which has {@link connected}. */
export const connectedKinds: readonly Kind[] = [inAggregate, throughRemote];

/** The same tests over each registry; `on` talks to a server that runs as long as they do. */
export function everywhere(tests: (on: Client, kind: Kind) => void, o: StartOptions & { kinds?: readonly Kind[] } = {}): void {
  describe.each(o.kinds ?? kinds)("$name", (kind) => {
    const on = new Client();
    let running: Running | undefined;
    beforeAll(async () => {
      running = await kind.start(o);
      on.connect(running);
    });
    afterAll(() => running?.close());
    tests(on, kind);
  });
}
