import { test } from "vitest";
import { fuzzedTarget, targets } from "../fixtures/fuzz-targets.js";

// Two requests a connection on average: 200,000 in all.
test.each(targets)("25,000 conversations with %s", { timeout: 900_000 }, async (_, make, serve) => {
  await fuzzedTarget(make, serve, 25_000);
});
