import { filesBelow, read } from "./support.js";

/** A piece of code that a reader may copy. */
export interface Snippet {
  /** `docs/http.md:12`: where its first line stands. */
  readonly place: string;
  /** Fit for a file's name; the same for the same place. */
  readonly name: string;
  readonly code: string;
}

/** Every ```ts block of the README, the pages in docs and the comments in src. */
export function allSnippets(): Snippet[] {
  const pages = ["README.md", ...filesBelow("docs", ".md")].flatMap((path) => blocksOf(path, read(path).split("\n")));
  const comments = filesBelow("src", ".ts").flatMap((path) => blocksOf(path, read(path).split("\n").map(uncommented)));
  return [...pages, ...comments];
}

/** A comment's line without its star; code outside of comments is no text. */
function uncommented(line: string): string {
  const text = /^\s*\*(?!\/) ?(.*)$/.exec(line);
  return text?.[1] ?? "";
}

function blocksOf(path: string, lines: readonly string[]): Snippet[] {
  const snippets: Snippet[] = [];
  let start: number | undefined;
  lines.forEach((line, index) => {
    if (start === undefined) {
      if (/^\s*```ts\b/.test(line)) start = index + 1;
    } else if (/^\s*```\s*$/.test(line)) {
      const place = `${path}:${start + 1}`;
      snippets.push({ place, name: place.replace(/\W+/g, "-"), code: `${lines.slice(start, index).join("\n")}\n` });
      start = undefined;
    }
  });
  if (start !== undefined) throw new Error(`the block at ${path}:${start} has no end`);
  return snippets;
}
