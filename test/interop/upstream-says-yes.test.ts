import { join } from "node:path";
import { expect, test } from "vitest";
import { stack } from "../attacks/stack.js";
import { skopeoCopy } from "./clients.js";
import { digestInLayout, sampleLayout } from "./layouts.js";
import { temporaryFolder } from "./processes.js";
import { requires } from "./requires.js";

requires("skopeo")("skopeo, where the upstream of a connector answers 200 to every HEAD", () => {
  test.each([
    ["with {}", { status: 200, body: "{}" }],
    ["with a web page", { status: 200, headers: { "content-type": "text/html", "content-length": "1270" } }],
    ["with Content-Length: 0", { status: 200, headers: { "content-length": "0" } }],
  ])("%s, pushes in two attempts at most, and pulls every layer", async (_, fault) => {
    const s = await stack();
    s.upstream.intercept = ({ method }) => (method === "HEAD" ? fault : undefined);
    const { layout, image } = await sampleLayout(await temporaryFolder());
    const there = `docker://127.0.0.1:${s.port}/prerelease/team/app:1`;
    await skopeoCopy(layout.reference("image"), there).catch(() => skopeoCopy(layout.reference("image"), there));
    s.upstream.intercept = () => ({ hangUp: true });
    const folder = join(await temporaryFolder(), "pulled");
    await skopeoCopy(there, `oci:${folder}:1`);
    expect(await digestInLayout(folder)).toBe(image.digest);
  });
});
