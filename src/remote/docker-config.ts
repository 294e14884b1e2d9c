import { readFile, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { LRUCache } from "lru-cache";
import { type Clock, systemClock } from "../core/clock.js";
import { systemCode } from "../core/system-code.js";
import { runCredentialHelper } from "./credential-helper.js";
import type { CredentialFunction, Credentials } from "./credentials.js";
import { type DockerAuths, dockerServer, entryCredentials, findEntry, readAuths } from "./docker-auths.js";
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
    if (kept && kept.until > clock.now()) return kept.given;
    const given = runCredentialHelper(helper, server);
    helped.set(key, { given, until: clock.now() + helperLifetime });
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
