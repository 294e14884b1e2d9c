import { expect } from "vitest";
import { generatedUpstream } from "../fixtures/generated-upstream.js";
import { expectResumed, stampede } from "../fixtures/stampede.js";
import { get } from "../interop/http.js";
import { startMainJob } from "../interop/main-job.js";
import { onLinux } from "../interop/requires.js";
import { growthDuring } from "./memory.js";
import { pushPatterned } from "./patterned.js";

const MiB = 1024 * 1024;
/** 50 readers, each with reads of 512 KiB under way and a socket that is full: measured, 193 MB for a layer of 100 MiB and 174 MB for one of 200. */
const mostGrowth = 250;

onLinux("50 clients of a cold layer of 200 MiB that is cut twice cost one transfer, and flat memory", async () => {
  const cuts = [50 * MiB + 1, 140 * MiB + 777];
  const upstream = await generatedUpstream({ mebibytes: 200, bytesPerSecond: 40 * MiB, cuts });
  const cache = await startMainJob({ upstream: upstream.url });
  for (let turn = 0; turn < 20; turn++) await get(`${cache.origin}/v2/`);
  await pushPatterned(cache.origin, "release/warm", 8, 0);
  const url = `${cache.origin}/v2/hub/app/blobs/${upstream.digest}`;
  const growth = await growthDuring(cache.process.pid, async () => {
    expect(await stampede(url, upstream, 50)).toBe(48);
  });
  expectResumed(upstream, cuts);
  console.log(`growth in MB: ${growth.toFixed()}; sent by the upstream: ${(upstream.sent / upstream.size).toFixed(3)} times the layer`);
  expect(growth).toBeLessThan(mostGrowth);
  upstream.close();
});
