import type { NameMemory } from "../core/linking-registry.js";
import type { Condition } from "../core/metadata-store.js";
import { pageOf } from "../core/page.js";
import { recordKey } from "../core/records.js";
import type { Partition } from "./partition.js";

/** Whose a name is, kept with the registry of the aggregate: after a restart nobody else may take it. */
export function storedNames({ name, metadata }: Partition): NameMemory {
  const get: NameMemory["get"] = async (repository) => (await metadata.get(recordKey.nameOrigin(name, repository)))?.value;
  return {
    get,
    async bind(repository, { member, since }, instead) {
      const key = recordKey.nameOrigin(name, repository);
      const stored = await metadata.get(key);
      if (stored && stored.value.member !== instead?.member) return stored.value;
      const condition: Condition = stored ? { key, is: "version", version: stored.version } : { key, is: "absent" };
      const value = { member, since };
      if (await metadata.commit([condition], [{ put: key, value }])) return value;
      return (await get(repository)) ?? value;
    },
    async list({ after, limit }) {
      const records = await metadata.page({ kind: "nameOrigin", under: [name], limit: limit + 1, ...(after !== undefined && { after }) });
      const names = records.map(({ key, value }) => ({ ...value, repository: key.parts[1] ?? "" }));
      return pageOf(names, limit, ({ repository }) => repository);
    },
  };
}
