import { onTestFinished } from "vitest";
import type { Lookup } from "../../src/core/lookup.js";
import type { Registry } from "../../src/core/registry.js";
import type { RemoteOptions } from "../../src/remote/options.js";
import { remoteRegistry } from "../../src/remote/remote-registry.js";
import { type FakeUpstream, type FakeUpstreamOptions, fakeUpstream } from "../../src/testing/fake-upstream.js";

/** A fake upstream that ends with the test. */
export async function upstreamFor(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const upstream = await fakeUpstream(options);
  onTestFinished(() => upstream.close());
  return upstream;
}

/** A remote that ends with the test. */
export function remoteFor(upstream: { url: string }, options: RemoteOptions = {}): Registry {
  const registry = remoteRegistry(upstream.url, { name: "up", ...options });
  onTestFinished(() => registry.close({ deadline: "1ms" }));
  return registry;
}

/** The requests so far, as "GET /v2/", the upstream's own URL left out. */
export function seen(upstream: FakeUpstream): string[] {
  return upstream.requests.map(({ method, url }) => `${method} ${url}`);
}

export function foundIn<T>(lookup: Lookup<T>): T {
  if (lookup.kind === "found") return lookup.value;
  throw new Error(`expected found, got ${lookup.kind}${"error" in lookup ? `: ${lookup.error.message}` : ""}`);
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
