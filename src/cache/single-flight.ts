import type { Lookup } from "../core/lookup.js";
import { isLoop, isViaKnown } from "../core/via.js";
import { singleFlightKey, type ViaOptions } from "./source-call.js";

/** A question to the source that has no answer yet. */
interface Running<T> {
  readonly answer: Promise<Lookup<T>>;
  /** Whom the question has passed. */
  readonly passed: ViaOptions | undefined;
}

/**
 * Many callers with one question share one answer. Questions are the same where their key is, and the aggregates that they have passed ({@link singleFlightKey}). A question
 * belongs to no caller: the first to ask may leave, the others still want the answer.
 */
export class SingleFlight<T> {
  readonly #running = new Map<string, Running<T>>();

  has(key: string, o: ViaOptions | undefined): boolean {
    return this.#running.has(singleFlightKey(key, o));
  }

  async join(key: string, o: ViaOptions | undefined, ask: () => Promise<Lookup<T>>): Promise<Lookup<T>> {
    const own = singleFlightKey(key, o);
    const running = this.#running.get(own);
    if (!running) return this.#start(own, o, ask);
    const answer = await running.answer;
    // The first caller's marks led into a loop, or around a part of the answer, and a client may have made them up. Callers that have none of those ask once more, together.
    if (isViaKnown(running.passed) || !isViaKnown(o) || !dependsOnVia(answer)) return answer;
    const again = `${own} again`;
    return this.#running.get(again)?.answer ?? this.#start(again, o, ask);
  }

  #start(own: string, passed: ViaOptions | undefined, ask: () => Promise<Lookup<T>>): Promise<Lookup<T>> {
    const answer = ask().finally(() => this.#running.delete(own));
    this.#running.set(own, { answer, passed });
    return answer;
  }

  /** Waits until the question that runs now is over, whatever comes of it: for a caller who wants the answer to a question that is asked later than now. */
  async over(key: string, o: ViaOptions | undefined): Promise<void> {
    await this.#running.get(singleFlightKey(key, o))?.answer.catch(() => {});
  }
}

/** Whether an answer may be another for a question that has passed other aggregates: a loop is one only for its own, and a list that is not whole may lack what came back in one. */
function dependsOnVia(answer: Lookup<unknown>): boolean {
  if (answer.kind === "unavailable") return isLoop(answer.error);
  if (answer.kind !== "found" || typeof answer.value !== "object" || answer.value === null) return false;
  return "warnings" in answer.value && Array.isArray(answer.value.warnings) && answer.value.warnings.length > 0;
}
