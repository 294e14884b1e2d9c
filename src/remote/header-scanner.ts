/** Reads a header from left to right. Patterns are sticky, and none looks at a character that an earlier one has taken, so the work is linear in the header's length. */
export class HeaderScanner {
  readonly text: string;
  /** Where the next pattern has to match. */
  at = 0;

  constructor(text: string) {
    this.text = text;
  }

  /** What a sticky pattern matches here, which is then behind; `undefined`, and nothing is, when it does not match. */
  take(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text) ?? undefined;
    if (match) this.at = pattern.lastIndex;
    return match;
  }

  /** The value of a quoted string that begins here (RFC 9110 section 5.6.4); `undefined` when none does, or it does not end. */
  takeQuoted(): string | undefined {
    return this.take(quoted)?.[1]?.replace(/\\([\s\S])/g, "$1");
  }
}

const quoted = /"([^"\\]*(?:\\[\s\S][^"\\]*)*)"/y;
