import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import type { EventSink } from "../../src/core/events.js";
import type { Registry } from "../../src/core/registry.js";
import { dockerConfig } from "../../src/remote/docker-credentials.js";
import type { RemoteOptions } from "../../src/remote/options.js";
import { acr } from "../../src/remote/presets/acr.js";
import { ecr } from "../../src/remote/presets/ecr.js";
import type { Fault } from "../../src/testing/fake-upstream.js";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { proxyFor } from "./proxying.js";
import { remoteFor, upstreamFor } from "./support.js";

/** In everything that nobody may learn from an error, an event or a status. */
const mark = "s3cr3t";
const login = { username: "robot", password: `${mark}-password` };
const hidden = [mark, Buffer.from(`robot:${mark}-password`).toString("base64"), Buffer.from(`AWS:${mark}`).toString("base64")];
const digest = `sha256:${"1".repeat(64)}`;

const faults: Readonly<Record<string, Fault>> = {
  "an error": { status: 500, body: mark },
  // What it says in its own words is passed on to who writes.
  "a refusal": {
    status: 403,
    body: JSON.stringify({ errors: [{ code: "DENIED", message: `https://store.test/?x=${mark}, sent Bearer ${mark}`, detail: mark }] }),
  },
  "a signed redirect to nowhere": { redirect: `http://127.0.0.1:1/x?X-Amz-Signature=${mark}` },
  "a signed redirect into the network": { redirect: `http://10.0.0.1/x?X-Amz-Signature=${mark}` },
  "a redirect with a password": { redirect: `http://robot:${mark}@127.0.0.1:1/` },
  "a redirect to another scheme": { redirect: `ftp://host/${mark}` },
  "a redirect that is no URL": { redirect: `http://[${mark}` },
  "a body that is none": { status: 200, body: `<html>${mark}` },
  "a broken connection": { hangUp: true },
  "a broken body": { truncateAfter: 3, status: 200, body: `{"${mark}": 1}` },
  "a compressed body": { status: 200, headers: { "content-encoding": "gzip" }, body: mark },
  "a challenge elsewhere": { status: 401, headers: { "www-authenticate": `Bearer realm="http://elsewhere.test/${mark}?x=${mark}"` } },
  "a challenge with a password": { status: 401, headers: { "www-authenticate": `Bearer realm="http://x:${mark}@127.0.0.1/"` } },
  "a challenge that is none": { status: 401, headers: { "www-authenticate": `Negotiate ${mark}` } },
  "a link elsewhere": { status: 200, headers: { link: `<http://elsewhere.test/?token=${mark}>; rel="next"` }, body: '{"tags":["a"]}' },
};

it("stay out of errors, their causes and details, of events and of the status, whatever fails", async () => {
  const said: { where: string; what: unknown }[] = [];
  const events: EventSink = { emit: (type, event) => said.push({ where: `event ${type}`, what: event }) };
  const quick: RemoteOptions = { events, retries: 0, breaker: false };
  let failures = 0;
  const askAll = async (where: string, registry: Registry) => {
    const asks: (() => Promise<unknown>)[] = [
      () => registry.getManifest("a", "1"),
      () => registry.resolveManifest("a", "1"),
      () => registry.resolveBlob("a", digest),
      () => registry.getBlob("a", digest, { verify: false }),
      () => registry.listTags("a", { limit: 10 }),
      () => registry.listReferrers("a", digest, { limit: 10 }),
      () => registry.putManifest("a", "1", { mediaType: "application/vnd.oci.image.manifest.v1+json", bytes: Buffer.from("{}") }),
      () => registry.mountBlob("a", digest),
      () => registry.startUpload("a"),
      () => registry.deleteManifest("a", digest),
    ];
    for (const ask of asks) {
      const result = await ask().catch((error: unknown) => ({ kind: "thrown", error }));
      if (typeof result === "object" && result !== null && "error" in result) {
        failures++;
        said.push({ where, what: result.error });
      }
    }
    if ("status" in registry && typeof registry.status === "function") said.push({ where, what: registry.status() });
  };

  const upstream = await upstreamFor();
  const realm = () => ({ kind: "bearer", ...login, identityToken: mark, realm: `${upstream.url}/token?account=${mark}` }) as const;
  for (const [name, fault] of Object.entries(faults)) {
    upstream.auth = { kind: "none" };
    upstream.intercept = () => fault;
    await askAll(`registry: ${name}`, remoteFor(upstream, { ...quick, credentials: login, readOnly: false }));
    upstream.auth = realm();
    upstream.intercept = ({ url }) => (url.startsWith("/token") ? fault : undefined);
    await askAll(`tokens: ${name}`, remoteFor(upstream, { ...quick, credentials: login, readOnly: false }));
    await askAll(`identity token: ${name}`, remoteFor(upstream, { ...quick, credentials: { identityToken: mark } }));
    upstream.intercept = ({ headers }) => (headers.authorization?.startsWith("Bearer") ? fault : undefined);
    await askAll(`with a token: ${name}`, remoteFor(upstream, { ...quick, credentials: login }));
    upstream.auth = { kind: "none" };
    upstream.intercept = ({ url }) =>
      url.startsWith("/oauth2/") ? fault : { status: 401, headers: { "www-authenticate": `Bearer realm="${upstream.url}/oauth2/token"` } };
    const azure = acr(upstream.url, { ...quick, aadAccessToken: () => mark });
    onTestFinished(() => azure.close({ deadline: "1ms" }));
    await askAll(`exchange: ${name}`, azure);
  }

  upstream.intercept = undefined;
  const folder = temporaryFolder();
  writeFileSync(join(folder, "config.json"), `{"credsStore": "none/${mark}", "auths": {}}`);
  writeFileSync(join(folder, "broken.json"), `{"auths": {"${mark}`);
  const failing = () => {
    throw Object.assign(new Error(`vault: ${mark}`), { code: mark, cause: new Error(mark) });
  };
  for (const auth of [realm(), { kind: "basic", ...login, password: "another" } as const]) {
    upstream.auth = auth;
    for (const credentials of [
      { ...login, password: `${mark}-wrong` },
      failing,
      async () => failing(),
      () => mark as never,
      dockerConfig({ path: join(folder, "config.json") }),
      dockerConfig({ path: join(folder, "broken.json") }),
    ])
      await askAll("credentials", remoteFor(upstream, { ...quick, credentials }));
    const amazon = ecr(upstream.url, { ...quick, authorizationToken: () => Buffer.from(`AWS:${mark}`).toString("base64") });
    onTestFinished(() => amazon.close({ deadline: "1ms" }));
    await askAll("ecr", amazon);
  }
  const proxy = await proxyFor({ port: 1, status: 407 });
  for (const url of [proxy.url, "http://127.0.0.1:1"]) {
    const options = { ...quick, proxy: url.replace("//", `//robot:${mark}@`), credentials: login };
    await askAll("proxy", remoteFor({ url: "http://registry.test" }, options));
  }
  for (const make of [
    () => remoteFor({ url: `http://robot:${mark}@registry.test` }),
    () => remoteFor({ url: "http://registry.test" }, { proxy: `gopher://robot:${mark}@proxy.test` }),
    () => remoteFor({ url: "http://registry.test" }, { tls: { key: mark, passphrase: mark } }),
  ])
    expect(make).toThrow(expect.not.objectContaining({ message: expect.stringContaining(mark) }));

  expect(failures).toBeGreaterThan(500);
  const told = said.filter(({ what }) => hidden.some((secret) => everything(what).includes(secret)));
  expect(told.map(({ where, what }) => `${where}: ${everything(what)}`)).toEqual([]);
});

/** All that can be got out of a value: own properties, also hidden ones, and the chain of causes. */
function everything(value: unknown, seen = new Set<unknown>()): string {
  if (typeof value !== "object" || value === null) return String(value);
  if (seen.has(value)) return "";
  seen.add(value);
  return Reflect.ownKeys(value)
    .map((key) => `${String(key)}=${everything(Reflect.get(value, key), seen)}`)
    .join(" ");
}
