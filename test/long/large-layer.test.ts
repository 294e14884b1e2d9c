import { beforeAll, describe, expect } from "vitest";
import { get } from "../interop/http.js";
import { type MainJob, requestsIn, startMainJob, untilCached } from "../interop/main-job.js";
import { onLinux } from "../interop/requires.js";
import { growthDuring } from "./memory.js";
import { pushImageOf, pushPatterned } from "./patterned.js";

const MiB = 1024 * 1024;
const mostGrowth = 150;
const repository = "release/large/app";

/** Not before it answers its first requests is a process idle: until then its code is still being loaded. */
async function warm(job: MainJob): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await get(`${job.origin}/v2/`);
  await pushPatterned(job.origin, "release/warm", 8, 0);
  await new Promise((resolve) => setTimeout(resolve, 1000));
}

describe("a large layer", () => {
  let upstream: MainJob;

  beforeAll(async () => {
    upstream = await startMainJob();
    await warm(upstream);
  });

  onLinux("of 1 GiB is pushed, pulled, and pulled through a cache with flat memory", async () => {
    let digest = "";
    const pushing = await growthDuring(upstream.process.pid, async () => {
      digest = await pushPatterned(upstream.origin, repository, 1024, 1);
      await pushImageOf(upstream.origin, repository, { digest, size: 1024 * MiB });
    });
    expect(pushing).toBeLessThan(mostGrowth);

    const pulling = await growthDuring(upstream.process.pid, async () => {
      const pulled = await get(`${upstream.origin}/v2/prerelease/large/app/blobs/${digest}`);
      expect(pulled).toMatchObject({ status: 200, bodyDigest: digest });
    });
    expect(pulling).toBeLessThan(mostGrowth);

    const cache = await startMainJob({ upstream: upstream.origin });
    await warm(cache);
    const path = `/v2/hub/${repository}`;
    const filling = await growthDuring(cache.process.pid, async () => {
      expect(await get(`${cache.origin}${path}/manifests/1`)).toMatchObject({ status: 200 });
      expect(await get(`${cache.origin}${path}/blobs/${digest}`)).toMatchObject({ status: 200, bodyDigest: digest });
    });
    await untilCached(cache, `hub/${repository}`, [digest]);
    await upstream.process.stop();
    const serving = await growthDuring(cache.process.pid, async () => {
      expect(await get(`${cache.origin}${path}/blobs/${digest}`)).toMatchObject({ status: 200, bodyDigest: digest });
    });
    console.log(
      `growth in MB: push ${pushing.toFixed()}, pull ${pulling.toFixed()}, cold ${filling.toFixed()}, cached ${serving.toFixed()}`,
    );
    expect(filling).toBeLessThan(mostGrowth);
    expect(serving).toBeLessThan(mostGrowth);
  });
});

describe("a cold cache", () => {
  onLinux("asks upstream once for a layer that 20 clients pull at a time", async () => {
    const upstream = await startMainJob();
    const cache = await startMainJob({ upstream: upstream.origin });
    await warm(cache);
    const digest = await pushPatterned(upstream.origin, repository, 50, 2);
    await pushImageOf(upstream.origin, repository, { digest, size: 50 * MiB });

    const growth = await growthDuring(cache.process.pid, async () => {
      const url = `${cache.origin}/v2/hub/${repository}/blobs/${digest}`;
      const pulls = await Promise.all(Array.from({ length: 20 }, () => get(url)));
      for (const pulled of pulls) expect(pulled).toMatchObject({ status: 200, bodyDigest: digest });
    });
    expect(requestsIn(upstream, `GET /v2/${repository}/blobs/${digest}`)).toHaveLength(1);
    expect(growth).toBeLessThan(mostGrowth);
  });
});
