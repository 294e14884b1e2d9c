import { deepEqual, equal, notEqual, ok, rejects } from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { digestOf } from "../core/digest.js";
import type { Registry, UploadSession } from "../core/registry.js";
import { chunked, failingAfter, sameBytes } from "./blob-fixtures.js";
import { barrier, refused } from "./contract.js";
import { blobBytes, pushFixtureBlob, type RegistryCapabilities, type RegistryCase, untouched, valueFrom } from "./registry-fixtures.js";

const bytes = randomBytes(200_000);
const digest = digestOf(bytes);
const part = (start: number, end?: number) => chunked(bytes.subarray(start, end), 10_000);

export function uploadCases(contract: RegistryCase, { uploads, resume, sha512 }: RegistryCapabilities): void {
  if (!uploads) {
    contract("upload sessions are refused", async ({ registry, at }) => {
      await refused(registry.startUpload(at("app")), "UNSUPPORTED");
      await refused(registry.resumeUpload(at("app"), "0".repeat(32)), "UNSUPPORTED", "BLOB_UPLOAD_UNKNOWN");
    });
    return;
  }
  appendingCases(contract);
  endingCases(contract);
  if (sha512) {
    contract("an upload may end in a sha512 digest, announced or not", async ({ registry, at }) => {
      for (const o of [{}, { algorithm: "sha512" }] as const) {
        const upload = await registry.startUpload(at("app"), o);
        await upload.append(part(0));
        equal((await upload.commit(digestOf(bytes, "sha512"))).digest, digestOf(bytes, "sha512"));
      }
      sameBytes(await blobBytes(await registry.getBlob(at("app"), digestOf(bytes, "sha512"))), bytes);
    });
  }
  if (resume) resumingCases(contract);
  else {
    contract("an upload is not found again by its id, and the error says so", async ({ registry, at }) => {
      const { id } = await registry.startUpload(at("app"));
      await refused(registry.resumeUpload(at("app"), id), "BLOB_UPLOAD_UNKNOWN", "UNSUPPORTED");
    });
  }
}

function appendingCases(contract: RegistryCase): void {
  contract("an upload in several parts becomes one visible blob, and nothing is seen before", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    equal(upload.offset, 0);
    ok(Number.isFinite(upload.expiresAt) && upload.id.length > 0);
    equal(await upload.append(part(0, 70_000)), 70_000);
    equal(await upload.append(part(70_000, 150_000), { start: 70_000 }), 150_000);
    equal(await upload.append(part(150_000), { start: 150_000, length: 50_000 }), 200_000);
    equal(upload.offset, 200_000);
    equal((await registry.resolveBlob(at("app"), digest)).kind, "absent");
    equal(upload.committed, undefined);
    const descriptor = await upload.commit(digest);
    deepEqual([descriptor.digest, descriptor.size, upload.committed], [digest, 200_000, digest]);
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
    equal((await registry.resolveBlob(at("other"), digest)).kind, "absent");
  });
  contract("an upload of nothing becomes the empty blob", async ({ registry, at }) => {
    const empty = digestOf(new Uint8Array());
    const upload = await registry.startUpload(at("app"));
    equal((await upload.commit(empty)).size, 0);
    equal(valueFrom(await registry.resolveBlob(at("app"), empty)).size, 0);
  });
  contract("two uploads have ids of their own and do not mix", async ({ registry, at }) => {
    const [one, two] = [await registry.startUpload(at("app")), await registry.startUpload(at("app"))];
    notEqual(one.id, two.id);
    const other = randomBytes(50_000);
    await Promise.all([one.append(part(0)), two.append(chunked(other, 7_000))]);
    await Promise.all([one.commit(digest), two.commit(digestOf(other))]);
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digestOf(other))), other);
  });
  contract("a part that does not start at the offset of the upload is RANGE_INVALID, and the session goes on", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    await upload.append(part(0, 50_000));
    for (const start of [0, 49_999, 50_001]) await refused(upload.append(part(50_000), { start, length: 150_000 }), "RANGE_INVALID");
    equal(upload.offset, 50_000);
    await upload.append(part(50_000), { start: 50_000 });
    equal((await upload.commit(digest)).size, 200_000);
  });
  contract("a part of another length is SIZE_INVALID; what came up to that length may be kept, no more", async ({ registry, at }) => {
    for (const [sent, length] of [
      [10_000, 20_000],
      [30_000, 5_000],
    ] as const) {
      const upload = await registry.startUpload(at("app"));
      await upload.append(part(0, 50_000));
      await refused(upload.append(part(50_000, 50_000 + sent), { start: 50_000, length }), "SIZE_INVALID");
      const resumed = await again(registry, at("app"), upload);
      ok(resumed.offset >= 50_000 && resumed.offset <= 50_000 + Math.min(sent, length), `its offset is ${resumed.offset}`);
      await finished(registry, at("app"), resumed);
    }
  });
  contract(
    "the error of a source that fails midway is thrown; the upload gives its offset and goes on from there",
    async ({ registry, at }) => {
      const upload = await registry.startUpload(at("app"));
      await rejects(upload.append(failingAfter(bytes.subarray(0, 80_000), 10_000, new Error("the line broke"))), /the line broke/);
      const resumed = await again(registry, at("app"), upload);
      ok(resumed.offset <= 80_000, `its offset is ${resumed.offset}`);
      await finished(registry, at("app"), resumed);
    },
  );
  contract("a signal that aborts ends an append with its reason, and the upload goes on", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    const controller = new AbortController();
    async function* source() {
      yield bytes.subarray(0, 10_000);
      controller.abort(new Error("enough"));
      yield bytes.subarray(10_000, 20_000);
      await new Promise((resolve) => setImmediate(resolve));
      yield bytes.subarray(20_000, 30_000);
    }
    await rejects(upload.append(source(), { signal: controller.signal }), /enough/);
    const resumed = await again(registry, at("app"), upload);
    ok(resumed.offset <= 30_000, `its offset is ${resumed.offset}`);
    await finished(registry, at("app"), resumed);
  });
  contract("a second writer has to wait, and does not mix its bytes in", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    const [arrived, go] = [barrier(), barrier()];
    async function* slow() {
      yield bytes.subarray(0, 100_000);
      arrived.open();
      await go.opened;
      yield bytes.subarray(100_000);
    }
    const writing = upload.append(slow());
    await arrived.opened;
    await refused(upload.append(chunked(randomBytes(10), 10)), "UNAVAILABLE");
    go.open();
    equal(await writing, 200_000);
    equal((await upload.commit(digest)).size, 200_000);
  });
}

/** The offset of an upload after a failure, as a client finds it out: by its id where it can be resumed, else by itself. */
async function again(registry: Registry, repository: string, upload: UploadSession): Promise<UploadSession> {
  return registry.resumeUpload(repository, upload.id).catch(() => upload);
}

/** Sends the rest as clients do: where somebody still writes, or the upload has another offset by now, they ask again. */
async function finished(registry: Registry, repository: string, upload: UploadSession): Promise<void> {
  for (let left = 1000; ; left--) {
    const { offset } = upload;
    const sending = upload.append(part(offset), { start: offset, length: bytes.byteLength - offset });
    const refusal = await sending.then(
      () => undefined,
      (error: unknown) => error,
    );
    if (refusal === undefined) break;
    await refused(sending, ...(left > 0 ? (["UNAVAILABLE", "RANGE_INVALID"] as const) : []));
    await new Promise((resolve) => setTimeout(resolve, 10));
    upload = await again(registry, repository, upload);
  }
  equal((await upload.commit(digest)).size, 200_000);
}

function endingCases(contract: RegistryCase): void {
  contract("a commit of other bytes is DIGEST_INVALID and makes nothing visible", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    await upload.append(part(0));
    const other = digestOf(Buffer.from("other"));
    await refused(upload.commit(other), "DIGEST_INVALID");
    equal((await registry.resolveBlob(at("app"), other)).kind, "absent");
    equal((await registry.resolveBlob(at("app"), digest)).kind, "absent");
  });
  contract("a malformed digest is refused, and the upload can still be committed", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    await upload.append(part(0));
    await refused(upload.commit("sha256:AB"), "DIGEST_INVALID");
    equal((await upload.commit(digest)).size, 200_000);
  });
  contract("a commit can be repeated, with the same answer", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    await upload.append(part(0));
    const first = await upload.commit(digest);
    deepEqual(await upload.commit(digest), first);
    deepEqual(await (await again(registry, at("app"), upload)).commit(digest), first);
  });
  contract("an upload of what is there already ends well", async ({ registry, at }) => {
    await pushFixtureBlob(registry, at("app"), bytes);
    await pushFixtureBlob(registry, at("other"), bytes);
    for (const repository of ["app", "new"]) {
      const upload = await registry.startUpload(at(repository));
      await upload.append(part(0));
      equal((await upload.commit(digest)).digest, digest);
      sameBytes(await blobBytes(await registry.getBlob(at(repository), digest)), bytes);
    }
  });
  contract("a cancelled upload is over, and can be cancelled again", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    await upload.append(part(0));
    await upload.cancel();
    await upload.cancel();
    await refused(upload.append(part(0, 10)), "BLOB_UPLOAD_UNKNOWN");
    await refused(upload.commit(digest), "BLOB_UPLOAD_UNKNOWN");
    await refused(registry.resumeUpload(at("app"), upload.id), "BLOB_UPLOAD_UNKNOWN", "UNSUPPORTED");
    equal((await registry.resolveBlob(at("app"), digest)).kind, "absent");
  });
  contract("a cancel after the commit leaves the blob", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    await upload.append(part(0));
    await upload.commit(digest);
    await upload.cancel();
    await upload.cancel();
    sameBytes(await blobBytes(await registry.getBlob(at("app"), digest)), bytes);
  });
  contract("an upload to a malformed name is refused", async ({ registry }) => {
    for (const name of ["App", "a//b", "../etc", ""]) await refused(registry.startUpload(name), "NAME_INVALID", "NAME_UNKNOWN");
  });
  contract("an append after the commit is BLOB_UPLOAD_UNKNOWN", async ({ registry, at }) => {
    const upload = await registry.startUpload(at("app"));
    await upload.append(part(0));
    await upload.commit(digest);
    await refused(upload.append(untouched()), "BLOB_UPLOAD_UNKNOWN");
  });
}

function resumingCases(contract: RegistryCase): void {
  contract("an upload goes on by its id", async ({ registry, at }) => {
    const { id, append } = await begun();
    await append;
    const resumed = await registry.resumeUpload(at("app"), id);
    deepEqual([resumed.id, resumed.offset], [id, 80_000]);
    await resumed.append(part(80_000), { start: 80_000 });
    equal((await (await registry.resumeUpload(at("app"), id)).commit(digest)).size, 200_000);
    async function begun() {
      const upload = await registry.startUpload(at("app"));
      return { id: upload.id, append: upload.append(part(0, 80_000)) };
    }
  });
  contract("an upload is unknown to other repositories, and an unknown or malformed id is unknown", async ({ registry, at }) => {
    const { id } = await registry.startUpload(at("app"));
    for (const [repository, asked] of [
      ["other", id],
      ["app/x", id],
      ["app", "0".repeat(32)],
      ["app", "../../etc/passwd"],
      ["app", ""],
    ] as const) {
      await refused(registry.resumeUpload(at(repository), asked), "BLOB_UPLOAD_UNKNOWN");
    }
  });
  contract("an upload belongs to its caller", async ({ registry, at }) => {
    const ann = { caller: { name: "ann" } };
    const { id } = await registry.startUpload(at("app"), ann);
    await refused(registry.resumeUpload(at("app"), id, { caller: { name: "bob" } }), "BLOB_UPLOAD_UNKNOWN");
    await refused(registry.resumeUpload(at("app"), id), "BLOB_UPLOAD_UNKNOWN");
    const nobodys = await registry.startUpload(at("app"));
    await refused(registry.resumeUpload(at("app"), nobodys.id, ann), "BLOB_UPLOAD_UNKNOWN");
    const resumed = await registry.resumeUpload(at("app"), id, { caller: { name: "ann", team: "blue" } });
    await resumed.append(part(0));
    equal((await resumed.commit(digest)).size, 200_000);
  });
}
