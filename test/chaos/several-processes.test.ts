import { spawnSync } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { startUpload, uploadUrl, withDigest } from "../interop/http.js";
import { temporaryFolder } from "../interop/processes.js";
import { clientsOf } from "./client.js";
import { Ledger } from "./ledger.js";
import { type ChaosNode, killNode, startNode } from "./node.js";
import { contentsOf } from "./orphans.js";
import { blobPath, pushBlob } from "./pushes.js";

/** As in containers: every process is number 1 of its own. */
const alone = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL"];
const through = spawnSync(alone[0] ?? "", [...alone.slice(1), "true"]).status === 0 ? alone : [];
const three = async (folder: string): Promise<ChaosNode[]> => {
  // The first creates the database beside the others.
  return Promise.all([0, 1, 2].map(() => startNode({ folder, through })));
};

/** Kills what `unshare` started: from outside it has another number than it knows. */
async function end(node: ChaosNode): Promise<void> {
  if (through.length === 0) await killNode(node);
  else await node.process.stop("SIGKILL");
}

test(`three processes on one folder${through.length > 0 ? ", each of them process 1" : ""}: uploads go from one to the other, and kill -9 of one is nothing to the others`, async () => {
  const folder = await temporaryFolder();
  const nodes = await three(folder);
  if (through.length > 0) for (const { process } of nodes) await process.until(() => process.output.includes("ready as 1\n"), "process 1");
  const ledger = new Ledger();
  const origin = (index: number) => nodes[index % 3]?.origin ?? "";

  // Each chunk to another.
  const layer = randomBytes(900_000);
  let upload = await startUpload(origin(0), "app");
  for (let part = 0; part < 9; part++) {
    const headers = { "content-range": `${part * 100_000}-${part * 100_000 + 99_999}` };
    const path = new URL(upload).pathname;
    const body = layer.subarray(part * 100_000, (part + 1) * 100_000);
    upload = uploadUrl(origin(part), await fetch(`${origin(part)}${path}`, { method: "PATCH", body, headers }), 202);
  }
  await ledger.change({ [blobPath("app", digestOf(layer))]: () => digestOf(layer) }, async () => {
    const closed = await fetch(withDigest(`${origin(1)}${new URL(upload).pathname}`, digestOf(layer)), { method: "PUT" });
    return closed.status === 201 ? "done" : "refused";
  });
  expect(ledger.certain(blobPath("app", digestOf(layer)))).toBe(digestOf(layer));

  // The same to all at once.
  const same = randomBytes(300_000);
  await Promise.all([0, 1, 2].map((index) => pushBlob(new Ledger(), origin(index), "app", same)));
  await ledger.change({ [blobPath("app", digestOf(same))]: () => digestOf(same) }, async () => "done");

  const clients = clientsOf(ledger, 3);
  let slowest = 0;
  for (let kill = 0; kill < (process.env.LONG ? 10 : 3); kill++) {
    const running = clients.map((client, index) => {
      client.stopped = false;
      return client.run(origin(index));
    });
    await new Promise((resolve) => setTimeout(resolve, randomInt(500)));
    const victim = randomInt(3);
    const dead = nodes[victim];
    if (!dead) throw new Error("no such node");
    await end(dead);
    const since = Date.now();
    nodes[victim] = await startNode({ folder, through });
    slowest = Math.max(slowest, Date.now() - since);
    // The others went on meanwhile.
    await pushBlob(ledger, origin(victim + 1), "app", randomBytes(10_000));
    for (const client of clients) client.stopped = true;
    await Promise.all(running);
    for (const { origin } of nodes) await ledger.checkEverything(origin);
  }
  for (const node of nodes) {
    expect(node.process.output).not.toContain("fault");
    await end(node);
  }
  await contentsOf(folder);
  console.log(`ready beside the others after ${slowest} ms at most`);
});
