import { localRegistry } from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { test } from "vitest";
import { askHostileNames, pushReservedNames } from "../chaos/hostile-names.js";
import { site } from "../http/support.js";
import { newSchema, startPostgres } from "./postgres.js";
import { requires } from "./requires.js";

requires("initdb", "postgres")("names and texts of clients over PostgreSQL", () => {
  test("do not collide, are no SQL, and come back as they were", async () => {
    const server = await startPostgres();
    const metadata = postgresMetadata({ pool: server.pool(), schema: newSchema() });
    const { url, registry } = await site(localRegistry({ storage: { ...memoryStorage(), metadata }, name: "release" }));
    await pushReservedNames(url);
    await askHostileNames(url);
    await registry.close();
  });
});
