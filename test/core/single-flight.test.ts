import { expect, test } from "vitest";
import { SingleFlights } from "../../src/core/single-flight.js";

test("whoever asks while a question is in progress gets its answer, each key for itself", async () => {
  const flights = new SingleFlights<number>();
  let asked = 0;
  const ask = async () => ++asked;
  expect(await Promise.all([flights.join("a", ask), flights.join("a", ask), flights.join("b", ask)])).toEqual([1, 1, 2]);
  expect(await flights.join("a", ask)).toBe(3);
});

test("a failure is shared too, and forgotten", async () => {
  const flights = new SingleFlights<string>();
  const fail = () => Promise.reject(new Error("no"));
  const both = await Promise.allSettled([flights.join("a", fail), flights.join("a", async () => "not asked")]);
  expect(both.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect(await flights.join("a", async () => "asked")).toBe("asked");
});
