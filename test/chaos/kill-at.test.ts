import { randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { freePort, temporaryFolder } from "../interop/processes.js";
import { isGone } from "./client.js";
import { Ledger } from "./ledger.js";
import { killNode, spawnNode, startNode } from "./node.js";
import { contentsOf } from "./orphans.js";
import { blobPath, manifestPath, mountBlob, pushBlob, pushManifest, remove, Upload } from "./pushes.js";
import { killedAt, withStrace } from "./strace.js";

/** System calls, and how many of each one thread is killed at, at most; one round makes fewer of some. */
const calls: readonly (readonly [string, number])[] = process.env.LONG
  ? [
      ["rename", 10],
      ["fsync,fdatasync", 80],
      ["pwrite64", 40],
      ["ftruncate", 10],
      ["mkdir", 20],
    ]
  : [
      ["rename", 2],
      ["fsync,fdatasync", 5],
    ];

/** An image, chunked and monolithic, tagged and mounted; then its tag moves, and some of it is deleted. */
async function round(ledger: Ledger, origin: string, uploads: Upload[]): Promise<void> {
  const [config, layer, whole] = [randomBytes(500), randomBytes(400_000), randomBytes(20_000)];
  const upload = new Upload(ledger, "app", layer);
  await upload.begin(origin);
  uploads.push(upload);
  for (let part = 0; part < 3; part++) await upload.send(origin, 100_000);
  await upload.send(origin, 100_000);
  await upload.finish(origin);
  await pushBlob(ledger, origin, "app", whole);
  await pushBlob(ledger, origin, "app", config);
  await pushManifest(ledger, origin, "app", "latest", [config, layer]);
  await pushManifest(ledger, origin, "app", "latest", [config, layer, whole]);
  await mountBlob(ledger, origin, "other", "app", upload.digest);
  await remove(ledger, origin, blobPath("app", upload.digest));
  const manifest = ledger.certain(manifestPath("app", "latest")) ?? "";
  await remove(ledger, origin, manifestPath("app", manifest), [manifestPath("app", "latest")]);
}

withStrace("killed", () => {
  for (const [call, times] of calls) {
    test(`at each ${call} of a push, up to the ${times}th: what was acknowledged is whole`, async () => {
      const place = { folder: await temporaryFolder(), port: await freePort() };
      const ledger = new Ledger();
      const uploads: Upload[] = [];
      let killed = 0;
      for (let n = 1; n <= times && killed === n - 1; n++) {
        // One thread for files beside the main one, which has the database: a call's number then means the same each time.
        const node = await spawnNode({ ...place, through: killedAt(call, n), env: { UV_THREADPOOL_SIZE: "1" } });
        await node.process.listening(place.port).then(
          () =>
            round(ledger, node.origin, uploads).catch(async (error: unknown) => {
              if (!isGone(error)) throw error;
              await node.process.exited;
            }),
          (error: unknown) => {
            if (!node.process.over) throw error;
          },
        );
        if (node.process.over) killed++;
        else await killNode(node);
        const again = await startNode(place);
        await ledger.check(again.origin);
        for (const upload of uploads.splice(0)) if (!upload.over) await upload.goOn(again.origin);
        await again.process.stop("SIGKILL");
      }
      const node = await startNode(place);
      await ledger.checkEverything(node.origin);
      await node.process.stop("SIGKILL");
      await contentsOf(place.folder);
      expect(killed).toBeGreaterThan(0);
      console.log(`killed at ${killed} ${call}`);
    });
  }
});
