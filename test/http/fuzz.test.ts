import { test } from "vitest";
import { fuzzedTarget, targets } from "../fixtures/fuzz-targets.js";

test.each(targets)("whatever is sent to %s, it answers well or refuses, and stays well", async (_, make, serve) => {
  await fuzzedTarget(make, serve, 190);
});
