import type { Clock } from "oci-manifold";
import { postgresMetadata } from "oci-manifold/storage/postgres";
import { s3BlobStore } from "oci-manifold/storage/s3";
import { fakeClock } from "oci-manifold/testing";
import { describe, expect, test } from "vitest";
import { recorder } from "../http/support.js";
import { FakeS3, fakeSdk, s3Failure } from "./fake-s3.js";
import { agreeingPool, hookedPool } from "./postgres-pools.js";

const refused = () => Object.assign(new Error("connect ECONNREFUSED 10.1.2.3:9000"), { code: "ECONNREFUSED" });

/** A store of each kind that is away until told otherwise. */
const kinds = {
  S3(clock: Clock, events: ReturnType<typeof recorder>, error: () => Error) {
    const client = new FakeS3();
    client.intercept = () => Promise.reject(error());
    const store = s3BlobStore({ client, sdk: fakeSdk, bucket: "images", clock, events, startTimeout: "30s" });
    const comeUp = () => {
      client.intercept = ({ answer }) => answer();
    };
    return { store, comeUp };
  },
  PostgreSQL(clock: Clock, events: ReturnType<typeof recorder>, error: () => Error) {
    let up = false;
    const pool = hookedPool(agreeingPool(), (_, run) => (up ? run() : Promise.reject(error())));
    const store = postgresMetadata({ pool, clock, events, startTimeout: "30s" });
    const comeUp = () => {
      up = true;
    };
    return { store, comeUp };
  },
};

describe.each(Object.entries(kinds))("a start while %s is down", (name, open) => {
  const opened = (error: () => Error = refused) => {
    const clock = fakeClock();
    const events = recorder();
    const { store, comeUp } = open(clock, events, error);
    const told = () => events.of("fault").map(({ message }) => message);
    return { clock, store, comeUp, told };
  };

  test("waits, says so once, and goes on when it comes up", async () => {
    const { clock, store, comeUp, told } = opened();
    let ready = false;
    const starting = store.ready().then(() => {
      ready = true;
    });
    await clock.advance(15_000);
    expect(ready).toBe(false);
    expect(told()).toEqual([expect.stringMatching(new RegExp(`^the start waits up to 30 s for .*${name}.*ECONNREFUSED`))]);
    comeUp();
    await clock.advance(10_000);
    await starting;
    expect(told()).toEqual([expect.anything(), expect.stringContaining("answers: the start goes on")]);
  });

  test("waits no longer than it may, and then says why", async () => {
    const { clock, store } = opened();
    const starting = store.ready().then(
      () => "ready",
      (error: Error) => error.message,
    );
    await clock.advance(60_000);
    expect(await starting).toContain("ECONNREFUSED");
  });

  test("ends its wait when the store is closed", async () => {
    const { clock, store } = opened();
    const starting = store.ready().then(
      () => "ready",
      () => "given up",
    );
    await clock.advance(5_000);
    await store.close();
    expect(await starting).toBe("given up");
  });

  test("does not wait for what does not pass by itself", async () => {
    const wrong = name === "S3" ? () => s3Failure("NoSuchBucket", 404) : () => Object.assign(new Error("no"), { code: "28P01" });
    const { store, told } = opened(wrong);
    await expect(store.ready()).rejects.toMatchObject({ code: "UNAVAILABLE", retryAfter: undefined });
    expect(told()).toEqual([]);
  });
});

describe("the permissions of a bucket", () => {
  const commands: Readonly<Record<string, readonly string[]>> = {
    "s3:ListBucket": ["ListObjectsV2"],
    "s3:ListBucketMultipartUploads": ["ListMultipartUploads"],
    "s3:ListMultipartUploadParts": ["ListParts"],
    "s3:AbortMultipartUpload": ["AbortMultipartUpload"],
    "s3:GetObject": ["GetObject"],
    "s3:PutObject": ["PutObject", "CreateMultipartUpload"],
    "s3:DeleteObject": ["DeleteObject"],
  };
  /** A bucket in which these may not be done. */
  function lacking(...permissions: string[]) {
    const client = new FakeS3();
    const denied = permissions.flatMap((permission) => commands[permission] ?? []);
    client.intercept = ({ command, answer }) => (denied.includes(command) ? Promise.reject(s3Failure("AccessDenied", 403)) : answer());
    return { client, blobs: s3BlobStore({ client, sdk: fakeSdk, bucket: "images", prefix: "registry/" }) };
  }

  test.each(Object.keys(commands))("that lacks %s are told at the start", async (permission) => {
    const { blobs } = lacking(permission);
    await expect(blobs.ready()).rejects.toMatchObject({
      code: "UNAVAILABLE",
      retryAfter: undefined,
      message: `access to the S3 bucket images below registry/ is denied for ${permission}: permit these credentials to do that`,
    });
  });

  test("are all named where several are missing", async () => {
    const { blobs } = lacking("s3:GetObject", "s3:AbortMultipartUpload", "s3:DeleteObject");
    await expect(blobs.ready()).rejects.toThrow("s3:GetObject, s3:AbortMultipartUpload, s3:DeleteObject");
  });

  test("are tried once, and nothing is left of it", async () => {
    const { client, blobs } = lacking();
    await Promise.all([blobs.ready(), blobs.ready()]);
    await blobs.ready();
    expect(client.asked).toEqual([
      "ListObjectsV2",
      "ListMultipartUploads",
      "PutObject",
      "GetObject",
      "CreateMultipartUpload",
      "ListParts",
      "AbortMultipartUpload",
      "DeleteObject",
    ]);
    expect([client.objects.size, client.uploads.size]).toEqual([0, 0]);
  });

  test("are tried again after a failure", async () => {
    const { client, blobs } = lacking("s3:DeleteObject");
    await expect(blobs.ready()).rejects.toThrow("s3:DeleteObject");
    client.intercept = ({ answer }) => answer();
    await blobs.ready();
  });

  test("say nothing of a full store: reads go on", async () => {
    const { client, blobs } = lacking();
    client.intercept = ({ command, answer }) => (command === "PutObject" ? Promise.reject(s3Failure("QuotaExceeded", 403)) : answer());
    await blobs.ready();
  });
});
