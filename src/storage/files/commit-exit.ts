/**
 * Keeps the end of the process from stopping the thread that commits in the middle of a call to SQLite: `libsql` aborts the whole process then, and a service that
 * calls `process.exit(0)` while pushes are committed would end with SIGABRT.
 *
 * Both sides share two numbers. The thread sets the first while it calls SQLite, and calls it only while the second is 0. When the process ends, the main thread
 * sets the second and waits for the first. Each side writes before it reads, so one of the two always sees the other.
 */
const calling = 0;
const ending = 1;

/** In milliseconds. A commit takes a few; a disk that hangs must not keep a process from ending. */
const longestWait = 5000;

const gates = new Set<Int32Array>();

/** The gate of one thread that commits. */
export function newGate(): SharedArrayBuffer {
  return new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
}

/** From now on the end of the process waits for the thread. Answers what ends that, when the thread is over. */
export function waitAtExit(gate: SharedArrayBuffer): () => void {
  const numbers = new Int32Array(gate);
  if (gates.size === 0) process.on("exit", waitForAll);
  gates.add(numbers);
  return () => {
    gates.delete(numbers);
    if (gates.size === 0) process.off("exit", waitForAll);
  };
}

/** Listeners of `exit` cannot be asynchronous, and the threads are stopped after the last of them. */
function waitForAll(): void {
  for (const numbers of gates) Atomics.store(numbers, ending, 1);
  for (const numbers of gates) Atomics.wait(numbers, calling, 1, longestWait);
}
