import type { Lookup } from "../core/lookup.js";
import type { Page } from "../core/page.js";
import type { Registry } from "../core/registry.js";
import { mergePages, type PagePart } from "../views/merge-pages.js";
import { type ConnectedMember, localName } from "./members.js";
import { Answers } from "./read.js";

/**
 * One listing of all members that may be asked by name. Where none could answer, their failures become one, as in any other read.
 * @param o.listed called with what each member listed.
 * @param o.known answers what members that cannot list are known to have.
 */
export async function mergedListing<T>(
  local: Registry,
  members: readonly ConnectedMember[],
  ask: (registry: Registry) => Promise<Lookup<Page<T>>>,
  limit: number,
  keyOf: (item: T) => string,
  o: { listed?: (member: string, items: readonly T[]) => void; known?: () => Promise<PagePart<T>> } = {},
): Promise<Lookup<Page<T>>> {
  const others = members.flatMap(({ connector, byName }) => (byName ? [{ member: connector.name, registry: byName }] : []));
  const all = [{ member: localName, registry: local }, ...others];
  const parts = await Promise.all(all.map(async ({ member, registry }) => ({ member, lookup: await ask(registry) })));
  for (const { member, lookup } of parts) if (lookup.kind === "found" && member !== localName) o.listed?.(member, lookup.value.items);
  if (parts.some(({ lookup }) => lookup.kind === "found")) {
    // Only beside what somebody said: a list of what was once seen must not hide that nobody answers.
    const known = o.known ? [await o.known()] : [];
    return mergePages([...parts, ...known], limit, keyOf, { member: all.map(({ member }) => member) });
  }
  const answers = new Answers();
  for (const { member, lookup } of parts) answers.note(member, lookup);
  return answers.fold();
}
