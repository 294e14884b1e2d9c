import { type Digest, parseDigest } from "../../core/digest.js";
import type { Change, RecordItem } from "../../core/metadata-store.js";
import { recordKey } from "../../core/records.js";
import { recordPages } from "../../local/every-record.js";
import { readoptBlob } from "../../local/quarantine.js";
import { batchSize, type Collection } from "./collection.js";
import { readAll, referencedAmong } from "./referenced-bytes.js";

/**
 * How long it is remembered that a member stated what is not so, in milliseconds: the client that was refused has come back by then. When it is stated again, the next
 * manifest refutes it again.
 */
const distrustedFor = 30 * 24 * 60 * 60_000;

/** Removes what is over by its time: bytes in quarantine, leases that nobody holds any more, and distrust. */
export async function collectExpired(run: Collection): Promise<void> {
  let expired: RecordItem<"quarantine">[] = [];
  for await (const page of recordPages(run.metadata, "quarantine", [])) {
    await run.pause();
    run.counts.quarantined.checked += page.length;
    expired.push(...page.filter(({ value }) => value.at <= run.quarantineBegan));
    if (expired.length < batchSize) continue;
    await removeExpired(run, expired);
    expired = [];
  }
  if (expired.length > 0) await removeExpired(run, expired);
  await removeLeases(run);
  await removeDistrust(run);
  run.progress([]);
}

/** What was wrong or missing may have been put right since, or is the bytes of another blob. */
async function removeExpired(run: Collection, expired: readonly RecordItem<"quarantine">[]): Promise<void> {
  const found = await readAll(run, new Set(expired.map(locationOf)));
  const asExpected = new Map(found);
  for (const item of expired)
    if (found.get(locationOf(item)) === "missing") asExpected.set(locationOf(item), { size: item.value.size, digests: [digestOf(item)] });
  const referenced = await referencedAmong(run, asExpected);
  if (referenced === "everything") return;
  await run.each(expired, async (item) => {
    const bytes = found.get(locationOf(item)) ?? "missing";
    if (bytes === "unreadable") return;
    const digest = referenced.get(locationOf(item));
    if (digest === undefined) return remove(run, item, bytes === "missing" ? 0 : bytes.size);
    // A location that bytes may come back to is remembered for as long as somebody refers to them.
    if (bytes !== "missing" && !run.dryRun) await readopt(run, item, digest, bytes.size);
  });
}

/** Takes referenced bytes into use. Where the store has a record of others, which are not whole, they wait for a scrub to find that out. */
async function readopt(run: Collection, item: RecordItem<"quarantine">, digest: Digest, size: number): Promise<void> {
  const { metadata, clock } = run;
  const { key, value, version } = item;
  const location = locationOf(item);
  const kept = { size, why: value.why, at: clock.now() };
  const changes: Change[] = [{ remove: key }, { put: recordKey.quarantine(digest, location), value: kept }];
  if (await metadata.commit([{ key, is: "version", version }], changes))
    await readoptBlob(run, { digest, location }, { signal: run.signal });
}

async function remove(run: Collection, item: RecordItem<"quarantine">, size: number): Promise<void> {
  const { metadata, blobs, counts, dryRun } = run;
  const { key, value, version } = item;
  const [digest, location] = [digestOf(item), locationOf(item)];
  const served = (await metadata.get(recordKey.blob(digest)))?.value.location === location;
  if (!dryRun && !(await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) return;
  counts.quarantined.removed++;
  // Where nothing was, something may be by now.
  if (served || size === 0) return;
  if (!dryRun) await blobs.delete(location);
  counts.quarantined.bytes += size;
  counts.bytes += size;
  run.note({ what: "quarantined", digest, place: location, size, why: value.why });
}

const digestOf = ({ key }: RecordItem<"quarantine">) => parseDigest(key.parts[0] ?? "");
const locationOf = ({ key }: RecordItem<"quarantine">) => key.parts[1] ?? "";

async function removeLeases(run: Collection): Promise<void> {
  const { metadata, clock, counts, dryRun } = run;
  for await (const page of recordPages(metadata, "lease", [])) {
    await run.each(page, async ({ key, value, version }) => {
      counts.leases.checked++;
      if (value.expiresAt > clock.now()) return;
      if (dryRun || (await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) counts.leases.removed++;
    });
  }
}

async function removeDistrust(run: Collection): Promise<void> {
  const { metadata, clock, counts, dryRun } = run;
  for await (const page of recordPages(metadata, "distrusted", [])) {
    await run.each(page, async ({ key, value, version }) => {
      counts.distrusted.checked++;
      if (value.at > clock.now() - distrustedFor) return;
      if (dryRun || (await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) counts.distrusted.removed++;
    });
  }
}
