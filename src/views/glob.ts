/** Whether a text matches. */
export type Glob = (text: string) => boolean;

/**
 * Compiles a pattern in which `*` stands for any characters but "/", and `**` for any characters. Matched by following all ways at once: as a regular
 * expression several stars would take exponential time on names that clients choose.
 */
export function compileGlob(pattern: string): Glob {
  const tokens = pattern.match(/\*\*|[\s\S]/g) ?? [];
  if (!pattern.includes("*")) return (text) => text === pattern;
  return (text) => {
    let states = new Set<number>();
    reach(tokens, 0, states);
    for (const character of text) {
      const next = new Set<number>();
      for (const state of states) {
        const token = tokens[state];
        if (token === "**" || (token === "*" && character !== "/")) reach(tokens, state, next);
        else if (token === character) reach(tokens, state + 1, next);
      }
      if (next.size === 0) return false;
      states = next;
    }
    return states.has(tokens.length);
  };
}

/** A star may stand for nothing. */
function reach(tokens: readonly string[], from: number, states: Set<number>): void {
  for (let state = from; !states.has(state); state++) {
    states.add(state);
    if (tokens[state] !== "*" && tokens[state] !== "**") return;
  }
}
