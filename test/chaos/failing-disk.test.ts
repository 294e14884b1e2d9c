import { randomBytes } from "node:crypto";
import { request } from "node:http";
import { join } from "node:path";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { get, startUpload, uploadOffset, uploadUrl, withDigest } from "../interop/http.js";
import { run } from "../interop/processes.js";
import { Ledger } from "./ledger.js";
import { startNode } from "./node.js";
import { blobPath, manifestPath, pushBlob, pushManifest } from "./pushes.js";
import { injecting, withStrace } from "./strace.js";

/** What a client is told while the disk fails: a status and an error that names no path of the server. */
async function failure(response: Response, folder: string): Promise<number> {
  const text = await response.text();
  expect(text).not.toContain(folder);
  expect(JSON.parse(text).errors).toMatchObject([{ code: "UNAVAILABLE", message: expect.stringContaining("storage") }]);
  expect(response.headers.get("retry-after")).toMatch(/^\d+$/);
  return response.status;
}

const put = (origin: string, bytes: Uint8Array) =>
  fetch(withDigest(`${origin}/v2/app/blobs/uploads/`, digestOf(bytes)), { method: "POST", body: bytes });

withStrace("a disk that fails", () => {
  test.each([
    ["anything is synced", "fsync,fdatasync:error=EIO", ""],
    ["the database is synced", "fsync,fdatasync:error=EIO", "metadata.sqlite-wal"],
    ["the database is written", "pwrite64:error=EIO", "metadata.sqlite-wal"],
    ["a folder is synced", "fsync:error=EIO", "uploads"],
    ["bytes are written", "pwrite64:error=EIO", ""],
    ["a file takes its place", "rename:error=EIO", ""],
  ])("as %s: a push is told so, nothing acknowledged is lost, and it works again after", async (_, fault, file) => {
    const node = await startNode();
    const ledger = new Ledger();
    const blobs = [randomBytes(100_000), randomBytes(300)];
    for (const bytes of blobs) await pushBlob(ledger, node.origin, "app", bytes);
    await pushManifest(ledger, node.origin, "app", "latest", blobs);

    const mend = await injecting(node.process.pid, [fault], file === "" ? [] : [join(node.folder, file)]);
    const refused = randomBytes(200_000);
    for (let tries = 0; tries < 3; tries++) expect(await failure(await put(node.origin, refused), node.folder)).toBe(503);
    await ledger.checkEverything(node.origin);
    await mend();
    expect(node.process.output).toContain("fault: POST /v2/app/blobs/uploads/");
    expect(node.process.output).toContain(node.folder);

    await ledger.checkEverything(node.origin);
    await pushBlob(ledger, node.origin, "app", refused);
    await node.process.stop("SIGKILL");
    const again = await startNode({ folder: node.folder });
    await ledger.checkEverything(again.origin);
  });

  test("as an upload is closed: what could not be synced is sent anew, since a second sync would tell a lie", async () => {
    const node = await startNode();
    const layer = randomBytes(500_000);
    const begun = await startUpload(node.origin, "app");
    const upload = uploadUrl(node.origin, await fetch(begun, { method: "PATCH", body: layer }), 202);
    const staged = join(node.folder, "uploads", upload.slice(upload.lastIndexOf("/") + 1));
    const mend = await injecting(node.process.pid, ["fsync:error=EIO"], [staged]);
    expect(await failure(await fetch(withDigest(upload, digestOf(layer)), { method: "PUT" }), node.folder)).toBe(503);
    await mend();
    const { offset, location } = await uploadOffset(node.origin, upload);
    expect(offset).toBe(0);
    const sent = uploadUrl(node.origin, await fetch(location, { method: "PATCH", body: layer }), 202);
    expect((await fetch(withDigest(sent, digestOf(layer)), { method: "PUT" })).status).toBe(201);
    expect((await get(`${node.origin}${blobPath("app", digestOf(layer))}`)).bodyDigest).toBe(digestOf(layer));
  });

  test("as a commit is synced, and the process dies: what was refused may have happened, but never without its bytes", async () => {
    const node = await startNode();
    const bytes = randomBytes(100_000);
    const mend = await injecting(node.process.pid, ["fsync,fdatasync:error=EIO"], [join(node.folder, "metadata.sqlite-wal")]);
    expect((await put(node.origin, bytes)).status).toBe(503);
    await node.process.stop("SIGKILL");
    await mend();
    const again = await startNode({ folder: node.folder });
    const { status } = await get(`${again.origin}${blobPath("app", digestOf(bytes))}`);
    expect([200, 404]).toContain(status);
    expect((await put(again.origin, bytes)).status).toBe(201);
    expect(await get(`${again.origin}${blobPath("app", digestOf(bytes))}`)).toMatchObject({ status: 200, bodyDigest: digestOf(bytes) });
  });

  test("in the middle of a pull: the connection breaks, and nobody takes it for complete", async () => {
    const node = await startNode();
    const ledger = new Ledger();
    const layer = randomBytes(40_000_000);
    await pushBlob(ledger, node.origin, "app", layer);
    const path = blobPath("app", digestOf(layer));
    const file = (await run("find", [join(node.folder, "blobs"), "-type", "f"])).trim();

    const pulling = new Promise<{ received: number; complete: boolean }>((resolve, reject) => {
      request(`${node.origin}${path}`, (response) => {
        let received = 0;
        response.on("error", () => {});
        response.on("close", () => resolve({ received, complete: response.complete }));
        response.once("readable", () => {
          injecting(node.process.pid, ["pread64:error=EIO", "preadv:error=EIO"], [file]).then((mend) => {
            response.on("data", (chunk: Buffer) => {
              received += chunk.byteLength;
            });
            response.once("close", () => void mend());
          }, reject);
        });
      })
        .on("error", reject)
        .end();
    });
    const { received, complete } = await pulling;
    expect(complete).toBe(false);
    expect(received).toBeLessThan(layer.byteLength);
    await node.process.until(() => node.process.output.includes("fault: GET"), "told");
    await ledger.checkEverything(node.origin);
  });

  test.each([
    ["too many files are open", "openat:error=EMFILE"],
    ["the disk is read-only", "openat:error=EROFS"],
    ["access is denied", "openat:error=EACCES"],
  ])("because %s: a push and a pull are told to come again, and what is known without a file goes on", async (what, fault) => {
    const node = await startNode();
    const ledger = new Ledger();
    const blobs = [randomBytes(100_000), randomBytes(300)];
    for (const bytes of blobs) await pushBlob(ledger, node.origin, "app", bytes);
    await pushManifest(ledger, node.origin, "app", "latest", blobs);
    const mend = await injecting(node.process.pid, [fault]);
    const [layer = new Uint8Array()] = blobs;
    expect(await failure(await fetch(`${node.origin}${blobPath("app", digestOf(layer))}`), node.folder)).toBe(503);
    expect(await failure(await put(node.origin, randomBytes(50_000)), node.folder)).toBe(503);
    expect((await get(`${node.origin}${manifestPath("app", "latest")}`)).status).toBe(200);
    await mend();
    expect(node.process.output).toContain(what);
    await ledger.checkEverything(node.origin);
    await pushBlob(ledger, node.origin, "app", randomBytes(1000));
  });
});
