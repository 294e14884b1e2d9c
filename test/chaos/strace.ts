import { spawnSync } from "node:child_process";
import { test } from "vitest";
import { RunningProcess } from "../interop/processes.js";
import { requires } from "../interop/requires.js";

/** Faults of strace, `fsync:error=EIO` for example, in a running process and all its threads; only system calls on these paths where any are given. Answers what ends them. */
export async function injecting(pid: number, faults: readonly string[], paths: readonly string[] = []): Promise<() => Promise<void>> {
  const calls = [...new Set(faults.map((fault) => fault.split(":")[0]))].join(",");
  const what = faults.flatMap((fault) => ["-e", `inject=${fault}`]);
  const where = paths.flatMap((path) => ["-P", path]);
  const strace = new RunningProcess("strace", ["-f", "-p", String(pid), "-e", `trace=${calls}`, ...what, ...where, "-o", "/dev/null"]);
  await strace.until(() => /attached/.test(strace.output), "attached");
  return async () => {
    await strace.stop("SIGTERM");
  };
}

/** What starts a process that is killed as it enters a system call for the n-th time in a thread. Not with `--seccomp-bpf`, which counts nothing. */
export function killedAt(call: string, n: number): string[] {
  return ["strace", "-f", "-e", `trace=${call}`, "-e", `inject=${call}:signal=SIGKILL:when=${n}`, "-o", "/dev/null"];
}

/** `describe` for tests that trace processes. */
export function withStrace(title: string, body: () => void): void {
  const reason = whyNotTraced();
  if (reason === undefined) {
    requires("strace")(title, body);
  } else {
    console.warn(`${title}: ${reason}`);
    test.skip(`${title}: ${reason}`, () => {});
  }
}

/** Where it is installed and may not trace: containers without SYS_PTRACE. */
function whyNotTraced(): string | undefined {
  if (spawnSync("strace", ["-V"]).error) return undefined;
  const { status, stderr } = spawnSync("strace", ["-e", "inject=fsync:error=EIO", "-o", "/dev/null", "true"]);
  return status === 0 ? undefined : `processes may not be traced here: ${stderr.toString().trim()}`;
}
