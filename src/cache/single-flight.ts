import type { Lookup } from "../core/lookup.js";
import { isLoop, isViaKnown } from "../core/via.js";
import { singleFlightKey, type ViaOptions } from "./source-call.js";

interface Flight<T> {
  readonly answer: Promise<Lookup<T>>;
  readonly asked: ViaOptions | undefined;
}

/**
 * Questions in progress, by key and by the way they came: a caller that asks meanwhile gets the same answer. They belong to no caller: the first to ask may leave, the others
 * still want the answer.
 */
export class SingleFlight<T> {
  readonly #running = new Map<string, Flight<T>>();

  has(key: string, o: ViaOptions | undefined): boolean {
    return this.#running.has(singleFlightKey(key, o));
  }

  async join(key: string, o: ViaOptions | undefined, ask: () => Promise<Lookup<T>>): Promise<Lookup<T>> {
    const own = singleFlightKey(key, o);
    const running = this.#running.get(own);
    if (!running) return this.#start(own, o, ask);
    const answer = await running.answer;
    // The marks that led into a loop, or around a part of the answer, may be made up by a client; those that have none ask once more, together.
    if (isViaKnown(running.asked) || !isViaKnown(o) || !dependsOnTheWay(answer)) return answer;
    const again = `${own} again`;
    return this.#running.get(again)?.answer ?? this.#start(again, o, ask);
  }

  #start(own: string, asked: ViaOptions | undefined, ask: () => Promise<Lookup<T>>): Promise<Lookup<T>> {
    const answer = ask().finally(() => this.#running.delete(own));
    this.#running.set(own, { answer, asked });
    return answer;
  }

  /** Until what runs now is over, whatever comes of it: for someone who wants an answer to a question asked later than now. */
  async over(key: string, o: ViaOptions | undefined): Promise<void> {
    await this.#running.get(singleFlightKey(key, o))?.answer.catch(() => {});
  }
}

/** A loop is one for those alone who came this way, and a list that is not whole may lack what came back from them. */
function dependsOnTheWay(answer: Lookup<unknown>): boolean {
  if (answer.kind === "unavailable") return isLoop(answer.error);
  if (answer.kind !== "found" || typeof answer.value !== "object" || answer.value === null) return false;
  return "warnings" in answer.value && Array.isArray(answer.value.warnings) && answer.value.warnings.length > 0;
}
