import { memoryMetadataStore } from "oci-manifold/storage/memory";
import { transactionMetadataStore } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { runModel } from "../maintenance/collect-garbage/model.js";
import { runRaces } from "../maintenance/collect-garbage/races.js";

const rounds = Number(process.env.ROUNDS ?? 250);

test.each([
  ["memory", memoryMetadataStore],
  ["transactions", transactionMetadataStore],
] as const)(
  "over %s: collections beside everything else, other seeds than in the short run, for longer",
  async (_, metadata) => {
    const first = 1_000_000 + Math.floor(Math.random() * 1_000_000_000);
    for (let seed = first; seed < first + rounds; seed++) {
      await runModel(seed, metadata(), { clients: 8, steps: 15 });
      await runRaces(seed, metadata(), 10);
    }
    expect(rounds).toBeGreaterThan(0);
  },
  1_800_000,
);
