import { describe, expect, it, vi } from "vitest";
import { parseChallenges, readTokenRequest } from "../../src/remote/challenge.js";
import type { CredentialRequest, Credentials } from "../../src/remote/credentials.js";
import { fakeClock } from "../../src/testing/fake-clock.js";
import { errorOf, foundIn, remoteFor, seen, upstreamFor } from "./support.js";

const login = { username: "robot", password: "s3cret-pass" };
const basic = `Basic ${Buffer.from("robot:s3cret-pass").toString("base64")}`;
const tokenPath = (repository: string) => `GET /token?service=fake-upstream&scope=${encodeURIComponent(`repository:${repository}:pull`)}`;

describe("bearer tokens", () => {
  it("pull an image with exactly these requests", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...login } });
    const image = upstream.addImage("team/app", "1", { layers: [100] });
    const registry = remoteFor(upstream, { credentials: login });
    const { digest } = foundIn(await registry.resolveManifest("team/app", "1"));
    foundIn(await registry.getManifest("team/app", digest));
    for (const { digest: blob } of [image.config, ...image.layers]) foundIn(await registry.getBlob("team/app", blob));
    expect(seen(upstream)).toEqual([
      "HEAD /v2/team/app/manifests/1",
      tokenPath("team/app"),
      "HEAD /v2/team/app/manifests/1",
      `GET /v2/team/app/manifests/${image.digest}`,
      `GET /v2/team/app/blobs/${image.config.digest}`,
      `GET /v2/team/app/blobs/${image.layers[0]?.digest}`,
    ]);
    const sent = upstream.requests.map(({ headers }) => headers.authorization?.split(" ")[0]);
    expect(sent).toEqual([undefined, "Basic", "Bearer", "Bearer", "Bearer", "Bearer"]);
  });

  it("are anonymous without credentials, and cached for each scope", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer" } });
    for (const name of ["a", "b"]) upstream.addImage(name, "1");
    const registry = remoteFor(upstream);
    for (const name of ["a", "b", "a", "b"]) foundIn(await registry.getManifest(name, "1"));
    expect(upstream.tokensIssued).toBe(2);
    expect(upstream.requests.find(({ url }) => url.startsWith("/token"))?.headers.authorization).toBeUndefined();
  });

  it("are fetched once for many requests", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer" } });
    upstream.addImage("a", "1");
    upstream.intercept = ({ url }) => (url.startsWith("/token") ? { delay: 50 } : undefined);
    const registry = remoteFor(upstream);
    await Promise.all(Array.from({ length: 20 }, async () => foundIn(await registry.getManifest("a", "1"))));
    expect(upstream.tokensIssued).toBe(1);
    upstream.revokeTokens();
    await Promise.all(Array.from({ length: 20 }, async () => foundIn(await registry.getManifest("a", "1"))));
    expect(upstream.tokensIssued).toBe(2);
  });

  it("survive the caller who started the flight", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer" } });
    upstream.addImage("a", "1");
    let reached = () => {};
    const atTokens = new Promise<void>((resolve) => {
      reached = resolve;
    });
    let release = () => {};
    const gate = new Promise<undefined>((resolve) => {
      release = () => resolve(undefined);
    });
    upstream.intercept = ({ url }) => {
      if (!url.startsWith("/token")) return undefined;
      reached();
      return gate;
    };
    const registry = remoteFor(upstream);
    const first = new AbortController();
    const gone = registry.getManifest("a", "1", { signal: first.signal });
    await atTokens;
    const stays = registry.getManifest("a", "1");
    const reason = new Error("left");
    first.abort(reason);
    await expect(gone).rejects.toBe(reason);
    release();
    foundIn(await stays);
    expect(upstream.tokensIssued).toBe(1);
  });

  it.each([
    [undefined, 53_000, 2000],
    [5, 53_000, 2000],
    [600, 569_000, 2000],
  ])("with lifetime %s are renewed a little before their end", async (lifetime, lasts, step) => {
    const clock = fakeClock();
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...(lifetime !== undefined && { lifetime }) } });
    upstream.addImage("a", "1");
    const registry = remoteFor(upstream, { clock });
    foundIn(await registry.getManifest("a", "1"));
    await clock.advance(lasts);
    foundIn(await registry.getManifest("a", "1"));
    expect(upstream.tokensIssued).toBe(1);
    await clock.advance(step);
    upstream.requests.length = 0;
    foundIn(await registry.getManifest("a", "1"));
    expect(seen(upstream)).toEqual([tokenPath("a"), "GET /v2/a/manifests/1"]);
  });

  it.each([
    ["long past", 3600, 300, 53],
    ["a while past", 200, 300, 89],
    ["just now", 0, 300, 269],
    ["in the future", -3600, 300, 269],
    ["no date", Number.NaN, 300, 269],
  ])("that were issued %s live as long as is left, a minute at least", async (_, age, expiresIn, lasts) => {
    const clock = fakeClock();
    const upstream = await upstreamFor();
    upstream.addImage("a", "1");
    const issuedAt = Number.isNaN(age) ? "yesterday" : new Date(clock.now() - age * 1000).toISOString();
    let asked = 0;
    upstream.intercept = ({ url, headers }) => {
      if (!url.startsWith("/token")) {
        const challenge = { status: 401, headers: { "www-authenticate": `Bearer realm="${upstream.url}/token"` } };
        return headers.authorization ? undefined : challenge;
      }
      asked++;
      return { status: 200, body: JSON.stringify({ token: "t", expires_in: expiresIn, issued_at: issuedAt }) };
    };
    const registry = remoteFor(upstream, { clock });
    const pull = async () => {
      await registry.getManifest("a", "1");
      return asked;
    };
    expect(await pull()).toBe(1);
    await clock.advance(lasts * 1000);
    expect(await pull()).toBe(1);
    await clock.advance(2000);
    expect(await pull()).toBe(2);
  });

  it("keep the realm's own query, and ask for the challenged scope", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer" } });
    upstream.addImage("a", "1");
    upstream.intercept = ({ url, headers }) =>
      url.startsWith("/v2/") && !headers.authorization
        ? {
            headers: {
              "www-authenticate": `Basic realm="x", Bearer realm="${upstream.url}/token?account=a%20b",scope="repository:a:pull repository:b:pull"`,
            },
          }
        : undefined;
    foundIn(await remoteFor(upstream).getManifest("a", "1"));
    expect(seen(upstream)[1]).toBe("GET /token?account=a%20b&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull");
  });

  it("come from the POST form for an identity token, or from GET where there is none", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", identityToken: "id-t0ken" } });
    upstream.addImage("a", "1");
    foundIn(await remoteFor(upstream, { credentials: { identityToken: "id-t0ken" } }).getManifest("a", "1"));
    expect(seen(upstream)[1]).toBe("POST /token");

    upstream.auth = { kind: "bearer", username: "<token>", password: "id-t0ken" };
    upstream.requests.length = 0;
    foundIn(await remoteFor(upstream, { credentials: { identityToken: "id-t0ken" } }).getManifest("a", "1"));
    expect(seen(upstream).slice(1, 3)).toEqual(["POST /token", tokenPath("a")]);
  });

  it("ask a function once for each, whatever fails on the way", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...login } });
    upstream.addImage("a", "1");
    let failing = 2;
    upstream.intercept = ({ url }) => (url.startsWith("/token") && failing-- > 0 ? { status: 503 } : undefined);
    const credentials = vi.fn(async () => login);
    const registry = remoteFor(upstream, { credentials });
    await Promise.all(Array.from({ length: 10 }, async () => foundIn(await registry.getManifest("a", "1"))));
    expect(credentials.mock.calls).toEqual([[{ registry: upstream.url.replace("http://", "") }]]);
  });

  it.each([
    [
      "throws",
      () => {
        throw new Error("s3cret");
      },
    ],
    [
      "rejects",
      async () => {
        throw new Error("s3cret");
      },
    ],
    ["rejects with nothing", () => Promise.reject()],
    ["gives no credentials", () => ({ user: "s3cret" }) as never],
  ])("are unavailable when the function %s, and asked for again", async (_, fail) => {
    for (const auth of [{ kind: "bearer", ...login } as const, { kind: "basic", ...login } as const]) {
      const upstream = await upstreamFor({ auth });
      upstream.addImage("a", "1");
      const credentials = vi.fn<() => Promise<Credentials> | Credentials>(async () => login).mockImplementationOnce(fail);
      const registry = remoteFor(upstream, { credentials });
      const lookup = await registry.getManifest("a", "1");
      expect(lookup.kind).toBe("unavailable");
      expect(errorOf(lookup).message).toMatch(/^the credentials for up could not be read: the given function/);
      foundIn(await registry.getManifest("a", "1"));
    }
  });

  it("end in denied on a second 401, after one new token", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer" } });
    upstream.intercept = ({ url }) =>
      url.startsWith("/v2/") ? { status: 401, headers: { "www-authenticate": `Bearer realm="${upstream.url}/token"` } } : undefined;
    const lookup = await remoteFor(upstream).getManifest("a", "1");
    expect(lookup.kind).toBe("denied");
    expect(errorOf(lookup).code).toBe("DENIED");
    expect(seen(upstream)).toEqual(["GET /v2/a/manifests/1", "GET /token?scope=repository%3Aa%3Apull", "GET /v2/a/manifests/1"]);
  });

  describe.each<[string, Record<string, string | undefined>]>([
    ["a challenge for Basic only", { "www-authenticate": 'Basic realm="harbor"' }],
    ["no challenge", { "www-authenticate": undefined }],
    ["a Bearer challenge without a realm", { "www-authenticate": 'Bearer error="invalid_token"' }],
    ["a Bearer challenge whose realm is no URL", { "www-authenticate": 'Bearer realm="token service"' }],
    ["a challenge of another scheme", { "www-authenticate": "Negotiate" }],
  ])("that are refused with %s", (_, headers) => {
    /** Refuses every token given out before. */
    const revoked = async () => {
      const upstream = await upstreamFor({ auth: { kind: "bearer" } });
      upstream.addImage("a", "1");
      const registry = remoteFor(upstream);
      foundIn(await registry.getManifest("a", "1"));
      const ended = upstream.requests.at(-1)?.headers.authorization;
      upstream.requests.length = 0;
      upstream.intercept = (request) => (request.headers.authorization === ended ? { status: 401, headers } : undefined);
      return { upstream, registry };
    };

    it("are dropped, and asked for anew", async () => {
      const { upstream, registry } = await revoked();
      foundIn(await registry.getManifest("a", "1"));
      foundIn(await registry.getManifest("a", "1"));
      expect(upstream.tokensIssued).toBe(2);
      expect(upstream.requests.map(({ headers: { authorization }, url }) => [url.split("?")[0], authorization?.split(" ")[0]])).toEqual([
        ["/v2/a/manifests/1", "Bearer"],
        ["/v2/a/manifests/1", undefined],
        ["/token", undefined],
        ["/v2/a/manifests/1", "Bearer"],
        ["/v2/a/manifests/1", "Bearer"],
      ]);
    });

    it("are not sent where nobody asks for one any more", async () => {
      const { upstream, registry } = await revoked();
      upstream.auth = { kind: "none" };
      foundIn(await registry.getManifest("a", "1"));
      foundIn(await registry.getManifest("a", "1"));
      expect(upstream.requests.map((request) => request.headers.authorization?.split(" ")[0])).toEqual(["Bearer", undefined, undefined]);
    });

    it("are denied after one question without, and not sent again", async () => {
      const { upstream, registry } = await revoked();
      upstream.intercept = () => ({ status: 401, headers });
      expect((await registry.getManifest("a", "1")).kind).not.toBe("found");
      expect(upstream.requests.map((request) => request.headers.authorization?.split(" ")[0])).toEqual(["Bearer", undefined]);
      upstream.requests.length = 0;
      expect((await registry.getManifest("a", "1")).kind).not.toBe("found");
      expect(upstream.requests.map((request) => request.headers.authorization)).toEqual([undefined]);
    });

    it("are not kept when they were new", async () => {
      const upstream = await upstreamFor({ auth: { kind: "bearer" } });
      upstream.addImage("a", "1");
      const registry = remoteFor(upstream);
      upstream.intercept = (request) => (request.headers.authorization ? { status: 401, headers } : undefined);
      expect((await registry.getManifest("a", "1")).kind).toBe("denied");
      upstream.intercept = undefined;
      upstream.requests.length = 0;
      foundIn(await registry.getManifest("a", "1"));
      expect(upstream.requests[0]?.headers.authorization).toBeUndefined();
      expect(upstream.tokensIssued).toBe(2);
    });
  });

  it("that are refused in favour of Basic give way to it", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...login } });
    upstream.addImage("a", "1");
    const registry = remoteFor(upstream, { credentials: login });
    foundIn(await registry.getManifest("a", "1"));
    upstream.auth = { kind: "basic", ...login };
    upstream.requests.length = 0;
    foundIn(await registry.getManifest("a", "1"));
    foundIn(await registry.getManifest("a", "1"));
    expect(upstream.requests.map((request) => request.headers.authorization?.split(" ")[0])).toEqual([
      "Bearer",
      undefined,
      "Basic",
      "Basic",
    ]);
  });

  it("are not asked for after a 403", async () => {
    const upstream = await upstreamFor();
    upstream.intercept = () => ({ status: 403, headers: { "www-authenticate": `Bearer realm="${upstream.url}/token"` } });
    expect((await remoteFor(upstream).getManifest("a", "1")).kind).toBe("denied");
    expect(upstream.requests).toHaveLength(1);
  });

  it.each([
    ["401", { status: 401 }, "denied", "DENIED"],
    ["403", { status: 403 }, "denied", "DENIED"],
    ["404", { status: 404 }, "unavailable", "UNAVAILABLE"],
    ["429", { status: 429, headers: { "retry-after": "7" } }, "unavailable", "TOOMANYREQUESTS"],
    ["503", { status: 503 }, "unavailable", "UNAVAILABLE"],
    ["a redirect", { redirect: "http://127.0.0.1:1/" }, "unavailable", "UNAVAILABLE"],
    ["no JSON", { body: "<html>" }, "unavailable", "UNAVAILABLE"],
    ["no token", { body: "{}" }, "unavailable", "UNAVAILABLE"],
    ["a token with a line break", { body: '{"token":"a\\r\\nb"}' }, "unavailable", "UNAVAILABLE"],
    ["too much", { body: JSON.stringify({ token: "x".repeat(1024 * 1024) }) }, "denied", "UNSUPPORTED"],
    ["a broken connection", { hangUp: true }, "unavailable", "UNAVAILABLE"],
  ] as const)("fail when the endpoint answers %s", async (_, fault, kind, code) => {
    const upstream = await upstreamFor({ auth: { kind: "bearer" } });
    upstream.addImage("a", "1");
    upstream.intercept = ({ url }) => (url.startsWith("/token") ? fault : undefined);
    const lookup = await remoteFor(upstream).getManifest("a", "1");
    expect(lookup.kind).toBe(kind);
    expect(errorOf(lookup).code).toBe(code);
  });
});

describe("the realm", () => {
  const elsewhereFor = async (auth: { username?: string; password?: string } = {}) => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...auth } });
    upstream.addImage("a", "1");
    upstream.auth = { kind: "bearer", ...auth, realm: `${upstream.url.replace("127.0.0.1", "localhost")}/token` };
    const sent = () => upstream.requests.map(({ headers }) => headers.authorization?.split(" ")[0]);
    return { upstream, sent };
  };

  it("on another host is asked anonymously by an anonymous remote", async () => {
    const { upstream, sent } = await elsewhereFor();
    foundIn(await remoteFor(upstream).getManifest("a", "1"));
    expect(sent()).toEqual([undefined, undefined, "Bearer"]);
  });

  it("on another host gets no credentials, and what is public is read all the same", async () => {
    const { upstream, sent } = await elsewhereFor();
    const credentials = vi.fn(async () => login);
    foundIn(await remoteFor(upstream, { credentials }).getManifest("a", "1"));
    expect(sent()).toEqual([undefined, undefined, "Bearer"]);
    const { upstream: failing } = await elsewhereFor();
    foundIn(await remoteFor(failing, { credentials: () => Promise.reject(new Error("vault")) }).getManifest("a", "1"));
  });

  it.each([
    ["the token endpoint", (url: string) => url.startsWith("/token"), 401],
    ["the token endpoint", (url: string) => url.startsWith("/token"), 403],
    ["the registry", (url: string) => url.startsWith("/v2/"), 403],
    ["the registry", (url: string) => url.startsWith("/v2/"), 401],
  ])("on another host is named with realmHosts when %s refuses: %#", async (_, isRefused, status) => {
    const { upstream } = await elsewhereFor();
    upstream.intercept = ({ url, headers }) =>
      isRefused(url) && (headers.authorization || url.startsWith("/token")) ? { status } : undefined;
    const registry = remoteFor(upstream, { credentials: login, readOnly: false });
    const lookup = await registry.getManifest("a", "1");
    expect(lookup.kind).toBe("denied");
    expect(errorOf(lookup).message).toMatch(/tokens come from localhost:\d+, .* list that host in realmHosts/);
    expect(errorOf(lookup).retryAfter).toBeUndefined();
    await expect(registry.startUpload("a")).rejects.toMatchObject({ code: "DENIED", message: expect.stringContaining("realmHosts") });
    // Without credentials there are none that the host could get.
    expect(errorOf(await remoteFor(upstream).getManifest("a", "1")).message).not.toContain("realmHosts");
    const nobody = remoteFor(upstream, { credentials: async () => undefined });
    expect(errorOf(await nobody.getManifest("a", "1")).message).not.toContain("realmHosts");
  });

  it("gets credentials on a host in realmHosts", async () => {
    for (const host of ["LOCALHOST", undefined]) {
      const { upstream, sent } = await elsewhereFor(login);
      const realmHosts = [host ?? new URL(upstream.url.replace("127.0.0.1", "localhost")).host];
      foundIn(await remoteFor(upstream, { credentials: login, realmHosts }).getManifest("a", "1"));
      expect(sent()).toEqual([undefined, "Basic", "Bearer"]);
    }
    const { upstream, sent } = await elsewhereFor(login);
    expect((await remoteFor(upstream, { credentials: login, realmHosts: ["localhost:1"] }).getManifest("a", "1")).kind).toBe("denied");
    expect(sent()).toEqual([undefined, undefined]);
  });

  it("on another port of the same host gets credentials by https only", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...login } });
    const other = await upstreamFor();
    other.intercept = () => ({ status: 200, body: '{"token":"t"}' });
    upstream.auth = { kind: "bearer", ...login, realm: `${other.url}/token` };
    await remoteFor(upstream, { credentials: login }).getManifest("a", "1");
    expect(other.requests.map(({ headers }) => headers.authorization)).toEqual([undefined]);
    expect(upstream.requests.at(-1)?.headers.authorization).toBe("Bearer t");

    const read = (realm: string, registry: string) => {
      const [challenge] = parseChallenges(`Bearer realm="${realm}"`);
      if (!challenge) throw new Error("no challenge");
      return readTokenRequest(challenge, new URL(registry), [], "").trusted;
    };
    expect(read("https://r.example:8443/token", "https://r.example")).toBe(true);
    expect(read("https://r.example:8443/token", "http://r.example:5000")).toBe(true);
    expect(read("http://r.example:5000/token", "http://r.example:5000")).toBe(true);
    expect(read("http://r.example:5001/token", "http://r.example:5000")).toBe(false);
    expect(read("https://auth.r.example/token", "https://r.example")).toBe(false);
    expect(() => read("http://r.example/token", "https://r.example")).toThrow("not https");
  });

  it("is not taken from behind a redirect, and the refusal says what to do", async () => {
    const upstream = await upstreamFor();
    const other = await upstreamFor({ auth: { kind: "bearer", ...login } });
    upstream.intercept = ({ url }) => ({ redirect: `${other.url}${url}?signature=s3cret` });
    const registry = remoteFor(upstream, { credentials: login, name: "hub" });
    for (const status of [401, 403]) {
      other.intercept = () => ({ status });
      const lookup = await registry.getManifest("a", "1");
      expect(lookup.kind).toBe("denied");
      const { host } = new URL(upstream.url);
      expect(errorOf(lookup).message).toBe(
        `hub: manifest 1 of a: ${host} redirects this to another host, which refuses with ${status}; credentials go to ${host} alone: if you trust the other host, make it this remote's URL`,
      );
    }
    expect(other.requests.every(({ headers }) => headers.authorization === undefined)).toBe(true);
  });
});

describe("Basic", () => {
  it("is sent only on a Basic challenge, and then at once", async () => {
    const upstream = await upstreamFor({ auth: { kind: "basic", ...login } });
    upstream.addImage("a", "1");
    const registry = remoteFor(upstream, { credentials: login });
    foundIn(await registry.getManifest("a", "1"));
    foundIn(await registry.getManifest("a", "1"));
    expect(upstream.requests.map(({ headers }) => headers.authorization)).toEqual([undefined, basic, basic]);
  });

  it("is not sent twice when refused, but a function may give another password", async () => {
    const upstream = await upstreamFor({ auth: { kind: "basic", ...login } });
    upstream.addImage("a", "1");
    expect((await remoteFor(upstream, { credentials: { ...login, password: "wrong" } }).getManifest("a", "1")).kind).toBe("denied");
    expect(upstream.requests).toHaveLength(2);

    const credentials = vi.fn(async () => login);
    const registry = remoteFor(upstream, { credentials });
    foundIn(await registry.getManifest("a", "1"));
    upstream.auth = { kind: "basic", username: "robot", password: "rotated" };
    credentials.mockClear().mockResolvedValue({ username: "robot", password: "rotated" });
    await Promise.all(Array.from({ length: 10 }, async () => foundIn(await registry.getManifest("a", "1"))));
    expect(credentials).toHaveBeenCalledTimes(1);
  });

  it("asks a function once for many requests, and again after five minutes or before what it gave ends", async () => {
    const clock = fakeClock();
    const upstream = await upstreamFor({ auth: { kind: "basic", ...login } });
    upstream.addImage("a", "1");
    const credentials = vi.fn(async (_: CredentialRequest): Promise<Credentials> => login);
    const registry = remoteFor(upstream, { credentials, clock });
    const pull = () => Promise.all(Array.from({ length: 10 }, async () => foundIn(await registry.getManifest("a", "1"))));
    await pull();
    await clock.advance(299_000);
    await pull();
    expect(credentials.mock.calls).toEqual([[{ registry: upstream.url.replace("http://", "") }]]);
    credentials.mockImplementation(async () => ({ ...login, expiresAt: clock.now() + 12 * 3_600_000 }));
    await clock.advance(2000);
    await pull();
    await clock.advance(11 * 3_600_000);
    await pull();
    expect(credentials).toHaveBeenCalledTimes(2);
    await clock.advance(3_590_000);
    await pull();
    expect(credentials).toHaveBeenCalledTimes(3);
  });

  it("is denied without credentials, and with an identity token", async () => {
    const upstream = await upstreamFor({ auth: { kind: "basic", ...login } });
    expect((await remoteFor(upstream).getManifest("a", "1")).kind).toBe("denied");
    expect((await remoteFor(upstream, { credentials: { identityToken: "x" } }).getManifest("a", "1")).kind).toBe("denied");
  });
});

describe("secrets", () => {
  it("stay out of every error", async () => {
    const upstream = await upstreamFor({ auth: { kind: "bearer", ...login } });
    const secrets = ["s3cret-pass", basic.slice(6), "id-t0ken", "v4ult", "fake-", "signature"];
    const results: unknown[] = [];
    const ask = async (credentials: Parameters<typeof remoteFor>[1]) => {
      results.push(
        await remoteFor(upstream, credentials)
          .getManifest("a", "1")
          .catch((error: unknown) => error),
      );
    };
    const failing = () => {
      throw new Error("v4ult said s3cret-pass");
    };
    for (const fault of [
      { status: 500 },
      { status: 403 },
      { redirect: "ftp://x/?signature" },
      { redirect: "http://127.0.0.1:1/?signature" },
      { hangUp: true },
    ]) {
      upstream.intercept = ({ headers }) => (headers.authorization?.startsWith("Bearer") ? fault : undefined);
      await ask({ credentials: login });
      upstream.intercept = ({ url }) => (url.startsWith("/token") || url.includes("refresh") ? fault : undefined);
      await ask({ credentials: login });
      await ask({ credentials: { identityToken: "id-t0ken" } });
    }
    upstream.intercept = undefined;
    await ask({ credentials: failing });
    await ask({ credentials: async () => failing() });
    await ask({ credentials: (() => "s3cret-pass") as never });
    upstream.auth = { kind: "basic", ...login };
    await ask({ credentials: { username: "robot", password: "s3cret-pass-no" } });
    await ask({ credentials: failing });
    expect(results).toHaveLength(20);
    for (const result of results) {
      const error = errorOf(result as never);
      expect(error.code).toMatch(/DENIED|UNAVAILABLE/);
      let text = JSON.stringify([error.detail]);
      for (let at: unknown = error; at instanceof Error; at = at.cause) text += `${at.message} ${at.stack} ${JSON.stringify(at)}`;
      for (const secret of secrets) expect(text.replaceAll("fake-upstream", "")).not.toContain(secret);
    }
  });
});
