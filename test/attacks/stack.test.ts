import { digestOf } from "oci-manifold/extend";
import { expect, test } from "vitest";
import { codeOf, protocols, stack } from "./stack.js";

test.each(protocols)("a push to release is pulled through prerelease, and the upstream through its cache, over %s", async (protocol) => {
  const { upstream, ask, pushImage } = await stack({ front: protocol });
  const { digest, layers } = await pushImage("release/team/app", "1");
  const pulled = await ask("GET", "/v2/prerelease/team/app/manifests/1");
  expect([pulled.status, digestOf(pulled.body)]).toEqual([200, digest]);
  const layer = await ask("GET", `/v2/prerelease/team/app/blobs/${layers[1]?.digest}`);
  expect([layer.status, digestOf(layer.body)]).toEqual([200, layers[1]?.digest]);

  const image = upstream.addImage("library/alpine", "3");
  for (const route of ["hub", "prerelease"]) {
    const answer = await ask("GET", `/v2/${route}/library/alpine/manifests/3`);
    expect([answer.status, digestOf(answer.body)]).toEqual([200, image.digest]);
  }
  const unknown = await ask("GET", "/v2/release/library/alpine/manifests/3");
  expect([unknown.status, codeOf(unknown)]).toEqual([404, "MANIFEST_UNKNOWN"]);
});
