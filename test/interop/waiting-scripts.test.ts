import { expect, test } from "vitest";
import { freePort, RunningProcess } from "./processes.js";

const scripts = {
  "a database that is away": (port: number) => `
    import pg from "pg";
    import { postgresMetadata } from "oci-manifold/storage/postgres";
    const metadata = postgresMetadata({ pool: new pg.Pool({ host: "127.0.0.1", port: ${port} }) });
    await metadata.ready().catch(({ code }) => console.log("told", code));
  `,
  "a registry that is away": (port: number) => `
    import { remoteRegistry } from "oci-manifold";
    const remote = remoteRegistry("http://127.0.0.1:${port}");
    const { kind, error } = await remote.resolveManifest("app", "latest");
    console.log("told", error?.code ?? kind);
    await remote.close();
  `,
  "an object store that breaks off": () => `
    import * as sdk from "@aws-sdk/client-s3";
    import { s3BlobStore } from "oci-manifold/storage/s3";
    async function* cut() {
      yield new Uint8Array(1);
      throw Object.assign(new Error("socket hang up"), { code: "ECONNRESET" });
    }
    const client = { send: async () => ({ Body: cut(), ETag: "a", ContentLength: 9 }) };
    const read = s3BlobStore({ client, sdk, bucket: "images" }).read("blobs/" + "a".repeat(32) + "." + "b".repeat(16));
    read.on("data", () => {});
    await new Promise((ended) => read.once("error", ended));
    console.log("told UNAVAILABLE");
  `,
};

// With nothing else to do, Node ends a process that only waits for a timer that does not keep it alive: with code 13, and without a word.
test.each(Object.entries(scripts))("a script does not end in the middle while it waits for %s", async (_, script) => {
  const process = new RunningProcess("node", ["--input-type=module", "-e", script(await freePort())]);
  expect([await process.exited, process.output]).toEqual([0, expect.stringContaining("told UNAVAILABLE")]);
});
