import { readFile } from "node:fs/promises";

/** The resident memory of a process in MB, now. Linux only. */
export async function residentMegabytes(pid: number): Promise<number> {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(await readFile(`/proc/${pid}/status`, "utf8"))?.[1];
  if (kilobytes === undefined) throw new Error(`process ${pid} tells no VmRSS`);
  return (Number(kilobytes) * 1024) / 1e6;
}

/** By how many MB a process grows at most while `work` runs. */
export async function growthDuring(pid: number, work: () => Promise<void>): Promise<number> {
  const idle = await residentMegabytes(pid);
  let most = idle;
  let sampling = true;
  const sampler = (async () => {
    while (sampling) {
      most = Math.max(most, await residentMegabytes(pid));
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  })();
  try {
    await work();
  } finally {
    sampling = false;
    await sampler;
  }
  return most - idle;
}
