import { onTestFinished } from "vitest";
import type { Lookup } from "../../src/core/lookup.js";
import type { RemoteOptions } from "../../src/remote/options.js";
import { remoteRegistry } from "../../src/remote/remote-registry.js";
import type { RemoteRegistry } from "../../src/remote/upstream-status.js";
import { type FakeClock, fakeClock } from "../../src/testing/fake-clock.js";
import { type FakeUpstream, type FakeUpstreamOptions, fakeUpstream } from "../../src/testing/fake-upstream.js";

/** A fake upstream that ends with the test. */
export async function upstreamFor(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const upstream = await fakeUpstream(options);
  onTestFinished(() => upstream.close());
  return upstream;
}

/** A remote that ends with the test. */
export function remoteFor(upstream: { url: string } | readonly { url: string }[], options: RemoteOptions = {}): RemoteRegistry {
  const urls = "url" in upstream ? upstream.url : upstream.map(({ url }) => url);
  const registry = remoteRegistry(urls, { name: "up", ...options });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  return registry;
}

/** A clock on which a pause of a few seconds is over at once, and noted. */
export function impatientClock(): FakeClock & { readonly pauses: number[] } {
  const clock = fakeClock();
  const pauses: number[] = [];
  return {
    ...clock,
    pauses,
    async sleep(ms, signal) {
      if (ms > 20_000) return clock.sleep(ms, signal);
      signal?.throwIfAborted();
      pauses.push(ms);
      await clock.advance(ms);
    },
  };
}

/** The requests so far, as "GET /v2/", the upstream's own URL left out. */
export function seen(upstream: FakeUpstream): string[] {
  return upstream.requests.map(({ method, url }) => `${method} ${url}`);
}

export function foundIn<T>(lookup: Lookup<T>): T {
  if (lookup.kind === "found") return lookup.value;
  throw new Error(`expected found, got ${lookup.kind}${"error" in lookup ? `: ${lookup.error?.message}` : ""}`);
}

export function errorOf(lookup: Lookup<unknown>) {
  if (lookup.kind === "denied" || lookup.kind === "unavailable") return lookup.error;
  throw new Error(`expected a failure, got ${lookup.kind}`);
}

export async function readAll(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return Buffer.concat(chunks);
}
