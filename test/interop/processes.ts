import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach } from "vitest";

/** Whatever a test file started or made; undone in reverse order when the file is done. */
const leftovers: (() => Promise<unknown>)[] = [];
const processes: RunningProcess[] = [];

afterEach(({ task }) => {
  if (task.result?.state !== "fail") return;
  for (const process of processes) console.error(`--- ${process.title} ---\n${process.output.slice(-4000)}`);
});

afterAll(async () => {
  for (const undo of leftovers.splice(0).reverse()) await undo();
});

export async function temporaryFolder(): Promise<string> {
  // In lower case, unlike mkdtemp's: podman makes the name of a layout's folder an image name.
  const path = join(tmpdir(), `manifold-interop-${randomBytes(8).toString("hex")}`);
  await mkdir(path);
  leftovers.push(() => rm(path, { recursive: true, force: true, maxRetries: 5 }));
  return path;
}

/** Undone before what was started or made earlier. */
export function atEnd(undo: () => Promise<unknown>): void {
  leftovers.push(undo);
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** A child process; all its output is kept, and shown when a test of the file fails. */
export class RunningProcess {
  readonly title: string;
  readonly exited: Promise<number | string>;
  output = "";
  readonly #child: ChildProcess;
  #over = false;

  constructor(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.title = [command, ...args].join(" ");
    this.#child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    const keep = (chunk: Buffer) => {
      this.output += chunk.toString();
    };
    this.#child.stdout?.on("data", keep);
    this.#child.stderr?.on("data", keep);
    this.exited = new Promise((resolve) => {
      this.#child.once("error", (error) => resolve(error.message));
      this.#child.once("close", (code, signal) => resolve(code ?? String(signal)));
    });
    void this.exited.then(() => {
      this.#over = true;
    });
    processes.push(this);
    leftovers.push(() => this.stop());
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error(`${this.title} did not start`);
    return this.#child.pid;
  }

  get over(): boolean {
    return this.#over;
  }

  /** Its exit code, or the name of the signal that ended it. A process that does not heed the signal for 20 s is killed. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number | string> {
    if (this.#over) return this.exited;
    this.#child.kill(signal);
    const impatience = setTimeout(() => this.#child.kill("SIGKILL"), 20_000);
    return this.exited.finally(() => clearTimeout(impatience));
  }

  /** Waits until `check` holds; a process that ended, or 30 s, is a failure that shows its output. */
  async until(check: () => boolean | Promise<boolean>, what: string, patience = 30_000): Promise<void> {
    for (const since = Date.now(); Date.now() - since < patience; ) {
      if (await check()) return;
      if (this.#over) break;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error(`${this.title}: never ${what}\n${this.output}`);
  }

  listening(port: number): Promise<void> {
    return this.until(() => accepts({ host: "127.0.0.1", port }), `listening on port ${port}`);
  }

  listeningAt(path: string): Promise<void> {
    return this.until(() => accepts({ path }), `listening at ${path}`);
  }
}

/** Programs in Go, which end with the stacks of all they do when they are told to quit. None of them has work for minutes here. */
const goClients: ReadonlySet<string> = new Set(["buildah", "ctr", "docker", "podman", "skopeo"]);
/** In milliseconds; shorter than a test may take, so that a client that hangs says where. */
const hangs = 240_000;

/** Runs a command to its end; throws with all its output unless it ends with 0. */
export async function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const out: Buffer[] = [];
  const all: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => {
    out.push(chunk);
    all.push(chunk);
  });
  child.stderr.on("data", (chunk: Buffer) => all.push(chunk));
  const quit = setTimeout(() => goClients.has(command) && child.kill("SIGQUIT"), hangs);
  child.once("exit", () => clearTimeout(quit));
  const code = await new Promise<number | string>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => resolve(status ?? String(signal)));
  });
  if (code !== 0) throw new Error(`${[command, ...args].join(" ")} ended with ${code}\n${Buffer.concat(all)}`);
  return Buffer.concat(out).toString();
}

function accepts(where: { host: string; port: number } | { path: string }): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(where);
    const answer = (accepted: boolean) => {
      socket.destroy();
      resolve(accepted);
    };
    socket.once("connect", () => answer(true));
    socket.once("error", () => answer(false));
  });
}
