import type { UpstreamResponse } from "./transport.js";

/** Of a message, in characters. */
const messageLimit = 500;

/**
 * What an upstream says, without URLs and credentials: registries pass on the errors of their storage, signed URLs included, and proxies echo headers.
 */
export function withoutSecrets(text: string): string {
  // A scheme begins where a run of its characters begins: from the middle of the run, each would be followed to its end.
  return text.replace(/(?<![a-z0-9+.-])[a-z0-9+.-]+:\/\/\S+/gi, "(URL)").replace(/\b(bearer|basic)\s+\S+/gi, "$1 (hidden)");
}

/** As it is shown to people. */
export function onOneLine(text: string): string {
  return text
    .replace(/[\p{C}\p{Zl}\p{Zp}\s]+/gu, " ")
    .trim()
    .slice(0, messageLimit);
}

/** Of all warnings of one answer, in characters: what a server of this library sends at most. */
const warningsLength = 4096;
/** Of one listing: with each of its pages an upstream could send another one, and clients are sent a few. */
const warningLimit = 50;

/**
 * Notes what an answer warns of, by the headers of the distribution-spec ("Warnings"). Without that a list that its giver knows not to be whole would be taken, and
 * kept, for one that is.
 * @param who says so.
 */
export function noteWarnings(warnings: Set<string>, who: string, { headers: { warning } }: UpstreamResponse): void {
  const stated = (Array.isArray(warning) ? warning.join() : (warning ?? "")).slice(0, warningsLength);
  for (const [, text = ""] of stated.matchAll(/299 - "((?:[^"\\]|\\.)*)"/g)) {
    if (warnings.size >= warningLimit) return;
    warnings.add(`${who} warns of this list: ${onOneLine(withoutSecrets(text.replace(/\\(.)/g, "$1")))}`);
  }
}
