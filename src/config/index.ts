/**
 * A composition from plain data, such as the contents of a JSON file: `fromConfig` makes it and can change it while it runs. docs/configuration.md has every key.
 *
 * @example
 * ```ts
 * import { readFile } from "node:fs/promises";
 * import { type Config, fromConfig } from "oci-manifold/config";
 * import { nodeHandler } from "oci-manifold/node";
 *
 * async function listen(path: string) {
 *   const read = async () => JSON.parse(await readFile(path, "utf8")) as Config;
 *   const { registry, reload } = await fromConfig(await read());
 *   process.on("SIGHUP", async () => reload(await read()));
 *   return nodeHandler(registry);
 * }
 * ```
 */
import { Drain, releaseEach } from "../aggregate/members.js";
import { systemClock } from "../core/clock.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import { noEvents, safeSink } from "../core/events.js";
import { once, release, retain } from "../core/ownership.js";
import type { Registry } from "../core/registry.js";
import { type Assembled, type Assembly, assemble, type ConfigRuntimeOptions, connectorChanges, nothing, reroute } from "./assembly.js";
import type { Config } from "./config.js";
import { Problems } from "./reading.js";
import { readConfig } from "./shapes.js";
import { SwappableRegistry } from "./swappable-registry.js";

export type { ConfigRuntimeOptions } from "./assembly.js";
export type * from "./config.js";
export type { ConfigProblem } from "./reading.js";
export type { RenameConfig } from "./rename.js";
export type { CredentialsConfig, SecretConfig } from "./secrets.js";

/** A composition that was made of a configuration. */
export interface Configured {
  /** What the configuration serves: the same object whatever `reload` changes. Closing it closes everything. */
  readonly registry: Registry;
  /** Those that have a name, as they are now. */
  readonly registries: Readonly<Record<string, Registry>>;
  /**
   * Changes what is different in the new configuration, and nothing when that cannot work. What runs goes on; what is removed is drained.
   * @throws RegistryError UNKNOWN with every problem, or why something new cannot be made ready.
   */
  reload(config: Config): Promise<void>;
}

/**
 * Composes registries as a configuration says: plain data, such as the contents of a JSON file. Secrets are not in it, only where they are. docs/configuration.md
 * has every key.
 *
 * @param surroundings storages, registries and credentials of the host that the configuration names.
 * @throws RegistryError UNKNOWN with every problem and its path, as `registries.hub.tagTtl: "10 minutes" is not a duration …`; `detail.problems` has them one by one.
 *
 * @example
 * ```ts
 * import { fromConfig } from "oci-manifold/config";
 * const { registry, reload } = await fromConfig({
 *   storages: { data: { kind: "memory" } },
 *   registries: {
 *     release: { kind: "local", storage: "data" },
 *     all: { kind: "routes", routes: { release: "release" } },
 *   },
 *   serve: "all",
 * });
 * await registry.ready();
 * await reload({
 *   storages: { data: { kind: "memory" } },
 *   registries: {
 *     release: { kind: "local", storage: "data" },
 *     all: { kind: "routes", routes: { release: "release", images: "release" } },
 *   },
 *   serve: "all",
 * });
 * await registry.close();
 * ```
 */
export async function fromConfig(config: Config, surroundings: ConfigRuntimeOptions = {}): Promise<Configured> {
  const { clock = systemClock } = surroundings;
  const events = safeSink(surroundings.events ?? noEvents);
  const drain = new Drain({ clock, events, name: "configuration" });
  // Storages and registries of the host are held until the composition is closed, also while no registry uses them.
  const given = [
    ...Object.values(surroundings.storages ?? {}).flatMap(({ blobs, metadata }) => [blobs, metadata]),
    ...Object.values(surroundings.registries ?? {}),
  ];
  const prepare = async (next: Config, before: Assembly): Promise<Assembled> => {
    const problems = new Problems();
    return assemble(readConfig(next, problems), surroundings, before, problems);
  };

  let { assembly: now } = await prepare(config, nothing);
  retain(given);
  let closed = false;
  let last: Promise<unknown> = Promise.resolve();
  const oneAtATime = <T>(run: () => Promise<T>): Promise<T> => {
    const result = last.then(run, run);
    last = result.catch(() => {});
    return result;
  };

  const reload = async (next: Config): Promise<void> => {
    if (closed) throw new RegistryError("UNAVAILABLE", "this composition is closed");
    const { assembly, created } = await prepare(next, now);
    try {
      await Promise.all(created.map((registry) => registry.ready()));
      await changeConnectors(assembly, now);
    } catch (error) {
      await releaseEach(created);
      throw error;
    }
    reroute(assembly);
    const kept = new Set([...assembly.made.values()].map(({ built }) => built.registry));
    const removed = [...now.made.values()].map(({ built }) => built.registry).filter((registry) => !kept.has(registry));
    now = assembly;
    drain.add(removed, front.swap(assembly.registry(assembly.plan.serve, "serve")).useCount);
  };
  const close: Registry["close"] = async (o) => {
    closed = true;
    await last;
    const made = [...now.made.values()].map(({ built }) => built.registry);
    const outcomes = await Promise.allSettled([drain.close(o), releaseEach(made, o)]);
    await release(given, o);
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  };
  const front = new SwappableRegistry(now.registry(now.plan.serve, "serve"), {
    async ready(o) {
      await Promise.all([...now.made.values()].map(({ built }) => built.registry.ready(o)));
    },
    close: once(close),
  });
  return {
    registry: front.registry,
    get registries() {
      const named = [...now.made].filter(([, { planned }]) => planned.id !== planned.path);
      return Object.fromEntries(named.map(([name, { built }]) => [name, built.registry]));
    },
    reload: (next) => oneAtATime(() => reload(next)),
  };
}

/** Sets the connectors of one aggregate after the other. When one refuses, those before it get their old ones back. */
async function changeConnectors(assembly: Assembly, before: Assembly): Promise<void> {
  const undo: (() => Promise<void>)[] = [];
  for (const { path, registry, connectors } of connectorChanges(assembly, before)) {
    const old = registry.connectors;
    try {
      await registry.setConnectors(connectors);
    } catch (error) {
      for (const back of undo.reverse()) await back();
      if (!isRegistryError(error)) throw error;
      throw new RegistryError(error.code, `${path}.connectors: ${error.message}`, { cause: error });
    }
    undo.push(() => registry.setConnectors(old));
  }
}
