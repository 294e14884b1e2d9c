import { parseDigest } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { startAgain, startMainJob } from "../interop/main-job.js";
import { fillTags, tagNumber } from "./many-tags.js";
import { growthDuring } from "./memory.js";
import { pushImageOf, pushPatterned } from "./patterned.js";

const count = 1_000_000;
const path = "/v2/release/many/tags/list";

test("a million tags of one repository are listed in pages, in flat memory", async () => {
  const first = await startMainJob();
  const digest = await pushPatterned(first.origin, "release/many", 1, 0);
  await pushImageOf(first.origin, "release/many", { digest, size: 1024 * 1024 });
  const manifest = (await fetch(`${first.origin}/v2/release/many/manifests/1`)).headers.get("docker-content-digest") ?? "";
  await first.process.stop("SIGTERM");
  await fillTags(first.data, "release", "many", parseDigest(manifest), count);

  const job = await startAgain(first);
  const page = async (query: string) => {
    const response = await fetch(`${job.origin}${query}`);
    const { tags } = (await response.json()) as { tags: string[] };
    return { tags, next: /^<(.*)>; rel="next"$/.exec(response.headers.get("link") ?? "")?.[1] };
  };
  expect((await page(`${path}?n=2&last=${tagNumber(499_999)}`)).tags).toEqual([tagNumber(500_000), tagNumber(500_001)]);
  // A process that has just begun grows by what its first requests load and compile, whatever they ask for.
  for (let turn = 0; turn < 1500; turn++) await page(`${path}?last=${tagNumber(turn * 600)}`);
  const growth = await growthDuring(job.process.pid, async () => {
    // The tag "1" comes before "v…".
    let listed = -1;
    for (let next: string | undefined = path; next; ) {
      const got = await page(next);
      for (const tag of got.tags) {
        if (tag !== (listed < 0 ? "1" : tagNumber(listed))) throw new Error(`${tag} in the place of ${listed}`);
        listed++;
      }
      next = got.next;
    }
    expect(listed).toBe(count);
  });
  expect(growth).toBeLessThan(50);
  const head = await fetch(`${job.origin}/v2/release/many/manifests/${tagNumber(999_999)}`, { method: "HEAD" });
  expect([head.status, head.headers.get("docker-content-digest")]).toEqual([200, manifest]);
});
