import { test } from "vitest";
import { temporaryFolder } from "../interop/processes.js";
import { manyNodes } from "./many-nodes.js";

const [images, timeout] = process.env.LONG ? [200, 1_800_000] : [24, 300_000];

test(`three processes over one folder, two of them killed, take and give ${images} images and lose none`, { timeout }, async () => {
  const folder = await temporaryFolder();
  await manyNodes({ storage: { kind: "files", folder }, images, seesAtOnce: false });
});
