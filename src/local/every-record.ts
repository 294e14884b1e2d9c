import type { MetadataStore, RecordItem } from "../core/metadata-store.js";
import type { RecordKind } from "../core/records.js";

const pageSize = 1000;

/**
 * All records of a kind below `under`, page by page, in bounded memory. A page goes on behind a part, never in the middle of what has that part in common: what is
 * below the last part of a full page is read by itself.
 *
 * @param after the part behind `under` to go on from, exclusive.
 */
export async function* recordPages<K extends RecordKind>(
  metadata: MetadataStore,
  kind: K,
  under: readonly string[],
  after?: string,
): AsyncGenerator<readonly RecordItem<K>[]> {
  const depth = under.length;
  for (let from = after; ; ) {
    const page: readonly RecordItem<K>[] = await metadata.page({
      kind,
      under,
      limit: pageSize,
      ...(from !== undefined && { after: from }),
    });
    const last = page.at(-1)?.key.parts[depth];
    if (page.length < pageSize || last === undefined) {
      if (page.length > 0) yield page;
      return;
    }
    const whole = page.filter(({ key }) => key.parts[depth] !== last || key.parts.length === depth + 1);
    if (whole.length > 0) yield whole;
    yield* recordPages(metadata, kind, [...under, last]);
    from = last;
  }
}
