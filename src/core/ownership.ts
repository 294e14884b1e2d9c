import type { Duration } from "./units.js";

interface Closable {
  close(o?: { deadline?: Duration }): Promise<void>;
}

// A registry or a storage may be part of several compositions; it is closed with the last of them.
const uses = new WeakMap<object, number>();

// A view is not counted itself: what it shows is.
const shown = new WeakMap<object, Closable>();

/** Declares that closing a view means closing what it shows, so that holders of the one and of the other are counted together. */
export function closesThrough(view: Closable, inner: Closable): void {
  shown.set(view, inner);
}

// Being closed already, by whoever called it: of two that hold each other each would wait for the other for ever.
const closing = new WeakSet<object>();

/** Declares at the beginning of a close that those who are closed with this part, and hold it, need not wait for it. */
export function closes(part: Closable): void {
  closing.add(part);
}

function behind(part: Closable): Closable {
  let last = part;
  for (let next = shown.get(last); next; next = shown.get(last)) last = next;
  return last;
}

/** Counts one composition that holds these parts. */
export function retain(parts: Iterable<Closable>): void {
  for (const part of distinct(parts)) uses.set(part, (uses.get(part) ?? 0) + 1);
}

/** Gives the parts up; those that no other composition holds are closed. Every part is tried, then the first failure is thrown. */
export async function release(parts: Iterable<Closable>, o?: { deadline?: Duration }): Promise<void> {
  const ending: Promise<void>[] = [];
  for (const part of distinct(parts)) {
    const left = (uses.get(part) ?? 1) - 1;
    uses.set(part, left);
    if (left === 0 && !closing.has(part)) ending.push(part.close(o));
  }
  for (const outcome of await Promise.allSettled(ending)) if (outcome.status === "rejected") throw outcome.reason;
}

function distinct(parts: Iterable<Closable>): Set<Closable> {
  return new Set([...parts].map(behind));
}

/** A close that runs once, however often and by whomever it is called. */
export function once<A extends unknown[]>(close: (...args: A) => Promise<void>): (...args: A) => Promise<void> {
  let closed: Promise<void> | undefined;
  return (...args) => {
    closed ??= close(...args);
    return closed;
  };
}
