import { memoryMetadataStore } from "oci-manifold/storage/memory";
import { transactionMetadataStore } from "oci-manifold/testing";
import { expect, test } from "vitest";
import { runModel } from "./model.js";
import { runRaces } from "./races.js";

const first = Number(process.env.SEED ?? 1);
const stores = [
  ["memory", memoryMetadataStore],
  ["transactions", transactionMetadataStore],
] as const;

test.each(stores)(
  "over %s: days of clients, caches and collections: what was told to be there is there, and in the end only what is live",
  async (_, metadata) => {
    const rounds = Number(process.env.ROUNDS ?? 60);
    for (let seed = first; seed < first + rounds; seed++) await runModel(seed, metadata(), { clients: 5, steps: 10 });
    expect(rounds).toBeGreaterThan(0);
  },
  600_000,
);

test.each(stores)(
  "over %s: whoever comes to rely on what is being collected is told no, or has it",
  async (_, metadata) => {
    const rounds = Number(process.env.RACES ?? 60);
    for (let seed = first; seed < first + rounds; seed++) await runRaces(seed, metadata(), 10);
    expect(rounds).toBeGreaterThan(0);
  },
  600_000,
);
