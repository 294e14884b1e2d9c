import { expect, it } from "vitest";
import { noEvents } from "../../../src/core/events.js";
import { unavailable } from "../../../src/remote/failures.js";
import { Admission, type AdmissionRequest } from "../../../src/remote/limits/admission.js";
import { Backoff } from "../../../src/remote/limits/backoff.js";
import { readUpstreamLimits } from "../../../src/remote/limits/upstream-limits.js";
import type { UpstreamResponse } from "../../../src/remote/transport.js";
import { fakeClock } from "../../../src/testing/fake-clock.js";

const request: AdmissionRequest = { what: "a read", priority: "foreground", write: false };

function admission() {
  const clock = fakeClock();
  const limits = readUpstreamLimits({ maxRequests: 1 });
  return new Admission({
    name: "up",
    origin: "https://up.example",
    clock,
    events: noEvents,
    backoff: new Backoff(clock),
    limits,
    probe: () => new Promise(() => {}),
  });
}

async function permitOf(one: Admission, o: Partial<AdmissionRequest> = {}) {
  const answer = await one.admit({ ...request, ...o });
  if (answer.kind !== "permit") throw new Error("refused");
  return answer;
}

it("a request that waits for its token keeps no other request waiting", async () => {
  const one = admission();
  let give = (_: undefined) => {};
  const token = new Promise<undefined>((resolve) => {
    give = resolve;
  });
  const slow = permitOf(one, { prepare: () => token });
  const quick = await permitOf(one);
  expect(one.status.requests.running).toBe(1);
  give(undefined);
  quick.release();
  quick.release();
  (await slow).release();
  expect(one.status.requests).toEqual({ running: 0, queued: 0 });
});

it("no token is asked for while the upstream is left alone", async () => {
  const one = admission();
  const permit = await permitOf(one);
  permit.answered({ status: 429, headers: { "retry-after": "30" } } as unknown as UpstreamResponse);
  permit.release();
  let asked = false;
  const prepare = async () => {
    asked = true;
    return undefined;
  };
  expect(await one.admit({ ...request, prepare })).toMatchObject({
    kind: "refused",
    anotherUrl: true,
    failure: { error: { retryAfter: 30 } },
  });
  expect(asked).toBe(false);
});

it("what cannot be prepared is refused, and takes no place", async () => {
  const one = admission();
  const failure = unavailable("no token");
  expect(await one.admit({ ...request, prepare: async () => failure })).toEqual({ kind: "refused", failure, anotherUrl: true });
  expect(one.status.requests.running).toBe(0);
});
