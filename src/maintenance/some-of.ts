/** The most that an error names. */
export const mostNamed = 20;

/** The first of many, for a message, and how many more there are. */
export function someOf(names: readonly string[]): string {
  const more = names.length > mostNamed ? ` and ${names.length - mostNamed} more` : "";
  return `${names.slice(0, mostNamed).join(", ")}${more}`;
}
