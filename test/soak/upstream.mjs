/** A registry of images in memory that is down, refuses, hangs or breaks off every few seconds. */
import { randomInt } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fakeUpstream } from "oci-manifold/testing";

/** How it behaves, and for how many milliseconds; again from the beginning afterwards. */
const moods = [
  ["up", 6000],
  ["refuses", 1500],
  ["up", 4000],
  ["hangs up", 1500],
  ["up", 4000],
  ["breaks off", 3000],
  ["slow", 3000],
  ["lies", 2000],
];

export const upstreamRepositories = 10;
export const upstreamTags = 30;

export async function flappingUpstream() {
  const upstream = await fakeUpstream();
  for (let repository = 0; repository < upstreamRepositories; repository++) {
    for (let tag = 0; tag < upstreamTags; tag++) {
      const layers = [2_000, 20_000, tag % 10 === 0 ? 600_000 : 60_000].map((size) => size + tag * 7 + repository);
      upstream.addImage(`team/app${repository}`, `v${tag}`, { layers });
    }
  }
  const cycle = moods.reduce((sum, [, time]) => sum + time, 0);
  const mood = () => {
    let at = Date.now() % cycle;
    for (const [mood, time] of moods) {
      at -= time;
      if (at < 0) return mood;
    }
  };
  upstream.intercept = async ({ url }) => {
    // Every request is kept otherwise, for as long as this runs.
    upstream.requests.length = 0;
    switch (mood()) {
      case "refuses":
        return { status: 503, headers: { "retry-after": "1" } };
      case "hangs up":
        return { hangUp: true };
      case "breaks off":
        return url.includes("/blobs/") && randomInt(2) === 0 ? { truncateAfter: randomInt(1000) } : undefined;
      case "lies":
        return url.includes("/blobs/") && randomInt(3) === 0 ? { corrupt: true } : undefined;
      case "slow":
        await sleep(randomInt(300));
        return undefined;
    }
  };
  return upstream;
}
