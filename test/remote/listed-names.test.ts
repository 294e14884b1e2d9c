import { describe, expect, it } from "vitest";
import { namesIn } from "../../src/remote/listed-names.js";

const read = (text: string) => namesIn(Buffer.from(text), "tags", (name) => /^[a-z0-9]+$/.test(name));

describe("names in a listing", () => {
  it.each([
    ['{"tags":["a","b"]}', ["a", "b"], 0],
    [' { "name" : "x" , "tags" : [ "a" , "b" ] } \n', ["a", "b"], 0],
    ['{"tags":[]}', [], 0],
    ['{"tags":null}', [], 0],
    ["{}", [], 0],
    ['{"tags":["a",7,null,true,"B",{"tags":["c"]},["d"],"e"]}', ["a", "e"], 6],
    ['{"manifest":{"tags":["x"],"y":{"tag":["z"]}},"tags":["a"],"child":["q"]}', ["a"], 0],
    ['{"x":"tags","tags":["a"]}', ["a"], 0],
    ['{"x":"\\"tags\\":[\\\\","tags":["\\u0061"]}', ["a"], 0],
    ['{"tags":["a"],"tags":["b"]}', ["b"], 0],
    ["\ufeff" + '{"tags":["a"]}', ["a"], 0],
    [`{"tags":["${"a".repeat(2000)}","b"]}`, ["b"], 1],
  ])("%s", async (text, names, dropped) => {
    expect(await read(text)).toMatchObject({ names, dropped });
  });

  it.each([
    ['{"tags":["a","b"]}', "b"],
    ['{"tags":["a","No Name",7]}', "No Name"],
    ['{"tags":["a"],"tags":[]}', undefined],
    ['{"tags":["b","\\u0061"],"child":["q"]}', "a"],
    ["{}", undefined],
  ])("%s: the last entry is given, name or not", async (text, last) => {
    expect((await read(text)).last).toBe(last);
  });

  it.each([
    "",
    "<html>",
    "[]",
    '"tags"',
    '{"tags":["a"',
    '{"tags":["a"]',
    '{"tags":["a]}',
    '{"tags":["a"}]',
    '{"tags":["a"]}}',
    '{"tags":"a"}',
    '{"tags":{"a":1}}',
    `{"x":${"[".repeat(200)}${"]".repeat(200)}}`,
  ])("are not in %s", async (text) => {
    await expect(read(text)).rejects.toThrow(/^the answer/);
  });

  it("agree with JSON.parse", async () => {
    const value = { a: [1.5, -2e9, { b: "}]" }], name: "n", tags: ["x", "y", "z9"], more: { tags: 3 }, s: "é\\ud83d\\ude00" };
    for (const indent of [0, 2]) expect((await read(JSON.stringify(value, undefined, indent))).names).toEqual(value.tags);
  });

  it("are read from 16 MiB of anything without much memory", async () => {
    const filler = "[],".repeat(5_000_000);
    const body = Buffer.from(`{"manifest":[${filler}[]],"tags":["a"]}`);
    const before = process.memoryUsage().heapUsed;
    expect((await namesIn(body, "tags", () => true)).names).toEqual(["a"]);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(50 * 1024 * 1024);
  });

  it.each([
    ["names", `{"tags":["${Array.from({ length: 500_000 }, (_, i) => `v1${i}`).join('","')}"]}`],
    ["values that are no names", `{"manifest":[${"[],".repeat(5_000_000)}[]],"tags":["a"]}`],
  ])("are read over many turns of the event loop: %s", async (_, text) => {
    let turns = 0;
    const timer = setInterval(() => turns++, 0);
    const body = Buffer.from(text);
    await namesIn(body, "tags", () => true);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(10);
  });
});
