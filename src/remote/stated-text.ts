/** Of a message, in characters. */
const messageLimit = 500;

/**
 * What an upstream says, without URLs and credentials: registries pass on what their storage said, signed URLs included, and proxies echo headers.
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
