// Counts up in one record, by compare-and-set: node postgres-counter.mjs PORT SCHEMA TIMES
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { Pool } from "pg";

const [, , port, schema, times] = process.argv;
const pool = new Pool({ host: "127.0.0.1", port: Number(port), user: "postgres", database: "postgres" });
const metadata = postgresMetadata({ pool, schema });
const key = { kind: "lease", parts: ["counter"] };
for (let won = 0; won < Number(times); ) {
  const record = await metadata.get(key);
  const condition = record ? { key, is: "version", version: record.version } : { key, is: "absent" };
  if (await metadata.commit([condition], [{ put: key, value: { holder: "h", expiresAt: (record?.value.expiresAt ?? 0) + 1 } }])) won++;
}
await metadata.close();
await pool.end();
