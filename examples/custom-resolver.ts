/**
 * Two things of the host's own: a connector's source, and a resolver. The source gives images that are made when they are asked for; the resolver lets no image in
 * whose tag is not a version.
 */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { pathToFileURL } from "node:url";
import { aggregate, localRegistry, type ManifestResolver, type Registry, RegistryError } from "oci-manifold";
import { chunksOf, digestOf } from "oci-manifold/extend";
import { nodeHandler } from "oci-manifold/node";
import { firstFound } from "oci-manifold/resolvers";
import { fileStorage } from "oci-manifold/storage/files";
import { memoryStorage } from "oci-manifold/storage/memory";

/** By digest as ever; by tag only versions. */
const versionsOnly: ManifestResolver = {
  name: "versions only",
  async resolve(question, ask) {
    if (question.reference.includes(":") || /^\d+\.\d+/.test(question.reference)) return firstFound.resolve(question, ask);
    return { kind: "denied", error: new RegistryError("DENIED", `${question.reference} is no version: it may be another image tomorrow`) };
  },
};

/** A registry whose artifacts say what time it is. What it does not say itself, a local registry in memory does. */
function clockRegistry(): Registry {
  const made = localRegistry({ storage: memoryStorage(), name: "clock" });
  const make = async (repository: string, tag: string) => {
    if ((await made.resolveManifest(repository, tag)).kind === "found") return;
    const layer = Buffer.from(new Date().toISOString());
    const empty = Buffer.from("{}");
    for (const bytes of [layer, empty]) await made.putBlob(repository, { digest: digestOf(bytes) }, chunksOf(bytes));
    const described = (bytes: Buffer, mediaType: string) => ({ mediaType, digest: digestOf(bytes), size: bytes.byteLength });
    const manifest = {
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      artifactType: "application/vnd.example.time",
      config: described(empty, "application/vnd.oci.empty.v1+json"),
      layers: [described(layer, "text/plain")],
    };
    await made.putManifest(repository, tag, { bytes: Buffer.from(JSON.stringify(manifest)) });
  };
  return {
    ...made,
    async resolveManifest(repository, reference, o) {
      if (!reference.includes(":")) await make(repository, reference);
      return made.resolveManifest(repository, reference, o);
    },
    async getManifest(repository, reference, o) {
      if (!reference.includes(":")) await make(repository, reference);
      return made.getManifest(repository, reference, o);
    },
  };
}

export async function start(port: number, dir = "./data"): Promise<{ server: Server; close(): Promise<void> }> {
  const images = nodeHandler(
    aggregate({
      local: localRegistry({ storage: fileStorage(dir), name: "images" }),
      connectors: [{ name: "clock", source: clockRegistry(), allow: ["time"] }],
      resolver: versionsOnly,
    }),
    // Anybody who reaches this port may push: it listens on 127.0.0.1 only.
    { anonymousWrites: true },
  );
  await images.ready();
  const server = createServer(images).listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    server,
    async close() {
      server.close();
      await images.close({ deadline: "10s" });
      server.closeAllConnections();
    },
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const { close } = await start(Number(process.env.PORT ?? 5000));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, close);
}
