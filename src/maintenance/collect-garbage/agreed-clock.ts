import type { Clock } from "../../core/clock.js";
import { RegistryError } from "../../core/errors.js";
import type { Storage } from "../../core/metadata-store.js";

/** In milliseconds. Far below the shortest grace, and far above what NTP leaves. */
const tolerance = 5 * 60_000;

/**
 * The time by which a collection says what is old. Others write while it runs, and a clock of this machine that is ahead by more than the grace would make all of it look old: so
 * it is the clock of the metadata store where that has one, and the times of the blob store have to agree with it.
 *
 * @throws RegistryError PRECONDITION_FAILED when they do not.
 */
export async function agreedClock({ blobs, metadata }: Storage, clock: Clock): Promise<Clock> {
  const records = await metadata.now?.();
  const offset = records === undefined ? 0 : records - clock.now();
  const agreed: Clock =
    offset === 0
      ? clock
      : { now: () => clock.now() + offset, elapsed: () => clock.elapsed(), sleep: (ms, signal) => clock.sleep(ms, signal) };
  const bytes = await blobs.now?.();
  const ahead = bytes === undefined ? 0 : agreed.now() - bytes;
  if (Math.abs(ahead) <= tolerance) return agreed;
  const whose = records === undefined ? "this machine" : "the metadata store";
  throw new RegistryError(
    "PRECONDITION_FAILED",
    `the clock of ${whose} is ${inWords(Math.abs(ahead))} ${ahead > 0 ? "ahead of" : "behind"} the times that the blob store gives: nothing is collected until they agree`,
  );
}

function inWords(milliseconds: number): string {
  const minutes = Math.round(milliseconds / 60_000);
  return minutes < 120 ? `${minutes} minutes` : `${Math.round(minutes / 60)} hours`;
}
