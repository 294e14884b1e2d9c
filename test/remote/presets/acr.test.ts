import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, it, onTestFinished, vi } from "vitest";
import { type AcrOptions, acr } from "../../../src/remote/presets/acr.js";
import { fakeClock } from "../../../src/testing/fake-clock.js";
import { errorOf, foundIn } from "../support.js";

/** What of ACR is unlike others: the way to its tokens. */
async function acrFor(options: AcrOptions & { exchangeStatus?: number }) {
  const { exchangeStatus = 200, ...rest } = options;
  const asked: { path: string; form: Record<string, string> }[] = [];
  let host = "";
  const server = createServer(async (request, response) => {
    let text = "";
    for await (const chunk of request) text += chunk;
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    const form = Object.fromEntries(new URLSearchParams(text));
    const answer = (status: number, body: object, headers = {}) => response.writeHead(status, headers).end(JSON.stringify(body));
    if (path.startsWith("/oauth2/")) asked.push({ path, form });
    if (path === "/oauth2/exchange")
      return answer(exchangeStatus, exchangeStatus === 200 ? { refresh_token: `refresh for ${form.access_token}` } : { errors: [] });
    if (path === "/oauth2/token")
      return form.refresh_token === "refresh for aad" ? answer(200, { access_token: "access" }) : answer(401, {});
    if (request.headers.authorization === "Bearer access") return answer(200, { name: "app", tags: ["1"] });
    const challenge = `Bearer realm="http://${host}/oauth2/token",service="${host}",scope="repository:${path.split("/")[2]}:pull"`;
    return answer(401, { errors: [] }, { "www-authenticate": challenge });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const registry = acr(`http://${host}`, { name: "acr", ...rest });
  onTestFinished(async () => {
    await registry.close({ deadline: "1ms" });
    server.close();
    server.closeAllConnections();
  });
  return { registry, asked, host };
}

it("exchanges the access token of Entra ID for a refresh token, and that for access tokens", async () => {
  const clock = fakeClock();
  const aadAccessToken = vi.fn(async () => ({ token: "aad" }));
  const { registry, asked, host } = await acrFor({ aadAccessToken, tenant: "t", clock });
  expect(foundIn(await registry.listTags("app", { limit: 10 })).items).toEqual(["1"]);
  const exchange = { path: "/oauth2/exchange", form: { grant_type: "access_token", service: host, access_token: "aad", tenant: "t" } };
  const token = (scope: string) => ({
    path: "/oauth2/token",
    form: { grant_type: "refresh_token", client_id: "oci-manifold", refresh_token: "refresh for aad", scope, service: host },
  });
  expect(asked).toEqual([exchange, token("repository:app:pull")]);
  await Promise.all(["a", "b"].map(async (name) => foundIn(await registry.listTags(name, { limit: 10 }))));
  expect(asked.slice(2)).toHaveLength(2);
  expect(asked.slice(2)).toEqual(expect.arrayContaining([token("repository:a:pull"), token("repository:b:pull")]));
  await clock.advance(3_600_001);
  foundIn(await registry.listTags("app", { limit: 10 }));
  expect(asked.slice(4)).toEqual([exchange, token("repository:app:pull")]);
  expect(aadAccessToken).toHaveBeenCalledTimes(2);
});

it.each<[string, AcrOptions & { exchangeStatus?: number }, string]>([
  ["the exchange is refused", { aadAccessToken: () => "aad", exchangeStatus: 401 }, "did not take the access token: answered 401"],
  ["there is no access token", { aadAccessToken: () => Promise.reject(new Error("s3cret")) }, "the given function failed"],
])("is unavailable when %s, and asks again", async (_, options, why) => {
  const { registry, asked } = await acrFor(options);
  for (let i = 0; i < 2; i++) {
    const { code, message } = errorOf(await registry.listTags("app", { limit: 10 }));
    expect(code).toBe("UNAVAILABLE");
    expect(message).toContain(why);
    expect(message).not.toContain("s3cret");
  }
  expect(asked).toHaveLength("exchangeStatus" in options ? 2 : 0);
});

it("is denied when the registry does not know the token", async () => {
  const { registry } = await acrFor({ aadAccessToken: () => "unknown" });
  expect((await registry.listTags("app", { limit: 10 })).kind).toBe("denied");
});

it("takes one kind of credentials", () => {
  expect(() => acr("team.azurecr.io", { aadAccessToken: () => "", credentials: { identityToken: "x" } })).toThrow("not both");
});
