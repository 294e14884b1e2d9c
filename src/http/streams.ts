import { constants, type Http2Session } from "node:http2";
import { isHttp2Response, type NodeResponse } from "./http2.js";

/** RFC 9113 advises no fewer. Registry clients pull some ten blobs at a time. */
export const mostStreams = 100;

/** Streams of a session that are answered, also those whose client has reset them and whose work still runs. */
const running = new WeakMap<Http2Session, number>();
const limited = new WeakSet<Http2Session>();

/**
 * Takes one of the {@link mostStreams} places of an HTTP/2 session. The server's settings tell the client how many there are; where it does not keep to that, or resets streams to open
 * others in their place while what they asked for still runs, the stream is refused, which says that nothing was done.
 *
 * @returns what gives the place back; undefined in HTTP/1; "refused" also where the client has reset the stream already.
 */
export function takeStream(response: NodeResponse): (() => void) | "refused" | undefined {
  if (!isHttp2Response(response)) return undefined;
  const { stream } = response;
  const { session } = stream;
  if (!session || stream.destroyed || stream.aborted) return "refused";
  limitStreams(session);
  const count = running.get(session) ?? 0;
  if (count >= mostStreams) {
    // Node tells the request of it, which nobody looks at.
    response.req.on("error", () => {});
    stream.close(constants.NGHTTP2_REFUSED_STREAM);
    return "refused";
  }
  running.set(session, count + 1);
  return () => void running.set(session, (running.get(session) ?? 1) - 1);
}

/** Tells a client how many streams it may have, unless the host allows it fewer. */
export function limitStreams(session: Http2Session): void {
  if (limited.has(session)) return;
  limited.add(session);
  const tell = () => {
    if (session.destroyed || session.closed || (session.localSettings.maxConcurrentStreams ?? mostStreams) <= mostStreams) return;
    session.settings({ maxConcurrentStreams: mostStreams });
  };
  // What the host has set holds once the client has confirmed it.
  if (session.pendingSettingsAck) session.once("localSettings", tell);
  else tell();
}
