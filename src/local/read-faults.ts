import type { Readable } from "node:stream";
import { isRegistryError } from "../core/errors.js";
import type { Partition } from "./partition.js";

/** Tells the host that recorded bytes cannot be read; the client sees no more than a response that failed. Answers the error. */
export function unreadable<E>({ events, clock, name }: Partition, location: string, error: E): E {
  const why = error instanceof Error ? error.message : String(error);
  events.emit("fault", { time: clock.now(), registry: name, message: `the bytes at ${location} cannot be read: ${why}` });
  return error;
}

/** The same stream, whose failure to read is told. What ends it from the other side, as a reader that gives up, is no failure of the store. */
export function toldOf(partition: Partition, location: string, stream: Readable): Readable {
  return stream.once("error", (error) => {
    if (isRegistryError(error) || "syscall" in error) unreadable(partition, location, error);
  });
}
