import { cp, readFile } from "node:fs/promises";
import { localRegistry } from "oci-manifold";
import { fileBlobStore } from "oci-manifold/storage/files";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { expect, test } from "vitest";
import { currentFormat, formats } from "../../src/storage/sql/formats.js";
import { formatFolder, pullEverything, storedFormats } from "../fixtures/formats.js";
import { pushImage } from "../fixtures/images.js";
import { startPostgres } from "./postgres.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

// PostgreSQL came with format 3.
const versions = storedFormats.filter((version) => version >= 3);

requires("initdb", "postgres")("PostgreSQL", () => {
  test.each(versions)("gives what format %i left byte for byte, before and after a restart, and takes pushes", async (version) => {
    const server = await startPostgres();
    const folder = await temporaryFolder();
    await cp(formatFolder(version), folder, { recursive: true });
    const dump = await readFile(`${folder}/postgres.sql`, "utf8");
    // Settings of the session that pg_dump begins with, and words to psql.
    await server.pool().query(dump.replace(/^(?:SET|SELECT pg_catalog\.set_config|\\).*$/gm, ""));
    for (let start = 0; start < 2; start++) {
      const storage = { blobs: fileBlobStore(folder), metadata: postgresMetadata({ pool: server.pool() }) };
      await pullEverything(version, storage);
      await pushImage(localRegistry({ storage, name: "release" }), "team/new", `${start}`);
      await Promise.all([storage.metadata.close(), storage.blobs.close()]);
    }
    const { rows } = await server.pool().query("SELECT version::int FROM oci_manifold.format");
    expect(rows).toEqual([{ version: currentFormat(formats).version }]);
  });
});
