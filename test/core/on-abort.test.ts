import { expect, test } from "vitest";
import { onAbort } from "../../src/core/on-abort.js";

/** A signal, and how many listeners it has itself. */
function counted() {
  const controller = new AbortController();
  const { signal } = controller;
  const count = { listeners: 0 };
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    count.listeners++;
    add(...args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    count.listeners--;
    remove(...args);
  };
  return { controller, signal, count };
}

test("many listeners are one listener of the signal, and each is called once", () => {
  const { controller, signal, count } = counted();
  const called: number[] = [];
  for (let index = 0; index < 20; index++) onAbort(signal, () => void called.push(index));
  expect(count.listeners).toBe(1);
  controller.abort();
  controller.abort();
  expect(called).toEqual(Array.from({ length: 20 }, (_, index) => index));
});

test("a listener that was taken away is not called, also while others are", () => {
  const { controller, signal } = counted();
  const called: string[] = [];
  onAbort(signal, () => {
    called.push("first");
    stop();
  });
  const stop = onAbort(signal, () => void called.push("second"));
  controller.abort();
  expect(called).toEqual(["first"]);
});

test("the same function can listen twice, and the signal is left alone after the last one", () => {
  const { signal, count } = counted();
  const listener = () => {};
  const [one, other] = [onAbort(signal, listener), onAbort(signal, listener)];
  one();
  one();
  expect(count.listeners).toBe(1);
  other();
  expect(count.listeners).toBe(0);
  onAbort(signal, listener)();
  expect(count.listeners).toBe(0);
});
