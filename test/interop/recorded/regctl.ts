/**
 * regctl 0.8 to 0.11 (regclient): one Accept line a type; a blob by anonymous mount first, then one PUT to the session that came of it, or PATCHes of 1 MiB
 * with Content-Range that go on where Range says; copies by mounts; artifacts whose OCI-Subject must name the subject; sha512 by `digest-algorithm` and,
 * from 0.11.3 on, `?tag=`; tag ls, repo ls, tag rm; a download that goes on by Range.
 */
import { randomBytes } from "node:crypto";
import { type Descriptor, mediaTypes } from "oci-manifold";
import { type Answer, type Place, RecordedClient } from "./client.js";
import {
  type Content,
  content,
  deprecatedArtifact,
  descriptor,
  dockerList,
  dockerManifest,
  dockerSchema1,
  dockerSchema1Signed,
  emptyType,
  holds,
  type Image,
  image,
  imageConfig,
  layer,
  manifest,
  sameReferrers,
} from "./content.js";

const octets = { "content-type": "application/octet-stream" };
const accept = [
  mediaTypes.ociIndex,
  mediaTypes.ociManifest,
  dockerList,
  dockerManifest,
  dockerSchema1Signed,
  dockerSchema1,
  deprecatedArtifact,
];
const chunk = 1024 * 1024;

export async function regctl({ origin, repository }: Place): Promise<void> {
  const client = new RecordedClient(origin, { "user-agent": "regclient/regctl (v0.11.5)" });
  const repo = new Regctl(client, repository);
  (await client.send("GET", "/v2/")).is(200);
  const pushed = image("amd64", [layer(3_500_000), layer(900)]);
  for (const blob of pushed.blobs) await repo.putBlob(blob);
  await repo.putManifest("v1", pushed.manifest);
  await repo.putInChunks(content("application/octet-stream", randomBytes(2 * chunk + 77)));
  await copy(repo, new Regctl(client, `${repository}/copy`), pushed);
  await attach(repo, pushed.manifest);
  await pushSha512(repo);
  await listAndDelete(repo, pushed);
  client.close();
}

class Regctl {
  constructor(
    readonly client: RecordedClient,
    readonly repository: string,
  ) {}

  head(reference: string): Promise<Answer> {
    return this.client.send("HEAD", this.at(`manifests/${reference}`), { headers: { accept } });
  }

  get(reference: string): Promise<Answer> {
    return this.client.send("GET", this.at(`manifests/${reference}`), { headers: { accept } });
  }

  /** 201 is done; 202 with a Location is gone on with; any other answer is passed over for a POST without a mount. */
  async putBlob(blob: Content): Promise<void> {
    const begun = await this.client.send("POST", this.at(`blobs/uploads/?${new URLSearchParams({ mount: blob.digest })}`));
    if (begun.is(201, 202).status === 202) await this.#put(begun.location, blob.digest, blob.bytes);
  }

  async putInChunks(blob: Content): Promise<void> {
    let { location } = (await this.client.send("POST", this.at("blobs/uploads/"))).is(202);
    for (let start = 0; start < blob.size; ) {
      const body = blob.bytes.subarray(start, start + chunk);
      const patched = await this.#patch(location, start, body);
      start = endIn(patched.is(202)) + 1;
      ({ location } = patched);
      // Had the answer been lost, it would send the same again, and read from the refusal how to go on.
      const refused = await this.#patch(location, start - body.byteLength, body);
      if (endIn(refused.is(416)) + 1 !== start) refused.fail(`Range does not end at ${start - 1}`);
      ({ location } = refused);
      if (endIn((await this.client.send("GET", location)).is(204)) + 1 !== start) throw new Error("the session says another range");
    }
    await this.#put(location, blob.digest);
    holds((await this.client.send("GET", this.at(`blobs/${blob.digest}`))).is(200), blob);
  }

  /** With another algorithm than sha256, where a POST told which. */
  async putWithAlgorithm(blob: Content, algorithm: string): Promise<void> {
    const begun = await this.client.send("POST", this.at(`blobs/uploads/?digest-algorithm=${algorithm}`));
    await this.#put(begun.is(202).location, blob.digest, blob.bytes);
  }

  async putManifest(reference: string, { mediaType, bytes, digest }: Content, subject?: string): Promise<Answer> {
    const answer = await this.client.send("PUT", this.at(`manifests/${reference}`), {
      headers: { "content-type": mediaType },
      body: bytes,
    });
    // Otherwise it would write a fallback tag.
    if (subject !== undefined) answer.has("oci-subject", subject);
    return answer.is(201).has("docker-content-digest", digest);
  }

  at(path: string): string {
    return `/v2/${this.repository}/${path}`;
  }

  #patch(location: URL, start: number, body: Buffer): Promise<Answer> {
    return this.client.send("PATCH", location, {
      headers: { ...octets, "content-range": `${start}-${start + body.byteLength - 1}` },
      body,
    });
  }

  async #put(location: URL, digest: string, body?: Buffer): Promise<void> {
    // Put behind whatever query the Location has, as it is.
    const target = `${location}${location.search === "" ? "?" : "&"}digest=${encodeURIComponent(digest)}`;
    (await this.client.send("PUT", target, { headers: octets, ...(body && { body }) })).is(201, 204);
  }
}

function endIn(answer: Answer): number {
  const [, end] = /^0-(\d+)$/.exec(answer.field("range")) ?? answer.fail("Range cannot be read");
  return Number(end);
}

async function copy(from: Regctl, to: Regctl, { blobs, manifest }: Image): Promise<void> {
  (await to.head("v1")).is(404);
  holds((await from.get("v1")).is(200).describes("v1"), manifest);
  for (const { digest } of blobs) {
    (await to.client.send("HEAD", to.at(`blobs/${digest}`))).is(404);
    const query = new URLSearchParams({ from: from.repository, mount: digest });
    (await to.client.send("POST", to.at(`blobs/uploads/?${query}`))).is(201);
  }
  await to.putManifest("v1", manifest);
  (await to.head("v1")).is(200).has("docker-content-digest", manifest.digest);

  // A mount that did not work leaves a session, which it gives up to begin another.
  const query = new URLSearchParams({ from: from.repository, mount: layer().digest });
  const { location } = (await to.client.send("POST", to.at(`blobs/uploads/?${query}`))).is(202);
  (await to.client.send("DELETE", location)).is(202, 204);
  (await to.client.send("GET", location)).is(404);
}

async function attach(repo: Regctl, subject: Content): Promise<void> {
  const config = content(emptyType, "{}");
  const file = content("application/vnd.example.data", "attached");
  const artifactType = "application/vnd.example.attached";
  (await repo.head("v1")).is(200).describes(subject.digest);
  for (const blob of [config, file]) await repo.putBlob(blob);
  const { manifest: attached } = manifest(config, [file], { artifactType, subject: descriptor(subject) });
  await repo.putManifest(attached.digest, attached, subject.digest);

  const list = (query: string): Promise<Answer> => repo.client.send("GET", repo.at(`referrers/${subject.digest}${query}`));
  const [found]: readonly Descriptor[] = sameReferrers(await list(""), attached);
  if (found?.artifactType !== artifactType) throw new Error("no artifactType");
  sameReferrers(await list(`?${new URLSearchParams({ artifactType })}`), attached);
}

async function pushSha512(repo: Regctl): Promise<void> {
  const blobs = [layer(5000), content(imageConfig, { architecture: "amd64", os: "linux" })];
  const [data, config] = blobs.map(({ mediaType, bytes }) => content(mediaType, bytes, "sha512"));
  if (data === undefined || config === undefined) return;
  await repo.putWithAlgorithm(data, "sha512");
  await repo.putBlob(config);
  const { manifest: pushed } = manifest(config, [data], {}, "sha512");
  const answer = await repo.putManifest(`${pushed.digest}?tag=strong`, pushed);
  // Otherwise it would push once more, by the tag.
  answer.has("oci-tag", "strong");
  (await repo.head("strong")).is(200).has("docker-content-digest", pushed.digest);
  holds((await repo.get("strong")).is(200), pushed);
}

async function listAndDelete(repo: Regctl, { blobs: [blob], manifest }: Image): Promise<void> {
  const json = { headers: { accept: "application/json" } };
  const tags = (await repo.client.send("GET", repo.at("tags/list"), json)).is(200).strings("tags");
  if (tags.join() !== "strong,v1") throw new Error(`tag ls says ${tags}`);
  const page = (await repo.client.send("GET", repo.at("tags/list?n=1"), json)).is(200);
  const rest = (await repo.client.send("GET", page.next ?? page.fail("no Link"), json)).is(200);
  if ([...page.strings("tags"), ...rest.strings("tags")].join() !== "strong,v1") rest.fail("pages that do not make up the list");
  const catalog = (await repo.client.send("GET", "/v2/_catalog", json)).is(200);
  if (!/^(application\/json|text\/plain)(;|$)/.test(catalog.field("content-type"))) catalog.fail("repo ls knows only two types");
  if (!catalog.strings("repositories").includes(repo.repository)) catalog.fail(`lacks ${repo.repository}`);

  if (blob === undefined) return;
  const headers = { range: `bytes=${chunk}-${blob.size}` };
  const resumed = (await repo.client.send("GET", repo.at(`blobs/${blob.digest}`), { headers })).is(206);
  resumed.has("content-range", `bytes ${chunk}-${blob.size - 1}/${blob.size}`);
  if (!resumed.body.equals(blob.bytes.subarray(chunk))) resumed.fail("not the rest");

  // Any other answer makes it overwrite the tag with a manifest of its own and delete that.
  (await repo.client.send("DELETE", repo.at("manifests/v1"))).is(202);
  (await repo.head("v1")).is(404);
  (await repo.head(manifest.digest)).is(200);
  (await repo.client.send("DELETE", repo.at(`manifests/${manifest.digest}`))).is(202);
  (await repo.head(manifest.digest)).is(404);
}
