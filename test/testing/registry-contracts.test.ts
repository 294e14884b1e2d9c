import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import {
  aggregate,
  cached,
  filtered,
  localRegistry,
  type Registry,
  readOnly,
  remoteRegistry,
  renamed,
  routes,
  type Storage,
  tagRules,
} from "oci-manifold";
import { type Config, fromConfig } from "oci-manifold/config";
import { observed } from "oci-manifold/extend";
import { prefixed } from "oci-manifold/names";
import { nodeHandler, tuneServer } from "oci-manifold/node";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";
import {
  partBlobStore,
  type RegistryCapabilities,
  type RegistryUnderTest,
  registryContract,
  transactionMetadataStore,
} from "oci-manifold/testing";
import { describe, test } from "vitest";
import { intercept } from "../../src/views/intercept.js";
import { temporaryFolder } from "../storage/temporary-folder.js";

const nothing = async () => {};
const local = (storage: Storage = memoryStorage()) => localRegistry({ storage, name: "local" });
/** A registry that needs nothing after its close. */
const alone = (make: () => Omit<RegistryUnderTest, "dispose">) => async () => ({ ...make(), dispose: nothing });
/** A registry in front of one that takes the content. */
const over = (wrap: (seed: Registry) => Registry) =>
  alone(() => {
    const seed = local();
    return { registry: wrap(seed), seed };
  });

describe("local registry: memory", () => {
  registryContract({ test, create: alone(() => ({ registry: local() })) });
});

describe("local registry: files", () => {
  const create = async () => {
    const folder = await temporaryFolder();
    return { registry: local(fileStorage(folder.path)), dispose: folder.remove };
  };
  registryContract({ test, create });
});

describe("local registry: parts and transactions", () => {
  const storage = () => ({ blobs: partBlobStore(), metadata: transactionMetadataStore() });
  registryContract({ test, create: alone(() => ({ registry: local(storage()) })) });
});

describe("local registry: sparse", () => {
  const sparse = () => localRegistry({ storage: memoryStorage(), name: "sparse", sparse: true });
  registryContract({ test, create: alone(() => ({ registry: sparse() })), capabilities: { sparse: true } });
});

describe("aggregate: its own content", () => {
  registryContract({ test, create: alone(() => ({ registry: aggregate({ local: local(), connectors: [] }) })) });
});

describe("aggregate: content behind a connector", () => {
  const create = over((source) => {
    const own = localRegistry({ storage: memoryStorage(), name: "outer" });
    return aggregate({ local: own, connectors: [{ name: "source", source }] });
  });
  registryContract({ test, create });
});

const reading: Partial<RegistryCapabilities> = { push: false, delete: false };

describe("cache", () => {
  const create = over((source) => cached(source, { storage: memoryStorage(), name: "cache" }));
  registryContract({ test, create, capabilities: { ...reading, live: false } });
});

describe("aggregate: content behind a cache", () => {
  const create = over((seed) => {
    const own = localRegistry({ storage: memoryStorage(), name: "outer" });
    const source = cached(seed, { storage: memoryStorage(), name: "cache" });
    return aggregate({ local: own, connectors: [{ name: "source", source }] });
  });
  registryContract({ test, create, capabilities: { live: false } });
});

describe("view: read-only", () => {
  registryContract({ test, create: over(readOnly), capabilities: reading });
});

describe("view: filtered", () => {
  registryContract({ test, create: over((seed) => filtered(seed, { allow: ["**"], block: ["hidden/**"] })) });
});

describe("view: renamed", () => {
  registryContract({ test, create: alone(() => ({ registry: renamed(local(), prefixed("team/")) })), prefix: "team/" });
});

describe("view: observed", () => {
  registryContract({ test, create: over((seed) => observed(seed, { emit: () => {} })) });
});

describe("view: tag rules", () => {
  registryContract({ test, create: over((seed) => tagRules(seed, { immutable: { tags: ["kept/**:*"] } })) });
});

describe("routes: below a name", () => {
  registryContract({ test, create: alone(() => ({ registry: routes({ team: local() }) })), prefix: "team/" });
});

describe("routes: the fallback", () => {
  const create = alone(() => {
    const other = localRegistry({ storage: memoryStorage(), name: "other" });
    return { registry: routes({ elsewhere: other }, { fallback: local() }) };
  });
  registryContract({ test, create });
});

describe("routes: a function", () => {
  const create = alone(() => {
    const registry = local();
    const names = async () => ({ items: ["team"] });
    return { registry: routes(async (name) => (name === "team" ? registry : undefined), { names }) };
  });
  registryContract({ test, create, prefix: "team/" });
});

describe("remote registry over HTTP", () => {
  const create = async () => {
    const handler = nodeHandler(local(), { anonymousWrites: true });
    const server = tuneServer(createServer(handler));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    const dispose = async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await handler.close();
    };
    return { registry: remoteRegistry(`http://127.0.0.1:${port}`, { readOnly: false }), dispose };
  };
  registryContract({ test, create, capabilities: { ranges: false } });
});

describe("composed from a configuration", () => {
  const create = async () => {
    const config: Config = {
      storages: { memory: { kind: "memory" } },
      registries: {
        own: { kind: "local", storage: "memory" },
        source: { kind: "local", storage: "memory" },
        all: { kind: "aggregate", local: "own", connectors: [{ name: "source", source: "source" }] },
        some: { kind: "filtered", source: "all", allow: ["**"] },
      },
      serve: "some",
    };
    const { registry, registries } = await fromConfig(config);
    const { source } = registries;
    return { registry, ...(source && { seed: source }), dispose: nothing };
  };
  registryContract({ test, create });
});

describe("cache of a registry with two names for a repository", () => {
  const create = alone(() => {
    const seed = libraryNames(local());
    return { registry: cached(seed, { storage: memoryStorage(), name: "cache" }), seed };
  });
  const capabilities = { ...reading, live: false };
  registryContract({ test, create, capabilities, alias: { name: "node", canonical: "library/node" } });
});

/** As Docker Hub has it: a name of one segment is one of `dockerLibrary`. */
function libraryNames(registry: Registry): Registry {
  const canonicalName = (name: string) => (/^[a-z0-9]+$/.test(name) ? `library/${name}` : name);
  return intercept(
    registry,
    ({ repository }) => canonicalName(repository),
    () => ({ canonicalName }),
  );
}
