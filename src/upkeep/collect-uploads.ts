import { parseDigest } from "../core/digest.js";
import { allPages } from "../core/page.js";
import { recordKey } from "../core/records.js";
import { recordPages } from "../local/every-record.js";
import { readoptBlob } from "../local/quarantine.js";
import { endUpload, isAlive } from "../local/upload-sweep.js";
import { batchSize, type Collection } from "./collection.js";
import type { Place } from "./collection-report.js";

/** Upload sessions that have expired, then what belongs to no session: spools and uploads of processes that were killed. */
export async function collectUploads(run: Collection, from: Place | undefined): Promise<void> {
  const [part, place] = from ?? [];
  if (part !== "staged") await endSessions(run);
  await discardStaged(run, part === "staged" ? place : undefined);
}

async function endSessions(run: Collection): Promise<void> {
  const { metadata, storage, clock, counts, dryRun } = run;
  for await (const page of recordPages(metadata, "upload", [])) {
    await run.each(page, async (item) => {
      counts.uploads.checked++;
      if (isAlive(item.value, clock.now()) || !(dryRun || (await endUpload(storage, item)))) return;
      const [registry = "", id = ""] = item.key.parts;
      const { repository, offset, committed } = item.value;
      counts.uploads.ended++;
      if (!committed) run.note({ what: "upload", registry, repository, place: id, size: offset, why: "nobody went on with it in time" });
    });
  }
  run.tell(["staged"]);
}

async function discardStaged(run: Collection, after: string | undefined): Promise<void> {
  const { metadata, blobs, counts, dryRun } = run;
  let old = new Set<string>();
  const discard = async () => {
    if (old.size === 0) return;
    for await (const page of recordPages(metadata, "upload", [])) {
      await run.pause();
      for (const { key } of page) old.delete(key.parts[1] ?? "");
    }
    await run.each(old, async (id) => {
      if (!dryRun) await blobs.discardStaged(id);
      counts.staged.discarded++;
      run.note({ what: "staged", place: id, why: "no upload goes on with it" });
    });
    old = new Set();
  };
  const listed = allPages(({ limit, after: next = after }) => blobs.listStaged({ limit, ...(next !== undefined && { after: next }) }));
  for await (const { id, modifiedAt } of listed) {
    counts.staged.checked++;
    if (modifiedAt <= run.graceBegan) old.add(id);
    if (old.size < batchSize) continue;
    await discard();
    run.tell(["staged", id]);
  }
  await discard();
}

/**
 * How long it is remembered that a member stated what is not so, in milliseconds: the client that was refused has come back by then. When it is stated again, the next
 * manifest refutes it again.
 */
const distrustedFor = 30 * 24 * 60 * 60_000;

/** Quarantine whose time is over, leases that nobody holds any more, and old distrust. */
export async function collectExpired(run: Collection): Promise<void> {
  const { metadata, blobs, clock, counts, dryRun } = run;
  for await (const page of recordPages(metadata, "quarantine", [])) {
    await run.each(page, async ({ key, value, version }) => {
      counts.quarantined.checked++;
      if (value.at > run.quarantineBegan) return;
      const [text = "", location = ""] = key.parts;
      const digest = parseDigest(text);
      const served = (await metadata.get(recordKey.blob(digest)))?.value.location === location;
      if (!dryRun) {
        // They may have come back since, as by a restore: bytes that are right are not thrown away.
        const now = served ? "replaced" : await readoptBlob(run, { digest, location });
        if (now === "readopted" || now === "unreadable") return;
        if (!(await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) return;
        if (!served) await blobs.delete(location);
      }
      counts.quarantined.removed++;
      if (served || value.missing) return;
      counts.quarantined.bytes += value.size;
      counts.bytes += value.size;
      run.note({ what: "quarantined", digest, place: location, size: value.size, why: value.why });
    });
  }
  for await (const page of recordPages(metadata, "lease", [])) {
    await run.each(page, async ({ key, value, version }) => {
      counts.leases.checked++;
      if (value.expiresAt > clock.now()) return;
      if (dryRun || (await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) counts.leases.removed++;
    });
  }
  for await (const page of recordPages(metadata, "distrusted", [])) {
    await run.each(page, async ({ key, value, version }) => {
      counts.distrusted.checked++;
      if (value.at > clock.now() - distrustedFor) return;
      if (dryRun || (await metadata.commit([{ key, is: "version", version }], [{ remove: key }]))) counts.distrusted.removed++;
    });
  }
  run.tell([]);
}
