import { open } from "node:fs/promises";
import { join } from "node:path";
import { aggregate, localRegistry } from "oci-manifold";
import { parseDigest, type StoringRegistry } from "oci-manifold/extend";
import { scrub } from "oci-manifold/maintenance";
import { fileStorage } from "oci-manifold/storage/files";
import { expect } from "vitest";
import { recordKey } from "../../src/core/records.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { onLinux } from "../interop/requires.js";
import { growthDuring } from "./memory.js";
import { patterned, patternedDigest } from "./patterned.js";

const MiB = 1024 * 1024;
/** Some buffers of 512 KiB, and what the collector has not taken yet. */
const mostGrowth = 150;

async function push(registry: StoringRegistry, mebibytes: number, salt: number): Promise<string> {
  const digest = patternedDigest(mebibytes, salt);
  const source = (async function* () {
    yield* patterned(mebibytes, salt);
  })();
  await registry.putBlob("app", { digest, size: mebibytes * MiB }, source);
  return digest;
}

onLinux("a blob of 512 MiB is read twice, quarantined and healed with flat memory", async () => {
  const folder = temporaryFolder();
  const storage = fileStorage(folder);
  const local = localRegistry({ storage, name: "release" });
  const hub = localRegistry({ storage: fileStorage(temporaryFolder()), name: "hub" });
  const all = aggregate({ local, connectors: [{ name: "hub", source: hub }] });
  await all.ready();
  const digest = await push(hub, 512, 1);
  await push(local, 512, 1);
  await push(local, 8, 2);
  await scrub(storage, { rate: "1TiB" });

  const record = await storage.metadata.get(recordKey.blob(parseDigest(digest)));
  const file = await open(join(folder, record?.value.location ?? ""), "r+");
  await file.write(Buffer.from("other"), 0, 5, 500 * MiB);
  await file.close();
  const growth = await growthDuring(process.pid, async () => {
    const report = await scrub(storage, { rate: "1TiB", heal: [all] });
    expect(report).toMatchObject({ checked: 2, corrupt: [{ digest }], healed: 1, bytes: (512 * 2 + 8) * MiB, received: 512 * MiB });
  });
  console.log(`growth in MB: ${growth.toFixed()}`);
  expect(growth).toBeLessThan(mostGrowth);
  expect(await scrub(storage, { rate: "1TiB" })).toMatchObject({ checked: 2, corrupt: [], bytes: 520 * MiB });
  await all.close();
});
