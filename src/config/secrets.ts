import { readFile } from "node:fs/promises";
import { RegistryError } from "../core/errors.js";
import type { CredentialSource } from "../remote/credentials.js";
import { nearest } from "./nearest.js";
import { either, objectAt, type Problems, type Read, record, text } from "./reading.js";

/** Where a secret is: a configuration never holds one. */
export type SecretConfig = { readonly env: string } | { readonly file: string };

/** The name of a function that the host gave, or where user and password are. They are read anew for each token, so they may change. */
export type CredentialsConfig =
  | string
  | { readonly username: string | SecretConfig; readonly password: SecretConfig }
  | { readonly identityToken: SecretConfig };

const secret: Read<SecretConfig> = (value, path, problems) => {
  if (typeof value === "string") return problems.add(path, 'secrets are not written here: use { "env": "NAME" } or { "file": "path" }');
  const object = objectAt(value, path, problems);
  if (!object) return undefined;
  return "file" in object
    ? record<{ readonly file: string }>(["file"], { file: text })(value, path, problems)
    : record<{ readonly env: string }>(["env"], { env: text })(value, path, problems);
};

const isText = (value: unknown) => typeof value === "string";
const userAndPassword = record<{ readonly username: string | SecretConfig; readonly password: SecretConfig }>(["username", "password"], {
  username: either<string, SecretConfig>(isText, text, secret),
  password: secret,
});
const token = record<{ readonly identityToken: SecretConfig }>(["identityToken"], { identityToken: secret });

export const credentials: Read<CredentialsConfig> = either(
  isText,
  text,
  either((value) => typeof value === "object" && value !== null && "identityToken" in value, token, userAndPassword),
);

/** Finds now what the first pull would find: a variable that is not set, a file that is not there, a function that the host did not give. */
export async function checkCredentials(
  config: CredentialsConfig,
  path: string,
  functions: Readonly<Record<string, CredentialSource>>,
  problems: Problems,
): Promise<void> {
  if (typeof config === "string") {
    if (!Object.hasOwn(functions, config)) {
      problems.add(path, `the host gave no credentials ${JSON.stringify(config)}${nearest(config, Object.keys(functions))}`);
    }
    return;
  }
  for (const [key, one] of Object.entries(config)) {
    if (typeof one === "string") continue;
    await reveal(one).catch((error: unknown) => problems.add(`${path}.${key}`, error instanceof Error ? error.message : "cannot be read"));
  }
}

/** The credentials that a remote is given. */
export function credentialSource(config: CredentialsConfig, functions: Readonly<Record<string, CredentialSource>>): CredentialSource {
  if (typeof config === "string") {
    const given = functions[config];
    if (given === undefined) throw new RegistryError("UNKNOWN", `the host gave no credentials ${JSON.stringify(config)}`);
    return given;
  }
  if ("identityToken" in config) return async () => ({ identityToken: await reveal(config.identityToken) });
  const { username, password } = config;
  return async () => ({
    username: typeof username === "string" ? username : await reveal(username),
    password: await reveal(password),
  });
}

/** Reads a secret. Messages name its place, never the secret. */
async function reveal(where: SecretConfig): Promise<string> {
  if ("env" in where) {
    const value = process.env[where.env];
    if (value === undefined || value === "") throw new RegistryError("UNAVAILABLE", `the environment has no ${where.env}`);
    return value;
  }
  try {
    // Editors and `echo` end files with a line break.
    return (await readFile(where.file, "utf8")).replace(/\r?\n$/, "");
  } catch {
    throw new RegistryError("UNAVAILABLE", `the file ${where.file} cannot be read`);
  }
}
