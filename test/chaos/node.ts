import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { freePort, RunningProcess, temporaryFolder } from "../interop/processes.js";

const script = fileURLToPath(new URL("./node.mjs", import.meta.url));
const library = fileURLToPath(new URL("../../dist/storage/files/index.js", import.meta.url));

export interface NodeOptions {
  readonly folder?: string;
  readonly port?: number;
  /** By how many milliseconds its clock is ahead. */
  readonly ahead?: number;
  /** What starts it: `strace` and `unshare` with their arguments. */
  readonly through?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

/** A registry on a folder in a process of its own. */
export interface ChaosNode {
  readonly origin: string;
  readonly folder: string;
  readonly port: number;
  readonly process: RunningProcess;
}

/** Starts one and does not wait for it. */
export async function spawnNode(o: NodeOptions = {}): Promise<ChaosNode> {
  if (!existsSync(library)) throw new Error("the library is not built: npm run build");
  const folder = o.folder ?? (await temporaryFolder());
  const port = o.port ?? (await freePort());
  const [command, ...args] = [...(o.through ?? []), process.execPath, script];
  const env = { ...o.env, CHAOS: JSON.stringify({ folder, port, ahead: o.ahead }) };
  return { origin: `http://127.0.0.1:${port}`, folder, port, process: new RunningProcess(command ?? "", args, env) };
}

/** Starts one; resolves when it listens. */
export async function startNode(o: NodeOptions = {}): Promise<ChaosNode> {
  const node = await spawnNode(o);
  await node.process.listening(node.port);
  return node;
}

/** Kills the registry itself, whatever started it; resolves when that has ended too. */
export async function killNode({ process: started }: ChaosNode): Promise<void> {
  const pid = Number(/ready as (\d+)/.exec(started.output)?.[1] ?? started.pid);
  if (!started.over) process.kill(pid, "SIGKILL");
  await started.exited;
}
