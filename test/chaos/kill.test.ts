import { randomInt } from "node:crypto";
import { expect, test } from "vitest";
import { freePort, temporaryFolder } from "../interop/processes.js";
import { clientsOf } from "./client.js";
import { Ledger } from "./ledger.js";
import { spawnNode, startNode } from "./node.js";
import { contentsOf } from "./orphans.js";

const kills = process.env.LONG ? 200 : 12;
const day = 24 * 60 * 60 * 1000;
const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

test(`killed ${kills} times under load: what was acknowledged is whole, and leftovers of uploads are swept`, {
  timeout: 900_000,
}, async () => {
  const place = { folder: await temporaryFolder(), port: await freePort() };
  const ledger = new Ledger();
  const clients = clientsOf(ledger, 4);
  let slowest = 0;
  for (let kill = 0; kill < kills; kill++) {
    const spawned = Date.now();
    const node = await spawnNode(place);
    // Now and then within its start, when it opens the database and recovers its log.
    if (kill % 4 === 3) {
      await pause(randomInt(300));
      await node.process.stop("SIGKILL");
      continue;
    }
    await node.process.listening(place.port);
    slowest = Math.max(slowest, Date.now() - spawned);
    await ledger.check(node.origin);
    const load = Promise.all(clients.map((client) => client.run(node.origin)));
    await Promise.race([load, pause(randomInt(400))]);
    await node.process.stop("SIGKILL");
    await load;
    expect(node.process.output).not.toContain("fault");
  }

  const node = await startNode(place);
  await ledger.checkEverything(node.origin);
  const unfinished = clients.reduce((sum, { unfinished }) => sum + unfinished.size, 0);
  await node.process.stop();
  // Once they have expired.
  await (await startNode({ ...place, ahead: 2 * day })).process.stop();
  const { staged, sessions, blobs, unrecorded } = await contentsOf(place.folder);
  const known = new Set(clients.flatMap(({ uploads }) => uploads));
  expect([sessions, staged.filter((id) => known.has(id))]).toEqual([0, []]);

  const acknowledged = clients.reduce((sum, client) => sum + client.acknowledged, 0);
  expect(acknowledged).toBeGreaterThan(kills);
  console.log(
    `${kills} kills, ${acknowledged} requests acknowledged, ${ledger.size} paths and ${blobs} blobs checked, slowest start ${slowest} ms, ` +
      `${unfinished} uploads left unfinished, ${unrecorded} files and ${staged.length} stages without a record`,
  );
});
