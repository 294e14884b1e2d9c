import { RegistryError } from "./errors.js";

/** A length of time as a literal: `"10m"`, `"30s"`, `"1.5h"`. */
export type Duration = `${number}${"ms" | "s" | "m" | "h" | "d"}`;
/** A number of bytes as a literal: `"200GiB"`, `"64KiB"`. */
export type Size = `${number}${"B" | "KiB" | "MiB" | "GiB" | "TiB"}`;

const milliseconds = new Map(Object.entries({ ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }));
const bytes = new Map(Object.entries({ B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 }));

/** @throws RegistryError UNKNOWN when the text is no {@link Duration} (a host in plain JavaScript can pass anything). */
export function toMilliseconds(duration: Duration): number {
  return scale(duration, milliseconds, 'a duration such as "500ms", "30s", "10m", "1h" or "7d"');
}

/** @throws RegistryError UNKNOWN when the text is no {@link Size}. */
export function toBytes(size: Size): number {
  return Math.floor(scale(size, bytes, 'a size such as "64KiB", "10MiB" or "200GiB"'));
}

function scale(text: string, units: ReadonlyMap<string, number>, expected: string): number {
  const match = /^(\d+(?:\.\d+)?)([A-Za-z]+)$/.exec(text);
  const scaled = Number(match?.[1]) * (units.get(match?.[2] ?? "") ?? Number.NaN);
  if (!Number.isFinite(scaled)) throw new RegistryError("UNKNOWN", `${JSON.stringify(text)} is not ${expected}`);
  return scaled;
}
