import { allPages } from "../../core/page.js";
import { recordPages } from "../../local/every-record.js";
import { endUpload, isAlive } from "../../local/upload-session.js";
import { batchSize, type Collection, type ResumePlace } from "./collection.js";

/** Ends upload sessions that have expired, then discards staged bytes that belong to no session: spools and uploads of processes that were killed. */
export async function collectUploads(run: Collection, from: ResumePlace | undefined): Promise<void> {
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
  run.progress(["staged"]);
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
    run.progress(["staged", id]);
  }
  await discard();
}
