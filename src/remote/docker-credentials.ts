/**
 * Credentials as Docker's clients keep them. `dockerConfig` is the source: it reads `config.json` (its grammar is below it, from `readAuths` on) and asks the credential helpers that the
 * file names (their protocol is at the end, from `runCredentialHelper` on).
 */
import { execFile } from "node:child_process";
import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { LRUCache } from "lru-cache";
import { type Clock, systemClock } from "../core/clock.js";
import { systemCode } from "../core/system-code.js";
import { type CredentialFunction, type Credentials, identityTokenUser } from "./credentials.js";
import { RemoteFailure } from "./failures.js";

export interface DockerConfigOptions {
  /** Default: `config.json` in the folder that the environment's `DOCKER_CONFIG` names, else in `~/.docker`. */
  readonly path?: string;
  /** Times how long a helper's answers are kept. Default: the system's. */
  readonly clock?: Clock;
}

/** People have a few KiB. */
const sizeLimit = 1024 * 1024;
/** In milliseconds: what a helper gave is good for this long. A helper may start a program that starts another, or ask a cloud. */
const helperLifetime = 300_000;
const helperLimit = 100;

/**
 * Credentials as `docker login` keeps them: from Docker's `config.json`, its `auths`, and the programs named by `credsStore` and `credHelpers`. The file is read
 * again when it changes; a file that is not there holds nothing. What a helper gives is kept for five minutes. One source may serve any
 * number of registries.
 *
 * The registry answers `unavailable` when the file cannot be read or a helper fails.
 *
 * | option | default | |
 * | --- | --- | --- |
 * | `path` | `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json` | |
 * | `clock` | the system's | |
 *
 * @example
 * ```ts
 * import { dockerConfig, dockerHub, remoteRegistry } from "oci-manifold";
 * const credentials = dockerConfig();
 * const hub = dockerHub({ credentials });
 * const team = remoteRegistry("https://registry.example", { credentials });
 * await Promise.all([hub.close(), team.close()]);
 * ```
 */
export function dockerConfig(options: DockerConfigOptions = {}): CredentialFunction {
  const { clock = systemClock } = options;
  const path = options.path ?? join(process.env.DOCKER_CONFIG || join(homedir(), ".docker"), "config.json");
  const helped = new LRUCache<string, { readonly given: Promise<Credentials | undefined>; readonly until: number }>({ max: helperLimit });
  let read: { readonly version: string; readonly auths: DockerAuths } | undefined;

  const current = async (): Promise<DockerAuths | undefined> => {
    try {
      const { mtimeMs, size, ino } = await stat(path);
      const version = `${mtimeMs} ${size} ${ino}`;
      if (read?.version === version) return read.auths;
      if (size > sizeLimit) throw new RemoteFailure("Docker's config.json is too large");
      const auths = readAuths(await readFile(path, "utf8"));
      // `docker login` writes the file, also when the secret goes to a helper. Of several who read it together only the first clears.
      if (read?.version !== version) helped.clear();
      read = { version, auths };
      return auths;
    } catch (error) {
      if (error instanceof RemoteFailure) throw error;
      const code = systemCode(error);
      if (code === "ENOENT") return undefined;
      throw new RemoteFailure(`Docker's config.json could not be read (${code})`);
    }
  };

  const ask = (helper: string, server: string): Promise<Credentials | undefined> => {
    const key = `${helper} ${server}`;
    const kept = helped.get(key);
    if (kept && kept.until > clock.elapsed()) return kept.given;
    const given = runCredentialHelper(helper, server);
    helped.set(key, { given, until: clock.elapsed() + helperLifetime });
    given.catch(() => helped.delete(key));
    return given;
  };

  return async ({ registry }) => {
    const auths = await current();
    if (!auths) return undefined;
    const server = dockerServer(registry);
    const helper = auths.credHelpers.get(server) ?? auths.credsStore;
    if (helper) return ask(helper, server);
    const entry = findEntry(auths, server);
    return entry && entryCredentials(entry);
  };
}

/** What Docker's config.json says of credentials. Maps, since its keys are anybody's. */
interface DockerAuths {
  readonly auths: ReadonlyMap<string, AuthsEntry>;
  readonly credsStore: string | undefined;
  readonly credHelpers: ReadonlyMap<string, string>;
}

type AuthsEntry = Readonly<Record<string, unknown>>;

/** Docker keeps the credentials of Docker Hub under the address of an API that is long gone. */
const hubServer = "https://index.docker.io/v1/";
const hubHosts: ReadonlySet<string> = new Set(["docker.io", "index.docker.io", "registry-1.docker.io"]);

/** The name under which Docker keeps a registry's credentials, and asks helpers for them. */
function dockerServer(registry: string): string {
  return hubHosts.has(registry) ? hubServer : registry;
}

/** @throws RemoteFailure when it is no JSON object. */
function readAuths(text: string): DockerAuths {
  let value: unknown;
  try {
    value = text.trim() === "" ? {} : JSON.parse(text);
  } catch {
    value = undefined;
  }
  const { auths, credsStore, credHelpers } = recordOf(value) ?? fail("Docker's config.json is no JSON object");
  const helpers = entriesOf(credHelpers).filter((entry): entry is [string, string] => typeof entry[1] === "string");
  return {
    auths: new Map(entriesOf(auths).map(([key, entry]) => [key, recordOf(entry) ?? {}])),
    credsStore: typeof credsStore === "string" ? credsStore : undefined,
    credHelpers: new Map(helpers),
  };
}

/** By the key that Docker writes, else by the host of what older ones and other programs write: with a scheme, a path. */
function findEntry({ auths }: DockerAuths, server: string): AuthsEntry | undefined {
  const exact = auths.get(server);
  if (exact) return exact;
  // Other programs (podman, Kubernetes) write plain hosts for Docker Hub too.
  const isSame = (host: string) => (server === hubServer ? hubHosts.has(host) : host === server);
  return [...auths].find(([key]) => isSame(hostOf(key)))?.[1];
}

/** @throws RemoteFailure when its `auth` is malformed; the message holds nothing of it. */
export function entryCredentials(entry: AuthsEntry): Credentials | undefined {
  const { auth, identitytoken: identityToken, username, password } = entry;
  if (typeof identityToken === "string" && identityToken !== "") return { identityToken };
  if (typeof auth === "string" && auth !== "") {
    const decoded = Buffer.from(auth, "base64").toString("utf8");
    const end = decoded.indexOf(":");
    if (end < 1) return fail("Docker's config.json holds an auth that is not base64 of a user name and a password");
    return { username: decoded.slice(0, end), password: withoutPadding(decoded.slice(end + 1)) };
  }
  return typeof username === "string" && username !== "" && typeof password === "string" ? { username, password } : undefined;
}

/** Docker once padded passwords with NUL. */
function withoutPadding(password: string): string {
  let [start, end] = [0, password.length];
  while (password[start] === "\0") start++;
  while (end > start && password[end - 1] === "\0") end--;
  return password.slice(start, end);
}

function hostOf(key: string): string {
  return key.includes("://") && URL.canParse(key) ? new URL(key).host : (key.replace(/^[^/]*:\/\//, "").split("/", 1)[0] ?? "");
}

function recordOf(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : undefined;
}

function entriesOf(value: unknown): [string, unknown][] {
  return Object.entries(recordOf(value) ?? {});
}

function fail(message: string): never {
  throw new RemoteFailure(message);
}

/** In milliseconds. Some helpers call their cloud; one that asks a person never ends. */
const timeout = 10_000;
const outputLimit = 64 * 1024;

/**
 * What `docker-credential-<name> get` gives for a server; `undefined` when it has nothing. (The protocol of docker/docker-credential-helpers)
 * @throws RemoteFailure that says why it gave no answer, without its output: that may hold a secret.
 */
export async function runCredentialHelper(name: string, server: string): Promise<Credentials | undefined> {
  // It becomes part of a program's name.
  if (!/^[A-Za-z0-9._-]+$/.test(name)) throw new RemoteFailure("Docker's config.json names a credential helper that cannot be one");
  const program = `docker-credential-${name}`;
  const { output, code } = await run(program, server);
  if (code === undefined) return readAnswer(output, program);
  if (/^credentials not found/.test(output.trim())) return undefined;
  throw new RemoteFailure(`${program} failed (${code})`);
}

/** @returns what it wrote, and a code when it failed. */
function run(program: string, input: string): Promise<{ readonly output: string; readonly code?: string }> {
  return new Promise((resolve) => {
    const options = { timeout, maxBuffer: outputLimit, killSignal: "SIGKILL", windowsHide: true, encoding: "utf8" } as const;
    const child = execFile(program, ["get"], options, (error, output) => {
      if (!error) return resolve({ output });
      const { code, killed } = error as { code?: unknown; killed?: boolean };
      const reason = typeof code === "string" ? code : killed ? `ended after ${timeout / 1000} s` : `exit code ${code}`;
      resolve({ output, code: reason });
    });
    // A program that cannot be started, or does not read, is an error for the callback.
    child.stdin?.on("error", () => {}).end(input);
  });
}

function readAnswer(output: string, program: string): Credentials | undefined {
  let answer: unknown;
  try {
    answer = JSON.parse(output);
  } catch {
    answer = undefined;
  }
  const { Username: username = "", Secret: secret } = recordOf(answer) ?? {};
  if (typeof username !== "string" || typeof secret !== "string") throw new RemoteFailure(`${program} answered no credentials`);
  if (username === identityTokenUser) return { identityToken: secret };
  return username === "" && secret === "" ? undefined : { username, password: secret };
}
