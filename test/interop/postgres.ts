import { randomBytes } from "node:crypto";
import { chown, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Pool, type PoolConfig } from "pg";
import { atEnd, freePort, RunningProcess, run, temporaryFolder } from "./processes.js";
import { pathOf } from "./requires.js";

/** A PostgreSQL server with a data folder and port of its own. */
export interface PostgresServer {
  readonly port: number;
  /** Ended with the test file. */
  pool(settings?: PoolConfig): Pool;
  /** Ends all connections; with "SIGQUIT" in the way of a crash. */
  stop(signal?: "SIGINT" | "SIGQUIT"): Promise<void>;
  /** Starts it again after `stop`, with the same data. */
  start(): Promise<void>;
}

/** PostgreSQL refuses to run as root. */
export async function asPostgres(program: string, args: readonly string[]): Promise<[string, string[]]> {
  if (process.getuid?.() !== 0) return [program, [...args]];
  // Unlike runuser it becomes the program itself, which then can be stopped by its id.
  return ["setpriv", ["--reuid=postgres", "--regid=postgres", "--clear-groups", program, ...args]];
}

export async function startPostgres(): Promise<PostgresServer> {
  const folder = join(await temporaryFolder(), "postgres");
  await mkdir(folder, { mode: 0o700 });
  if (process.getuid?.() === 0) {
    const [uid, gid] = await Promise.all(["-u", "-g"].map(async (flag) => Number(await run("id", [flag, "postgres"]))));
    if (uid === undefined || gid === undefined) throw new Error("there is no user postgres");
    await chown(folder, uid, gid);
  }
  // A language whose order is not that of bytes, as most servers have: keys must not depend on it.
  const locale = ["--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"];
  const initdb = ["-D", folder, "-A", "trust", "-U", "postgres", "--no-sync", ...locale];
  await run(...(await asPostgres(pathOf("initdb") ?? "initdb", initdb)));
  const port = await freePort();
  const settings = { listen_addresses: "127.0.0.1", port, unix_socket_directories: folder, fsync: "off", log_checkpoints: "off" };
  const options = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]);

  let server: RunningProcess | undefined;
  const start = async () => {
    const postgres = new RunningProcess(...(await asPostgres(pathOf("postgres") ?? "postgres", ["-D", folder, ...options])));
    server = postgres;
    await postgres.until(() => postgres.output.includes("database system is ready to accept connections"), "ready");
  };
  const stop = async (signal: "SIGINT" | "SIGQUIT" = "SIGINT") => {
    await server?.stop(signal);
  };
  await start();
  atEnd(stop);
  const pool = (more: PoolConfig = {}) => {
    const made = new Pool({ host: "127.0.0.1", port, user: "postgres", database: "postgres", ...more });
    // Connections end with the server, as tests want it.
    made.on("error", () => {});
    atEnd(async () => {
      if (!made.ended) await made.end();
    });
    return made;
  };
  return { port, pool, stop, start };
}

export function newSchema(): string {
  return `t${randomBytes(6).toString("hex")}`;
}

export async function dropSchema(pool: Pool, schema: string): Promise<void> {
  await pool.query(`DROP SCHEMA IF EXISTS "${schema}" CASCADE`);
}
