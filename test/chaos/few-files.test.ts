import { randomBytes } from "node:crypto";
import { readdirSync } from "node:fs";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { withDigest } from "../interop/http.js";
import { run } from "../interop/processes.js";
import { requires } from "../interop/requires.js";
import { isGone } from "./client.js";
import { Ledger } from "./ledger.js";
import { startNode } from "./node.js";
import { blobPath, pushBlob } from "./pushes.js";

requires("prlimit")("a process with few descriptors", () => {
  test("answers 503 with Retry-After beyond them, loses nothing, and serves all when the load drops", async () => {
    const node = await startNode();
    const ledger = new Ledger();
    const blobs = Array.from({ length: 8 }, () => randomBytes(3_000_000));
    for (const bytes of blobs) await pushBlob(ledger, node.origin, "app", bytes);
    const { pid } = node.process;
    // Most connections first.
    const held = 60;
    const warm = await Promise.all(Array.from({ length: held }, () => fetch(`${node.origin}/v2/`)));
    await Promise.all(warm.map((response) => response.text()));
    await run("prlimit", [`--nofile=${readdirSync(`/proc/${pid}/fd`).length + 4}:`, "--pid", String(pid)]);

    const answers = new Map<number, number>();
    const count = (status: number) => answers.set(status, (answers.get(status) ?? 0) + 1);
    const one = async (index: number): Promise<void> => {
      const bytes = blobs[index % blobs.length] ?? new Uint8Array();
      const pushed = randomBytes(1_000_000);
      const url = index % 2 === 0 ? `${node.origin}${blobPath("app", digestOf(bytes))}` : `${node.origin}/v2/app/blobs/uploads/`;
      const asked = index % 2 === 0 ? fetch(url) : fetch(withDigest(url, digestOf(pushed)), { method: "POST", body: pushed });
      // A connection that cannot be accepted is closed by the system, and nobody can answer it.
      const response = await asked.catch((error: unknown) => {
        if (!isGone(error)) throw error;
      });
      if (!response) return;
      count(response.status);
      if (response.status === 503) expect(response.headers.get("retry-after")).not.toBeNull();
      else expect([200, 201]).toContain(response.status);
      const body = await response.arrayBuffer();
      if (response.status === 200) expect(digestOf(new Uint8Array(body))).toBe(digestOf(bytes));
      if (response.status === 201) await ledger.change({ [blobPath("app", digestOf(pushed))]: () => digestOf(pushed) }, async () => "done");
    };
    for (let wave = 0; wave < 5; wave++) await Promise.all(Array.from({ length: held }, (_, index) => one(index)));
    expect(answers.get(503)).toBeGreaterThan(0);
    expect(node.process.over).toBe(false);
    expect(node.process.output).toContain("too many files are open");

    // Connections that nobody uses hold descriptors until the server ends them.
    const served = () =>
      pushBlob(ledger, node.origin, "app", randomBytes(100_000)).then(
        () => true,
        () => false,
      );
    await node.process.until(served, "served again");
    await ledger.checkEverything(node.origin, 1);
  });
});
