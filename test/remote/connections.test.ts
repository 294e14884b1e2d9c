import { describe, expect, it, onTestFinished, vi } from "vitest";
import { chooseProxy } from "../../src/remote/connections.js";
import { hasOpenssl, makeCertificates, proxyFor, tlsFor } from "./proxying.js";
import { errorOf, foundIn, remoteFor, upstreamFor } from "./support.js";

const portOf = (url: string) => Number(new URL(url).port);

describe("proxies", () => {
  it("are asked for a tunnel, resolve the names, and get the password in their URL", async () => {
    const upstream = await upstreamFor();
    upstream.addImage("a", "1");
    const proxy = await proxyFor({ port: portOf(upstream.url) });
    const url = proxy.url.replace("//", "//robot:p%40ss@");
    foundIn(await remoteFor({ url: "http://registry.test:5000" }, { proxy: url }).getManifest("a", "1"));
    foundIn(await remoteFor({ url: "http://registry.test" }, { proxy: proxy.url }).getManifest("a", "1"));
    expect(proxy.asked).toEqual([
      { target: "registry.test:5000", authorization: `Basic ${Buffer.from("robot:p@ss").toString("base64")}` },
      { target: "registry.test:80", authorization: undefined },
    ]);
    expect(upstream.requests.map(({ headers }) => headers["proxy-authorization"])).toEqual([undefined, undefined]);
  });

  it("are taken from the environment, but not for this machine", async () => {
    const upstream = await upstreamFor();
    upstream.addImage("a", "1");
    const proxy = await proxyFor({ port: portOf(upstream.url) });
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    vi.stubEnv("HTTP_PROXY", proxy.url);
    vi.stubEnv("NO_PROXY", "");
    foundIn(await remoteFor({ url: "http://registry.test" }).getManifest("a", "1"));
    foundIn(await remoteFor(upstream).getManifest("a", "1"));
    expect(proxy.asked.map(({ target }) => target)).toEqual(["registry.test:80"]);
    expect((await remoteFor({ url: "http://registry.invalid" }, { proxy: false, retries: 0 }).getManifest("a", "1")).kind).toBe(
      "unavailable",
    );
    expect(proxy.asked).toHaveLength(1);
  });

  it.each([407, 502])("that answer %s make the registry unavailable", async (status) => {
    const proxy = await proxyFor({ port: 1, status });
    const options = { proxy: proxy.url.replace("//", "//robot:s3cret@"), retries: 0 };
    const { code, message } = errorOf(await remoteFor({ url: "http://registry.test" }, options).getManifest("a", "1"));
    expect({ code, message }).toEqual({ code: "UNAVAILABLE", message: `up: manifest 1 of a: the connection failed (ERR_PROXY_${status})` });
  });

  it("are not asked for addresses inside the network", async () => {
    const upstream = await upstreamFor({ intercept: () => ({ redirect: "http://169.254.169.254/x" }) });
    const proxy = await proxyFor({ port: portOf(upstream.url) });
    const lookup = await remoteFor({ url: "http://registry.test" }, { proxy: proxy.url }).getManifest("a", "1");
    expect(errorOf(lookup).message).toContain("metadata address");
    expect(proxy.asked).toHaveLength(1);
  });

  it.each(["", "socks5://s3cret:1", "ftp://s3cret", "http://s3cret:99999"])("%o is none", (proxy) => {
    expect(() => remoteFor({ url: "http://registry.test" }, { proxy })).toThrow(
      /^the option proxy must be the URL of an HTTP proxy, such as "http:\/\/proxy.example:3128"$/,
    );
  });

  it.each([
    ["http://registry.test", undefined],
    ["https://registry.test", "http://secure.test:3128/"],
    ["https://one.exact.test", undefined],
    ["https://exact.test", undefined],
    ["https://deep.below.test", undefined],
    ["https://below.test", "http://secure.test:3128/"],
    ["https://deep.star.test", undefined],
    ["https://port.test", "http://secure.test:3128/"],
    ["https://port.test:8443", undefined],
    ["https://deep.name.test", undefined],
    ["https://name.test", undefined],
    ["https://rename.test", "http://secure.test:3128/"],
    ["https://10.1.2.3", undefined],
    ["https://10.2.2.3", "http://secure.test:3128/"],
    ["https://[fd00::1]", undefined],
    ["https://127.0.0.9", undefined],
    ["https://localhost:5000", undefined],
  ])("for %s are chosen as Go chooses them", (url, proxy) => {
    const NO_PROXY = "exact.test:443, .below.test *.star.test,port.test:8443,name.test,10.1.0.0/16,[fd00::1],";
    const choose = chooseProxy("environment", { https_proxy: "secure.test:3128", HTTPS_PROXY: "http://other.test", NO_PROXY });
    const { protocol, hostname, port } = new URL(url);
    expect(choose({ protocol, hostname: hostname.replace(/[[\]]/g, ""), port })?.href).toBe(proxy);
  });

  it("are none with NO_PROXY=*", () => {
    const choose = chooseProxy("environment", { HTTP_PROXY: "http://proxy.test", no_proxy: "*" });
    expect(choose({ protocol: "http:", hostname: "registry.test" })).toBeUndefined();
  });
});

describe.skipIf(!hasOpenssl)("TLS", () => {
  const certificates = hasOpenssl ? makeCertificates() : undefined;

  async function secured() {
    if (!certificates) throw new Error("without openssl there are no certificates");
    const upstream = await upstreamFor();
    upstream.addImage("a", "1");
    const front = await tlsFor(portOf(upstream.url), certificates);
    return { upstream, front, url: `https://127.0.0.1:${front.port}`, ...certificates };
  }

  it("takes the authorities that are given, beside Node's", async () => {
    const { url, ca } = await secured();
    const refused = await remoteFor({ url }, { retries: 0 }).getManifest("a", "1");
    expect(errorOf(refused).message).toMatch(/UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT_IN_CHAIN/);
    const misnamed = await remoteFor({ url }, { retries: 0, tls: { ca } }).getManifest("a", "1");
    expect(errorOf(misnamed).message).toContain("ERR_TLS_CERT_ALTNAME_INVALID");
    foundIn(await remoteFor({ url }, { tls: { ca: [Buffer.from(ca)], servername: "registry.test" } }).getManifest("a", "1"));
    foundIn(await remoteFor({ url }, { tls: { rejectUnauthorized: false } }).getManifest("a", "1"));
  });

  it("goes through a proxy", async () => {
    const { front, ca } = await secured();
    const proxy = await proxyFor({ port: front.port });
    foundIn(await remoteFor({ url: "https://registry.test" }, { proxy: proxy.url, tls: { ca } }).getManifest("a", "1"));
    expect(proxy.asked.map(({ target }) => target)).toEqual(["registry.test:443"]);
  });

  it("shows the client certificate to the registry, and to nobody else", async () => {
    const { upstream, front, url, ca, client } = await secured();
    const tls = { ca, servername: "registry.test", ...client };
    foundIn(await remoteFor({ url }, { tls }).getManifest("a", "1"));
    expect(front.clients).toEqual(["client"]);
    const proxy = await proxyFor({ port: front.port });
    upstream.intercept = ({ headers }) =>
      headers.host === "registry.test" ? undefined : { redirect: "https://registry.test/v2/a/manifests/1" };
    foundIn(await remoteFor({ url: "https://other.test" }, { proxy: proxy.url, tls }).getManifest("a", "1"));
    expect(front.clients).toEqual(["client", "client", undefined]);
  });

  it("is verified at other hosts, whatever the options say for the registry", async () => {
    const { front, upstream } = await secured();
    const proxy = await proxyFor({ port: front.port });
    upstream.intercept = ({ headers }) => (headers.host === "cdn.test" ? undefined : { redirect: "https://cdn.test/v2/a/manifests/1" });
    const options = { proxy: proxy.url, tls: { rejectUnauthorized: false }, retries: 0 };
    const lookup = await remoteFor({ url: "https://registry.test" }, options).getManifest("a", "1");
    expect(errorOf(lookup).message).toMatch(/UNABLE_TO_VERIFY|SELF_SIGNED/);
    expect(upstream.requests).toHaveLength(1);
  });

  it("says at once that a key or certificate cannot be read", () => {
    for (const tls of [
      { ca: "nonsense", cert: "nonsense" },
      { key: "s3cret" },
      { cert: certificates?.client.cert ?? "", key: certificates?.server.key ?? "" },
    ]) {
      expect(() => remoteFor({ url: "https://registry.test" }, { tls })).toThrow(/^the certificates or the key in tls could not be read/);
    }
  });
});
