import { RegistryError } from "../core/errors.js";
import type { RecordRange } from "../core/metadata-store.js";
import type { RecordKey } from "../core/records.js";

// Parts hold printable ASCII only, so a control character between them sorts below everything a part can hold: the joined text then sorts as the
// tuple does ("a" before "a-b" before "ab", whatever follows each). With "/" or ":" as separator it would not.
const separator = "\u0001";
/** Sorts after every key that continues with a separator, and before every one that continues with a character of a part. */
const afterSeparator = "\u0002";
const partPattern = /^[\x20-\x7e]*$/;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
const controlCharacter = /[\x00-\x1f]/;

function joined(parts: readonly string[]): string {
  for (const part of parts) {
    if (!partPattern.test(part)) {
      throw new RegistryError(
        "UNKNOWN",
        `${JSON.stringify(part.slice(0, 160))} cannot be part of a record's key: only printable ASCII can`,
      );
    }
  }
  return parts.join(separator);
}

/**
 * A key's parts as one text that sorts as the tuple does.
 * @throws RegistryError UNKNOWN for a key without parts or a part with anything but printable ASCII.
 */
export function keyText(key: RecordKey): string {
  if (key.parts.length === 0) throw new RegistryError("UNKNOWN", `a ${key.kind} record needs at least one part in its key`);
  return joined(key.parts);
}

export function keyParts(text: string): string[] {
  return text.split(separator);
}

/** The keys of a range, as half-open bounds: `from <= key < to`. The part after `under` begins at `nameAt`. */
export function keyBounds(range: RecordRange): { from: string; to: string; nameAt: number } {
  const under = joined(range.under);
  const prefix = range.under.length === 0 ? "" : under + separator;
  const to = range.under.length === 0 ? "\u007f" : under + afterSeparator;
  if (range.after === undefined) return { from: prefix, to, nameAt: prefix.length };
  // `after` comes from clients and need not be a valid part. No part holds a control character, so what begins with one changes no answer.
  const last = range.after.split(controlCharacter, 1)[0] ?? "";
  return { from: prefix + last + afterSeparator, to, nameAt: prefix.length };
}
