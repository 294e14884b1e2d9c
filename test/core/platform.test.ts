import { describe, expect, test } from "vitest";
import type { Platform } from "../../src/core/descriptor.js";
import { isOneOf, namesPlatform, platformName } from "../../src/core/platform.js";

const amd64 = { os: "linux", architecture: "amd64" };
const armv7 = { os: "linux", architecture: "arm", variant: "v7" };

test("a platform is meant with its variant or with all of them", () => {
  expect(isOneOf(armv7, ["linux/arm"])).toBe(true);
  expect(isOneOf(armv7, ["linux/amd64", "linux/arm/v7"])).toBe(true);
  expect(isOneOf(armv7, ["linux/arm/v6"])).toBe(false);
  expect(isOneOf(amd64, ["linux/amd64/v1"])).toBe(false);
  expect(isOneOf(amd64, [])).toBe(false);
});

describe("a child names no platform", () => {
  const none: readonly (Platform | undefined)[] = [
    undefined,
    { os: "unknown", architecture: "unknown" },
    { os: "", architecture: "amd64" },
    // As an index of JSON may have it.
    JSON.parse('{"architecture":"amd64"}'),
  ];
  test.each(none)("%j", (platform) => {
    expect(namesPlatform(platform)).toBe(false);
    expect(platformName(platform)).toBeUndefined();
  });
});

test("a platform is told with its variant", () => {
  expect([amd64, armv7].map(platformName)).toEqual(["linux/amd64", "linux/arm/v7"]);
});
