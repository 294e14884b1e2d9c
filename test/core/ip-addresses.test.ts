import { beforeEach, describe, expect, it, vi } from "vitest";
import { addressList, isListed, kindOfAddress } from "../../src/core/ip-addresses.js";
import { AddressGuard } from "../../src/remote/connections.js";
import { errorOf, foundIn, remoteFor, upstreamFor } from "../remote/support.js";

/** What names stand for; others are the system's. */
const names = vi.hoisted(() => new Map<string, string[]>());
vi.mock("node:dns", async (original) => {
  const dns = await original<typeof import("node:dns")>();
  const lookup = (host: string, options: object, callback: (error: Error | null, addresses: object[]) => void) => {
    const given = names.get(host);
    if (!given) return dns.lookup(host, options as { all: true }, callback);
    callback(
      null,
      given.map((address) => ({ address, family: address.includes(":") ? 6 : 4 })),
    );
  };
  return { ...dns, lookup };
});
beforeEach(() => names.clear());

describe("addresses", () => {
  it.each([
    ["1.1.1.1", "public"],
    ["2606:4700::1111", "public"],
    ["127.0.0.1", "loopback"],
    ["127.255.0.3", "loopback"],
    ["::1", "loopback"],
    ["0:0:0:0:0:0:0:1", "loopback"],
    ["0.0.0.0", "unspecified"],
    ["::", "unspecified"],
    ["10.1.2.3", "private"],
    ["172.16.0.1", "private"],
    ["172.31.255.255", "private"],
    ["172.32.0.1", "public"],
    ["192.168.1.1", "private"],
    ["fd12:3456::1", "private"],
    ["fec0::1", "private"],
    ["169.254.1.1", "link-local"],
    ["fe80::1%eth0", "link-local"],
    ["100.64.0.1", "shared"],
    ["100.128.0.1", "public"],
    ["169.254.169.254", "metadata"],
    ["169.254.170.2", "metadata"],
    ["100.100.100.200", "metadata"],
    ["fd00:ec2::254", "metadata"],
    ["224.0.0.1", "multicast"],
    ["ff02::1", "multicast"],
    ["255.255.255.255", "reserved"],
    ["198.18.0.1", "reserved"],
    ["2001:db8::1", "reserved"],
    ["192.88.99.1", "reserved"],
    ["3fff::1", "reserved"],
    ["3fff:fff:ffff::1", "reserved"],
    ["4000::1", "public"],
    ["5f00:1::1", "reserved"],
    ["5f01::1", "public"],
    ["::ffff:0:8.8.8.8", "reserved"],
    ["::ffff:0:10.0.0.1", "private"],
    ["::ffff:0:a9fe:a9fe", "metadata"],
    ["::ffff:10.0.0.1", "private"],
    ["::ffff:a9fe:a9fe", "metadata"],
    ["::ffff:8.8.8.8", "public"],
    ["::127.0.0.1", "loopback"],
    ["64:ff9b::127.0.0.1", "loopback"],
    ["64:ff9b::808:808", "public"],
    ["64:ff9b:1::a00:1", "private"],
    ["2002:7f00:1::", "loopback"],
    ["2002:808:808::1", "public"],
  ])("%s is %s", (address, kind) => {
    expect(kindOfAddress(address)).toBe(kind);
  });

  it("are listed in whatever form", () => {
    const list = addressList(["10.1.0.0/16", "fd00::/8", "192.168.7.7"]);
    expect(["10.1.2.3", "::ffff:10.1.2.3", "fd01::1", "192.168.7.7"].filter((address) => !isListed(list, address))).toEqual([]);
    expect(["10.2.0.1", "192.168.7.8", "fe80::1"].filter((address) => isListed(list, address))).toEqual([]);
  });

  it.each(["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "example.com", "::/129", "10.0.0/8", "[::1]"])("%o is no block", (block) => {
    expect(() => remoteFor({ url: "https://registry.example" }, { allowAddresses: [block] })).toThrow(
      /^allowAddresses: .* is neither an IP address nor a CIDR block/,
    );
  });
});

describe("the guard", () => {
  const resolved = (guard: AddressGuard, host: string, options: { all?: boolean } = { all: true }) =>
    new Promise((resolve, reject) => guard.lookup(host, options, (error, address) => (error ? reject(error) : resolve(address))));

  it("checks the address that a name resolves to at each connection", async () => {
    const guard = new AddressGuard(["registry.test"], []);
    names.set("registry.test", ["1.2.3.4"]).set("cdn.test", ["5.6.7.8"]);
    await resolved(guard, "registry.test");
    expect(await resolved(guard, "cdn.test", {})).toBe("5.6.7.8");
    names.set("cdn.test", ["10.0.0.1"]);
    await expect(resolved(guard, "cdn.test")).rejects.toThrow("private address");
    names.set("cdn.test", ["10.0.0.1", "5.6.7.8", "::1"]);
    expect(await resolved(guard, "cdn.test")).toEqual([{ address: "5.6.7.8", family: 4 }]);
  });

  it("lets a registry lead to addresses of its own kind, but never to a metadata service", async () => {
    const guard = new AddressGuard(["registry.test"], []);
    names
      .set("registry.test", ["10.0.0.5"])
      .set("store.test", ["192.168.0.9"])
      .set("here.test", ["127.0.0.1"])
      .set("cloud.test", ["169.254.169.254"]);
    await resolved(guard, "registry.test");
    await resolved(guard, "store.test");
    await expect(resolved(guard, "here.test")).rejects.toThrow("loopback address");
    await expect(resolved(guard, "cloud.test")).rejects.toThrow("metadata address");
    names.set("registry.test", ["169.254.169.254"]);
    await expect(resolved(guard, "registry.test")).rejects.toThrow("metadata address");
    names.set("registry.test", ["1.2.3.4"]);
    await resolved(guard, "registry.test");
    await expect(resolved(guard, "store.test")).rejects.toThrow("private address");
  });

  it("lets through what is listed", async () => {
    const guard = new AddressGuard(["1.2.3.4"], ["10.1.0.0/16", "169.254.169.254"]);
    names.set("a.test", ["10.1.2.3"]).set("b.test", ["10.2.0.1"]).set("c.test", ["169.254.169.254"]);
    await resolved(guard, "a.test");
    await expect(resolved(guard, "b.test")).rejects.toThrow("allowAddresses");
    await resolved(guard, "c.test");
  });

  it.each(["10.0.0.1", "[fd00::1]", "[::ffff:127.0.0.1]", "169.254.169.254"])("judges %s, which nobody looks up", (host) => {
    expect(new AddressGuard(["registry.test"], []).refusalOfLiteral(host)?.message).toContain("address");
    expect(new AddressGuard([host], []).refusalOfLiteral(host)).toBeUndefined();
  });
});

describe("an upstream", () => {
  it.each([
    "http://10.0.0.1/x",
    "http://inner.test/x",
    "http://[::ffff:a9fe:a9fe]/x",
    "http://169.254.169.254/latest/meta-data/",
    "http://0x0a000001/x",
  ])("cannot redirect to %s", async (redirect) => {
    names.set("inner.test", ["192.168.0.1"]);
    const upstream = await upstreamFor({ intercept: () => ({ redirect }) });
    const lookup = await remoteFor(upstream).getManifest("a", "1");
    expect(lookup.kind).toBe("unavailable");
    expect(errorOf(lookup).code).toBe("UNAVAILABLE");
    expect(errorOf(lookup).message).toMatch(
      /^up: manifest 1 of a: a redirect or token endpoint leads to a (private|metadata) address: list it in allowAddresses/,
    );
    expect(upstream.requests).toHaveLength(1);
  });

  it("cannot have tokens asked for inside the network, though the host is listed", async () => {
    names.set("auth.test", ["192.168.0.1"]);
    const upstream = await upstreamFor({ auth: { kind: "bearer", realm: "http://auth.test/token" } });
    const credentials = { username: "robot", password: "pass" };
    const lookup = await remoteFor(upstream, { credentials, realmHosts: ["auth.test"] }).getManifest("a", "1");
    expect(errorOf(lookup)).toMatchObject({ code: "UNAVAILABLE", message: expect.stringContaining("private address") });
  });

  it("on this machine may lead to this machine, by whatever name", async () => {
    names.set("cdn.test", ["127.0.0.1"]);
    const upstream = await upstreamFor();
    const cdn = await upstreamFor();
    const image = upstream.addImage("a", "1");
    upstream.intercept = () => ({ redirect: cdn.url.replace("127.0.0.1", "cdn.test") });
    cdn.intercept = () => ({ status: 200, headers: { "content-type": image.descriptor.mediaType }, body: image.bytes });
    expect(foundIn(await remoteFor(upstream).getManifest("a", image.digest)).descriptor).toEqual(image.descriptor);
  });
});
