import { execFile } from "node:child_process";
import type { Credentials } from "./credentials.js";
import { RemoteFailure } from "./failures.js";

/** In milliseconds. Some helpers call their cloud; one that asks a person never ends. */
const timeout = 10_000;
const outputLimit = 64 * 1024;
/** By the protocol of docker-credential-helpers this stands for a user name where the secret is an identity token. */
const identityTokenUser = "<token>";

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
      const said = typeof code === "string" ? code : killed ? `ended after ${timeout / 1000} s` : `exit code ${code}`;
      resolve({ output, code: said });
    });
    // A program that cannot be started, or does not read, is told by the callback.
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
  const { Username: username = "", Secret: secret } = (typeof answer === "object" && answer !== null ? answer : {}) as Record<
    string,
    unknown
  >;
  if (typeof username !== "string" || typeof secret !== "string") throw new RemoteFailure(`${program} answered no credentials`);
  if (username === identityTokenUser) return { identityToken: secret };
  return username === "" && secret === "" ? undefined : { username, password: secret };
}
