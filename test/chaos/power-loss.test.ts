import { randomInt } from "node:crypto";
import { join } from "node:path";
import { expect, test } from "vitest";
import { clientsOf } from "./client.js";
import { Ledger } from "./ledger.js";
import { LoopDisk, onLoopDisks } from "./loop-disk.js";
import { startNode } from "./node.js";
import { contentsOf } from "./orphans.js";

const losses = process.env.LONG ? 30 : 4;

onLoopDisks("power that is lost", () => {
  test(`${losses} times under load: what was acknowledged before is whole on the disk`, async () => {
    const disk = LoopDisk.create(512);
    const folder = join(disk.dir, "data");
    const node = await startNode({ folder });
    const ledger = new Ledger();
    const clients = clientsOf(ledger, 4);
    let checked = 0;
    for (let loss = 0; loss < losses; loss++) {
      for (const client of clients) client.stopped = false;
      const load = Promise.all(clients.map((client) => client.run(node.origin)));
      await Promise.race([load, new Promise((resolve) => setTimeout(resolve, 100 + randomInt(400)))]);
      // In one turn: nothing is acknowledged between the ledger's copy and the stop.
      const then = ledger.copy();
      process.kill(node.process.pid, "SIGSTOP");
      const copy = disk.afterPowerLoss();
      process.kill(node.process.pid, "SIGCONT");
      for (const client of clients) client.stopped = true;
      await load;
      const after = await startNode({ folder: join(copy.dir, "data") });
      await then.checkEverything(after.origin);
      await after.process.stop("SIGKILL");
      await contentsOf(join(copy.dir, "data"));
      checked += then.size;
      copy.remove();
    }
    await node.process.stop();
    expect(checked).toBeGreaterThan(losses);
    console.log(`${losses} power losses, ${checked} paths checked`);
  });
});
