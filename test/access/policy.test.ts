import { expect, test } from "vitest";
import { type Action, accessPolicy } from "../../src/access/policy.js";

const all: Action[] = ["pull", "list", "push", "delete"];
const ci = { name: "ci" };

/** The code of the refusal, or "ok". */
async function decide(policy: ReturnType<typeof accessPolicy>, question: Parameters<typeof policy.admit>[0]): Promise<string> {
  try {
    await policy.admit(question);
    return "ok";
  } catch (error) {
    return (error as { code: string }).code;
  }
}

test("without a policy reads are open and writes refused, to everybody", async () => {
  const policy = accessPolicy();
  const anonymous = await Promise.all(all.map((action) => decide(policy, { action, repository: "app" })));
  expect(anonymous).toEqual(["ok", "ok", "UNAUTHORIZED", "UNAUTHORIZED"]);
  const known = await Promise.all(all.map((action) => decide(policy, { action, repository: "app", caller: ci })));
  expect(known).toEqual(["ok", "ok", "DENIED", "DENIED"]);
  expect([policy.asksToSignIn(undefined), policy.challenge]).toEqual([false, 'Basic realm="registry"']);
});

test("anonymous writes are for hosts without a policy only", async () => {
  const open = accessPolicy({ anonymousWrites: true });
  expect(await Promise.all(all.map((action) => decide(open, { action })))).toEqual(["ok", "ok", "ok", "ok"]);
  const decided = accessPolicy({ anonymousWrites: true, authorize: ({ action }) => action === "pull" });
  expect(await Promise.all(all.map((action) => decide(decided, { action })))).toEqual([
    "ok",
    "UNAUTHORIZED",
    "UNAUTHORIZED",
    "UNAUTHORIZED",
  ]);
});

test("only true permits", async () => {
  for (const answer of [false, 1, "yes", {}, undefined, null, Promise.resolve(1), Promise.resolve(undefined)]) {
    const policy = accessPolicy({ authorize: () => answer as boolean });
    expect(await decide(policy, { action: "pull", caller: ci })).toBe("DENIED");
  }
  for (const answer of [true, Promise.resolve(true)])
    expect(await decide(accessPolicy({ authorize: () => answer }), { action: "pull" })).toBe("ok");
});

test("a synchronous permission costs no promise", () => {
  expect(accessPolicy().admit({ action: "pull" })).toBeUndefined();
  expect(accessPolicy({ authorize: () => true }).admit({ action: "push" })).toBeUndefined();
});

test("a policy that fails refuses, without its reasons", async () => {
  for (const authorize of [
    () => {
      throw new Error("ldap://secret");
    },
    () => Promise.reject(new Error("ldap://secret")),
  ]) {
    const policy = accessPolicy({ authorize });
    expect(await decide(policy, { action: "pull", caller: ci })).toBe("UNKNOWN");
    await expect((async () => policy.admit({ action: "pull" }))()).rejects.not.toThrow(/secret/);
  }
});

test("a challenge is one header line", () => {
  expect(accessPolicy({ challenge: 'Bearer realm="https://a/token",service="a"' }).challenge).toContain("Bearer");
  expect(() => accessPolicy({ challenge: "Basic\r\nX-Evil: 1" })).toThrow("one line");
});
