import type { Credentials } from "./credentials.js";
import { RemoteFailure } from "./failures.js";

/** What Docker's config.json says of credentials. Maps, since its keys are anybody's. */
export interface DockerAuths {
  readonly auths: ReadonlyMap<string, AuthsEntry>;
  readonly credsStore: string | undefined;
  readonly credHelpers: ReadonlyMap<string, string>;
}

export type AuthsEntry = Readonly<Record<string, unknown>>;

/** Docker keeps the credentials of Docker Hub under the address of an API that is long gone. */
const hubServer = "https://index.docker.io/v1/";
const hubHosts: ReadonlySet<string> = new Set(["docker.io", "index.docker.io", "registry-1.docker.io"]);

/** The name under which Docker keeps a registry's credentials, and asks helpers for them. */
export function dockerServer(registry: string): string {
  return hubHosts.has(registry) ? hubServer : registry;
}

/** @throws RemoteFailure when it is no JSON object. */
export function readAuths(text: string): DockerAuths {
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
export function findEntry({ auths }: DockerAuths, server: string): AuthsEntry | undefined {
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
