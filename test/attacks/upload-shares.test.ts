import { expect, test } from "vitest";
import { type Answer, codeOf, protocols, type Stack, stack } from "./stack.js";

/** Behind a proxy that tells the clients' addresses. */
const behindProxy = { trustedProxies: ["127.0.0.1"] };

const start = ({ ask }: Stack, from: string, repository = "release/team/app"): Promise<Answer> =>
  ask("POST", `/v2/${repository}/blobs/uploads/`, { headers: { "x-forwarded-for": from } });

async function statuses(starting: readonly Promise<Answer>[]): Promise<Record<number, number>> {
  const counts: Record<number, number> = {};
  for (const { status } of await Promise.all(starting)) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

const times = <T>(count: number, work: () => T): T[] => Array.from({ length: count }, work);

test.each(protocols)("10,000 sessions are not one caller's to take: others still start uploads, over %s", async (protocol) => {
  const made = await stack({ front: protocol, handler: behindProxy });
  let started = 0;
  for (let batch = 0; batch < 11; batch++) started += (await statuses(times(100, () => start(made, "192.0.2.1"))))[202] ?? 0;
  expect(started).toBe(1000);
  const refused = await start(made, "192.0.2.1");
  expect([refused.status, codeOf(refused), refused.headers["retry-after"]]).toEqual([429, "TOOMANYREQUESTS", "30"]);
  expect((await start(made, "192.0.2.2")).status).toBe(202);
});

test.each(protocols)("starts at the same time overshoot neither a caller's limit nor that of all, over %s", async (protocol) => {
  const made = await stack({ front: protocol, handler: behindProxy, local: { maxUploads: 25, maxUploadsPerCaller: 10 } });
  expect(await statuses(times(30, () => start(made, "192.0.2.1")))).toEqual({ 202: 10, 429: 20 });
  expect(await statuses(times(30, () => start(made, "192.0.2.2")))).toEqual({ 202: 10, 429: 20 });
  expect(await statuses(times(30, () => start(made, "192.0.2.3")))).toEqual({ 202: 5, 429: 25 });
  // Another registry of the same storage has limits of its own.
  expect((await start(made, "192.0.2.1", "prerelease/team/app")).status).toBe(202);
});

test.each([
  ["one IPv4 address, however it is written", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"],
  ["the /64 of an IPv6 address", "2001:db8::1", "2001:db8::ffff:1:2:3", "2001:db8:0:1::1"],
  ["an IPv6 address, however it is written", "2001:DB8:0:0::1", "2001:db8::2", "2001:db9::1"],
])("%s is one caller", async (_, first, same, other) => {
  const made = await stack({ handler: behindProxy, local: { maxUploadsPerCaller: 1 } });
  expect((await start(made, first)).status).toBe(202);
  expect((await start(made, same)).status).toBe(429);
  expect((await start(made, other)).status).toBe(202);
});

test("a caller who has signed in counts by name, from wherever", async () => {
  const caller = ({ headers }: { headers: Record<string, unknown> }) =>
    typeof headers["x-user"] === "string" ? { name: headers["x-user"] } : undefined;
  const { ask } = await stack({ handler: { ...behindProxy, caller }, local: { maxUploadsPerCaller: 2 } });
  const from = async (user: string, address: string) =>
    (await ask("POST", "/v2/release/team/app/blobs/uploads/", { headers: { "x-user": user, "x-forwarded-for": address } })).status;
  expect([await from("ann", "192.0.2.1"), await from("ann", "192.0.2.2"), await from("ann", "192.0.2.3")]).toEqual([202, 202, 429]);
  expect(await from("bob", "192.0.2.1")).toBe(202);
});

test.each(protocols)("one caller's bytes in progress leave room for those of others, over %s", async (protocol) => {
  const made = await stack({
    front: protocol,
    handler: behindProxy,
    local: { maxUploadBytesPerCaller: "100KiB", maxUploadBytes: "150KiB" },
  });
  const append = async (from: string, bytes: number) => {
    const { headers } = await start(made, from);
    return made.ask("PATCH", headers.location ?? "", { headers: { "x-forwarded-for": from }, body: Buffer.alloc(bytes) });
  };
  expect((await append("192.0.2.1", 90 * 1024)).status).toBe(202);
  const refused = await append("192.0.2.1", 20 * 1024);
  expect([refused.status, codeOf(refused)]).toEqual([507, "INSUFFICIENT_STORAGE"]);
  expect((await append("192.0.2.2", 30 * 1024)).status).toBe(202);
  expect((await append("192.0.2.3", 90 * 1024)).status).toBe(507);
});

test("uploads that end make room for the same caller", async () => {
  const made = await stack({ handler: behindProxy, local: { maxUploadsPerCaller: 1 } });
  for (let round = 0; round < 3; round++) {
    const { status, headers } = await start(made, "192.0.2.1");
    expect(status).toBe(202);
    expect((await start(made, "192.0.2.1")).status).toBe(429);
    expect((await made.ask("DELETE", headers.location ?? "")).status).toBe(204);
  }
});
