import { type Page, type PageRequest, pageOf } from "../core/page.js";
import { recordKey } from "../core/records.js";
import type { Promotion } from "../core/storing-registry.js";
import type { Partition } from "./partition.js";

/** Digits of a time in a key: times then sort as texts do. */
const timeDigits = 15;

export async function recordPromotion({ name, metadata, clock }: Partition, promotion: Omit<Promotion, "time">): Promise<Promotion> {
  const { repository, tag, ...value } = promotion;
  for (let time = clock.now(); ; time++) {
    const key = recordKey.promotion(name, repository, tag, timeText(time));
    // Another one in the same millisecond keeps its place.
    if (await metadata.commit([{ key, is: "absent" }], [{ put: key, value }])) return { ...promotion, time };
  }
}

/** A cursor is a tag and a time: a tag may have any number of promotions. */
export async function listPromotions(
  { name, metadata }: Partition,
  repository: string,
  { after, limit, tag: only }: PageRequest & { readonly tag?: string },
): Promise<Page<Promotion>> {
  const items: Promotion[] = [];
  const collect = async (under: readonly string[], behind: string | undefined): Promise<void> => {
    const wanted = limit + 1 - items.length;
    if (wanted <= 0) return;
    const records = await metadata.page({
      kind: "promotion",
      under: [name, repository, ...under],
      limit: wanted,
      ...(behind !== undefined && { after: behind }),
    });
    for (const { key, value } of records) {
      const [, , tag = "", time = ""] = key.parts;
      items.push({ repository, tag, ...value, time: Number(time) });
    }
  };
  const [tag, time] = after?.split(" ") ?? [];
  if (only !== undefined) await collect([only], tag === only ? time : undefined);
  else {
    if (tag !== undefined) await collect([tag], time);
    await collect([], tag);
  }
  return pageOf(items, limit, (last) => `${last.tag} ${timeText(last.time)}`);
}

function timeText(time: number): string {
  return String(Math.floor(time)).padStart(timeDigits, "0");
}
