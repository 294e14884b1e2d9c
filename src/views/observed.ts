import { type Clock, systemClock } from "../core/clock.js";
import { isRegistryError } from "../core/errors.js";
import { type EventSink, type ManifestEvent, safeSink } from "../core/events.js";
import type { Lookup } from "../core/lookup.js";
import type { CallOptions, Registry } from "../core/registry.js";
import { behindNamespaces, intercept } from "./intercept.js";

/**
 * A view that tells what is pulled, pushed and deleted: one event for every manifest GET, PUT and DELETE, whoever asks. `nodeHandler` puts it in front of
 * what it serves when it is given `events`; hosts that call a registry themselves use it directly.
 *
 * @example
 * ```ts
 * import { localRegistry } from "oci-manifold";
 * import { observed } from "oci-manifold/extend";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const release = localRegistry({ storage: memoryStorage(), name: "release" });
 * const watched = observed(release, { emit: (type, event) => console.log(type, event) });
 * await watched.getManifest("team/app", "1.0"); // manifest.get … MANIFEST_UNKNOWN
 * ```
 */
export function observed(registry: Registry, sink: EventSink, clock: Clock = systemClock): Registry {
  const events = safeSink(sink);
  const facts = (repository: string, reference: string, o: CallOptions | undefined) => ({
    time: clock.now(),
    repository,
    reference,
    ...(o?.caller && { caller: o.caller }),
    ...(o?.address !== undefined && { address: o.address }),
    ...(o?.trace !== undefined && { trace: o.trace }),
  });
  const telling = async <T>(
    type: "manifest.put" | "manifest.delete",
    event: Omit<ManifestEvent, "outcome">,
    run: () => Promise<T>,
    more: (value: T) => Partial<ManifestEvent>,
  ): Promise<T> => {
    try {
      const value = await run();
      events.emit(type, { ...event, ...more(value), outcome: "ok" });
      return value;
    } catch (error) {
      events.emit(type, { ...event, outcome: isRegistryError(error) ? error.code : "UNKNOWN" });
      throw error;
    }
  };
  return intercept(
    registry,
    ({ repository }) => repository,
    () => ({
      ...behindNamespaces(registry, (behind) => observed(behind, sink, clock)),
      async getManifest(repository, reference, o) {
        const lookup = await registry.getManifest(repository, reference, o);
        events.emit("manifest.get", { ...facts(repository, reference, o), ...outcomeOf(lookup) });
        return lookup;
      },
      putManifest: (repository, reference, content, o) =>
        telling(
          "manifest.put",
          facts(repository, reference, o),
          () => registry.putManifest(repository, reference, content, o),
          (descriptor) => ({
            digest: descriptor.digest,
            bytes: descriptor.size,
          }),
        ),
      deleteManifest: (repository, reference, o) =>
        telling(
          "manifest.delete",
          facts(repository, reference, o),
          () => registry.deleteManifest(repository, reference, o),
          () => ({}),
        ),
    }),
  );
}

function outcomeOf(
  lookup: Lookup<{ descriptor: { digest: string; size: number } }>,
): Pick<ManifestEvent, "outcome"> & Partial<ManifestEvent> {
  switch (lookup.kind) {
    case "found": {
      const { member, cache } = lookup.served;
      const { digest, size } = lookup.value.descriptor;
      return { outcome: "ok", digest, bytes: size, member, ...(cache && { cache }) };
    }
    case "absent":
    case "linked":
      return { outcome: "MANIFEST_UNKNOWN" };
    case "denied":
    case "unavailable":
      return { outcome: lookup.error.code };
  }
}
