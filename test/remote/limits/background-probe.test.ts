import { describe, expect, it } from "vitest";
import { BackgroundProbe } from "../../../src/remote/limits/background-probe.js";
import { fakeClock } from "../../../src/testing/fake-clock.js";

function probing() {
  const clock = fakeClock();
  const state = { wanted: true, mayAsk: true, answers: false, asked: 0 };
  const probe = new BackgroundProbe({
    clock,
    isWanted: () => state.wanted,
    mayAsk: () => state.mayAsk,
    ask: async () => {
      state.asked++;
      return state.answers;
    },
    answered: () => {
      state.wanted = false;
    },
  });
  return { clock, state, probe };
}

describe("a question in the background", () => {
  it("is put every ten seconds until it is answered", async () => {
    const { clock, state, probe } = probing();
    probe.wanted();
    expect(probe.wait).toBe(9500);
    await clock.advance(60_000);
    expect(state.asked).toBe(6);
    state.answers = true;
    await clock.advance(10_000);
    expect([state.asked, state.wanted, probe.wait]).toEqual([7, false, undefined]);
    await clock.advance(60_000);
    expect(state.asked).toBe(7);
  });

  it("ends five minutes after somebody wanted something, and begins again with the next one", async () => {
    const { clock, state, probe } = probing();
    probe.wanted();
    await clock.advance(200_000);
    probe.wanted();
    await clock.advance(299_000);
    const asked = state.asked;
    expect(asked).toBeGreaterThan(50);
    await clock.advance(3_600_000);
    expect(state.asked).toBeLessThanOrEqual(asked + 1);
    expect(probe.wait).toBeUndefined();
    const before = state.asked;
    probe.wanted();
    await clock.advance(10_000);
    expect(state.asked).toBe(before + 1);
  });

  it("is not put while the upstream wants to be left alone, nor where nobody needs it, nor after the end", async () => {
    const { clock, state, probe } = probing();
    state.mayAsk = false;
    probe.wanted();
    await clock.advance(60_000);
    expect(state.asked).toBe(0);
    state.mayAsk = true;
    await clock.advance(10_000);
    expect(state.asked).toBe(1);
    probe.close();
    await clock.advance(60_000);
    probe.wanted();
    await clock.advance(60_000);
    expect(state.asked).toBe(1);

    const idle = probing();
    idle.state.wanted = false;
    idle.probe.wanted();
    await idle.clock.advance(60_000);
    expect(idle.state.asked).toBe(0);
  });
});
