import { describe, expect, it, onTestFinished } from "vitest";
import { eventually } from "../fixtures/read.js";
import { pushServer } from "./pushing.js";
import { errorOf, foundIn, remoteFor } from "./support.js";

const manifest = Buffer.from('{"schemaVersion":2,"manifests":[]}');
const head = `HTTP/1.1 200 OK\r\ncontent-type: application/vnd.oci.image.index.v1+json\r\ncontent-length: ${manifest.byteLength}\r\n\r\n`;

/** Sends interim responses, as many as wanted or for ever, then the answer. */
async function hinting(status: string, count = Number.POSITIVE_INFINITY) {
  return pushServer(({ socket }) => {
    let sent = 0;
    const timer = setInterval(() => {
      if (sent++ < count) return socket.write(`HTTP/1.1 ${status}\r\nlink: </x>; rel=preload\r\n\r\n`);
      clearInterval(timer);
      return socket.end(Buffer.concat([Buffer.from(head), manifest]));
    }, 10);
    socket.once("close", () => clearInterval(timer));
    onTestFinished(() => clearInterval(timer));
  });
}

describe("interim responses", () => {
  it.each(["103 Early Hints", "102 Processing", "199 Wait"])("do not put off the timeout of headers: %s", async (status) => {
    const upstream = await hinting(status);
    const registry = remoteFor(upstream, { timeouts: { headers: "200ms" }, retries: 0 });
    expect(errorOf(await registry.getManifest("a", "1")).message).toContain("UND_ERR_HEADERS_TIMEOUT");
    expect(upstream.requests).toHaveLength(1);
  });

  it("are passed over where the answer follows in time, and end with the caller", async () => {
    const upstream = await hinting("103 Early Hints", 3);
    const { bytes } = foundIn(await remoteFor(upstream).getManifest("a", "1"));
    expect(manifest.equals(bytes)).toBe(true);
    const reason = new Error("left");
    const endless = await hinting("103 Early Hints");
    const caller = new AbortController();
    const gone = remoteFor(endless).getManifest("a", "1", { signal: caller.signal });
    await eventually(async () => endless.requests.length === 1, "the request");
    caller.abort(reason);
    await expect(gone).rejects.toBe(reason);
  });
});
