import { type Descriptor, mediaTypes } from "oci-manifold";
import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { TurnCounter } from "./counted-turns.js";
import { type Answer, codeOf, protocols, type Stack, stack } from "./stack.js";

/** Far below a thousand, and what two turns of the library's own budget hold, since both are told of a turn's end by the event loop. */
const readsInTurn = 900;

const subject = { mediaType: mediaTypes.ociManifest, digest: digestOf(Buffer.from("a subject")), size: 9 };

function indexOf(children: number): string {
  const manifests = Array.from({ length: children }, (_, number) => ({
    mediaType: mediaTypes.ociManifest,
    digest: digestOf(Buffer.from(`child ${number}`)),
    size: 7,
  }));
  return JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests });
}

/** An index of nothing that refers to the subject. */
function referrer(artifactType: string, annotations: Record<string, string> = {}): string {
  return JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [], subject, artifactType, annotations });
}

async function push({ putManifest }: Stack, body: string): Promise<string> {
  const digest = digestOf(Buffer.from(body));
  const { status } = await putManifest("release/team/app", digest, body, mediaTypes.ociIndex);
  expect(status).toBe(201);
  return digest;
}

function listed({ body }: Answer): Descriptor[] {
  return (JSON.parse(body.toString()) as { manifests: Descriptor[] }).manifests;
}

/** All pages, as a client follows them. */
async function follow({ ask }: Stack, path: string): Promise<Answer[]> {
  const pages: Answer[] = [];
  for (let next: string | undefined = path; next !== undefined; ) {
    const page: Answer = await ask("GET", next);
    expect(page.status).toBe(200);
    pages.push(page);
    next = /<([^>]*)>/.exec(page.headers.link ?? "")?.[1];
  }
  return pages;
}

test.each([10_000, 5000, 300])("an index with %i absent children is refused after a look at few of them", async (children) => {
  const counter = new TurnCounter();
  const { putManifest } = await stack({ storage: counter.around });
  const { answer, reads } = await counter.of(() => putManifest("release/team/app", "1", indexOf(children), mediaTypes.ociIndex));
  expect([answer.status, codeOf(answer)]).toEqual([400, "MANIFEST_BLOB_UNKNOWN"]);
  expect((JSON.parse(answer.body.toString()) as { errors: unknown[] }).errors).toHaveLength(1);
  expect(reads).toBeLessThan(200);
});

test("an index with 10,000 children is taken over many turns where none of them has to be here", async () => {
  const counter = new TurnCounter();
  const { putManifest } = await stack({ storage: counter.around, local: { sparse: true } });
  const counted = await counter.of(() => putManifest("release/team/app", "1", indexOf(10_000), mediaTypes.ociIndex));
  expect(counted.answer.status).toBe(201);
  expect(counted.reads).toBeGreaterThan(10_000);
  expect(counted.readsInTurn).toBeLessThan(readsInTurn);
});

test.each(protocols)("a manifest with thousands of tags is deleted by digest in one commit, over many turns, over %s", async (protocol) => {
  const counter = new TurnCounter();
  const { ask, pushImage } = await stack({ front: protocol, storage: counter.around });
  const { digest, manifest } = await pushImage("release/team/app", "first");
  for (let from = 0; from < 3000; from += 100) {
    const tags = Array.from({ length: 100 }, (_, number) => `tag=v${from + number}`).join("&");
    const headers = { "content-type": mediaTypes.ociManifest };
    const { status } = await ask("PUT", `/v2/release/team/app/manifests/${digest}?${tags}`, { body: manifest, headers });
    expect(status).toBe(201);
  }
  const counted = await counter.of(() => ask("DELETE", `/v2/release/team/app/manifests/${digest}`));
  expect([counted.answer.status, counted.commits]).toEqual([202, 1]);
  // A page of a thousand short records is read at once.
  expect(counted.readsInTurn).toBeLessThan(1000 + readsInTurn);
  for (const reference of ["first", "v0", "v2999", digest]) {
    expect((await ask("GET", `/v2/release/team/app/manifests/${reference}`)).status).toBe(404);
  }
});

test.each([1, 50])("a listing of one type reads none of 300 referrers of another, %i a page", async (n) => {
  const counter = new TurnCounter();
  const made = await stack({ storage: counter.around });
  for (let number = 0; number < 300; number++) await push(made, referrer("application/vnd.example.report", { number: `${number}` }));
  const wanted = [await push(made, referrer("application/vnd.example.signature"))];
  wanted.push(await push(made, referrer("application/vnd.example.signature", { second: "1" })));
  const path = `/v2/release/team/app/referrers/${subject.digest}?n=${n}&artifactType=application/vnd.example.signature`;
  const counted = await counter.of(() => follow(made, path));
  expect(counted.answer.flatMap(listed).map(({ digest }) => digest)).toEqual(wanted.sort());
  expect(counted.reads).toBeLessThan(10);
});

test("many long annotations make a page no longer than a manifest, and no more of them are read than it shows", async () => {
  const counter = new TurnCounter();
  const made = await stack({ storage: counter.around });
  const megabyte = "x".repeat(1_000_000);
  const pushed = [];
  for (let number = 0; number < 20; number++) pushed.push(await push(made, referrer(`application/vnd.example.n${number}`, { megabyte })));
  const path = `/v2/release/team/app/referrers/${subject.digest}`;
  const one = await counter.of(() => made.ask("GET", path));
  expect(listed(one.answer)).toHaveLength(4);
  expect(one.answer.body.byteLength).toBeLessThan(4 * 1024 * 1024);
  expect(one.bytes).toBeLessThan(6_000_000);
  const all = await follow(made, path);
  expect(all.flatMap(listed).map(({ digest }) => digest)).toEqual(pushed.sort());
  for (const { annotations } of all.flatMap(listed)) expect(annotations).toEqual({ megabyte });
});

test.each([6, 12])("%i referrers with 19,000 annotations each are read over many turns", async (count) => {
  const counter = new TurnCounter();
  const made = await stack({ storage: counter.around });
  const annotations = Object.fromEntries(Array.from({ length: 19_000 }, (_, number) => [`key-${number}`, "v"]));
  const size = Buffer.byteLength(referrer("application/vnd.example.n00", annotations));
  for (let number = 0; number < count; number++) await push(made, referrer(`application/vnd.example.n${10 + number}`, annotations));
  const counted = await counter.of(() => made.ask("GET", `/v2/release/team/app/referrers/${subject.digest}`));
  expect(listed(counted.answer)).toHaveLength(count);
  for (const item of listed(counted.answer)) expect(Object.keys(item.annotations ?? {})).toHaveLength(19_000);
  // Two fit into a turn, and the counter may take two turns for one.
  expect(counted.bytesInTurn).toBeLessThan(5 * size);
});

test("a repository's own fallback tag is filtered before its entries are looked for", async () => {
  const counter = new TurnCounter();
  const { ask, putManifest } = await stack({ storage: counter.around, local: { sparse: true } });
  const index = JSON.parse(indexOf(3000)) as { manifests: Descriptor[] };
  const manifests = index.manifests.map((child, number) => ({
    ...child,
    artifactType: `application/vnd.example.${number === 7 ? "a" : "b"}`,
  }));
  const tag = subject.digest.replace(":", "-");
  expect((await putManifest("release/team/app", tag, JSON.stringify({ ...index, manifests }), mediaTypes.ociIndex)).status).toBe(201);
  const path = `/v2/release/team/app/referrers/${subject.digest}?artifactType=application/vnd.example.a`;
  const counted = await counter.of(() => ask("GET", path));
  expect(listed(counted.answer)).toEqual([]);
  expect(counted.reads).toBeLessThan(10);
});
