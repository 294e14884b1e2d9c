import { randomBytes } from "node:crypto";
import { digestOf } from "oci-manifold/extend";
import { describe, expect, test } from "vitest";
import { type Answer, type Client, locationOf } from "./client.js";
import { type Algorithm, absentDigest, algorithms, freshName, octets } from "./content.js";
import { connected, connectedKinds, everywhere } from "./registries.js";

function mount(on: Client, repository: string, digest: string, from?: string): Promise<Answer> {
  const source = from === undefined ? "" : `&from=${encodeURIComponent(from)}`;
  return on.post(`/v2/${repository}/blobs/uploads/?mount=${encodeURIComponent(digest)}${source}`);
}

async function expectMounted(on: Client, got: Answer, repository: string, digest: string, bytes: Uint8Array): Promise<void> {
  const path = `/v2/${repository}/blobs/${digest}`;
  expect(got).toMatchObject({ status: 201, headers: { location: path, "docker-content-digest": digest, "content-length": "0" } });
  expect((await on.head(path)).status).toBe(200);
  expect((await on.get(path)).body.equals(bytes)).toBe(true);
}

/** 202 and a session with which the blob can be uploaded. */
async function expectSession(on: Client, got: Answer, repository: string, algorithm: Algorithm = "sha256"): Promise<void> {
  expect(got).toMatchObject({ status: 202, headers: { range: "0-0", "content-length": "0" } });
  const location = locationOf(got);
  expect(location.startsWith(`/v2/${repository}/blobs/uploads/`)).toBe(true);
  const bytes = randomBytes(30);
  const digest = digestOf(bytes, algorithm);
  expect((await on.put(`${location}?digest=${digest}`, octets, bytes)).status).toBe(201);
  expect((await on.get(`/v2/${repository}/blobs/${digest}`)).body.equals(bytes)).toBe(true);
}

everywhere((on) => {
  describe.each(algorithms)("%s", (algorithm) => {
    test("a blob of the repository in `from` is mounted, and each repository keeps its own", async () => {
      const [to, from] = [freshName(), freshName()];
      const bytes = randomBytes(500);
      const digest = await on.pushBlob(from, bytes, algorithm);
      await expectMounted(on, await mount(on, to, digest, from), to, digest, bytes);
      expect((await on.delete(`/v2/${from}/blobs/${digest}`)).status).toBe(202);
      expect((await on.get(`/v2/${to}/blobs/${digest}`)).body.equals(bytes)).toBe(true);
      expect((await on.delete(`/v2/${to}/blobs/${digest}`)).status).toBe(202);
      expect((await on.head(`/v2/${to}/blobs/${digest}`)).status).toBe(404);
    });

    test("regctl: without `from` it is mounted from wherever it is", async () => {
      const to = freshName();
      const bytes = randomBytes(500);
      const digest = await on.pushBlob(freshName(), bytes, algorithm);
      await expectMounted(on, await mount(on, to, digest), to, digest, bytes);
    });

    test("what the repository in `from` does not have is a session, never 404", async () => {
      const [to, from] = [freshName(), freshName()];
      await on.pushBlob(from, randomBytes(10), algorithm);
      await expectSession(on, await mount(on, to, absentDigest(algorithm), from), to, algorithm);
    });

    test("what nobody has is a session", async () => {
      const to = freshName();
      await expectSession(on, await mount(on, to, absentDigest(algorithm)), to, algorithm);
    });
  });

  test.each(["nowhere/at/all", "NOT/a name", "..", "_oci", ""])("`from` a repository that is not there is a session: %j", async (from) => {
    const to = freshName();
    await expectSession(on, await mount(on, to, absentDigest(), from), to);
  });

  test("a blob of a third repository is not mounted from one that does not have it", async () => {
    const to = freshName();
    const digest = await on.pushBlob(freshName(), randomBytes(10));
    const other = freshName();
    await on.pushBlob(other, randomBytes(10));
    await expectSession(on, await mount(on, to, digest, other), to);
    expect((await on.head(`/v2/${to}/blobs/${digest}`)).status).toBe(404);
  });

  test.each(["sha256:short", `md5:${"0".repeat(32)}`, `sha256:${"A".repeat(64)}`, "latest", ""])(
    "a malformed digest is a session: %j",
    async (digest) => {
      const to = freshName();
      for (const from of [undefined, freshName()]) await expectSession(on, await mount(on, to, digest, from), to);
    },
  );

  test("a repository may mount its own blob", async () => {
    const repository = freshName();
    const bytes = randomBytes(10);
    const digest = await on.pushBlob(repository, bytes);
    await expectMounted(on, await mount(on, repository, digest, repository), repository, digest, bytes);
  });

  test("the same blob may be mounted twice, and by many at once", async () => {
    const [to, from] = [freshName(), freshName()];
    const bytes = randomBytes(10);
    const digest = await on.pushBlob(from, bytes);
    for (const got of await Promise.all(Array.from({ length: 6 }, () => mount(on, to, digest, from))))
      await expectMounted(on, got, to, digest, bytes);
  });

  test("podman: HEAD, a mount that is a session, DELETE of the session, then an upload of its own", async () => {
    const [to, from] = [freshName(), freshName()];
    const bytes = randomBytes(100);
    expect((await on.head(`/v2/${to}/blobs/${digestOf(bytes)}`)).status).toBe(404);
    const got = await mount(on, to, digestOf(bytes), from);
    expect(got.status).toBe(202);
    expect((await on.delete(locationOf(got))).status).toBe(204);
    await on.pushBlob(to, bytes);
    expect((await on.get(`/v2/${to}/blobs/${digestOf(bytes)}`)).body.equals(bytes)).toBe(true);
  });
});

everywhere(
  (on) => {
    test("what only a connector has can be mounted from its repository, and without `from`", async () => {
      const { repository, layer } = connected;
      const digest = digestOf(layer);
      for (const from of [repository, undefined]) {
        const to = freshName();
        await expectMounted(on, await mount(on, to, digest, from), to, digest, layer);
      }
    });
  },
  { kinds: connectedKinds },
);

everywhere(
  (on) => {
    test("what the caller may not pull is not mounted, and not mentioned", async () => {
      const bytes = randomBytes(10);
      const digest = digestOf(bytes);
      const pushed = await on.post(`/v2/secret/app/blobs/uploads/?digest=${digest}`, { ...octets, "X-User": "ann" }, bytes);
      expect(pushed.status).toBe(201);
      for (const from of ["secret/app", undefined]) {
        const to = freshName();
        const [known, unknown] = [await mount(on, to, digest, from), await mount(on, to, absentDigest(), from)];
        expect([known.status, Object.keys(known.headers)]).toEqual([202, Object.keys(unknown.headers)]);
        expect((await on.head(`/v2/${to}/blobs/${digest}`)).status).toBe(404);
        await expectSession(on, known, to);
      }
    });
  },
  {
    handler: {
      caller: ({ headers }) => (typeof headers["x-user"] === "string" ? { name: headers["x-user"] } : undefined),
      authorize: ({ caller, repository }) => caller?.name === "ann" || !repository?.startsWith("secret/"),
    },
  },
);
