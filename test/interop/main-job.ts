import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { freePort, RunningProcess, temporaryFolder } from "./processes.js";

const script = fileURLToPath(new URL("../../examples/dist/standalone.js", import.meta.url));

/** The main job (`npm start`) in a process of its own. */
export interface MainJob {
  readonly host: string;
  readonly origin: string;
  readonly data: string;
  readonly process: RunningProcess;
}

/** Starts the main job; by default on a free port, with an empty folder and an upstream that cannot be reached. */
export async function startMainJob(o: { data?: string; port?: number; upstream?: string } = {}): Promise<MainJob> {
  if (!existsSync(script)) throw new Error("the main job is not built: npm run build && npm run build:examples");
  const data = o.data ?? (await temporaryFolder());
  const port = o.port ?? (await freePort());
  // Without an upstream, one that refuses connections: tests never leave this machine.
  const upstream = o.upstream ?? "http://127.0.0.1:1";
  const job = new RunningProcess(process.execPath, [script], { PORT: String(port), HOST: "127.0.0.1", DATA: data, UPSTREAM: upstream });
  await job.listening(port);
  const host = `127.0.0.1:${port}`;
  return { host, origin: `http://${host}`, data, process: job };
}

/** A main job that ended once more, on the same port and data. */
export function startAgain({ origin, data }: MainJob, o: { upstream?: string } = {}): Promise<MainJob> {
  return startMainJob({ ...o, data, port: Number(new URL(origin).port) });
}

/** The job's log lines of requests that begin with this method and URL. */
export function requestsIn(job: MainJob, methodAndUrl: string): string[] {
  return job.process.output.split("\n").filter((line) => line.includes(` ${methodAndUrl} `));
}

/** The job's log lines of requests to mount a blob of one repository into another. */
export function mountsIn(job: MainJob, into: string, from: string): string[] {
  const uploads = ` POST /v2/${into}/blobs/uploads/?`;
  return job.process.output.split("\n").filter((line) => {
    const [, query = ""] = line.split(uploads);
    const asked = new URLSearchParams(query.split(" ")[0]);
    return asked.has("mount") && asked.get("from") === from;
  });
}

/** Waits until the cache `hub` has these blobs, as the job's log of HEAD requests tells. */
export async function untilCached(job: MainJob, repository: string, digests: readonly string[]): Promise<void> {
  for (const digest of digests) {
    const path = `/v2/${repository}/blobs/${digest}`;
    await job.process.until(async () => {
      await fetch(`${job.origin}${path}`, { method: "HEAD" });
      return requestsIn(job, `HEAD ${path} 200`).some((line) => / hit /.test(line));
    }, `cached ${digest}`);
  }
}
