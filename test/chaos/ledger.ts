import { get } from "../interop/http.js";

/** The digest of what is there, `undefined` for nothing. */
export type Value = string | undefined;

/** What became of a request: acknowledged, or refused so that nothing can have changed. Whoever does not know throws. */
export type Outcome = "done" | "refused";

/**
 * What a registry must have, by the URL path of each manifest, tag and blob. A request that nobody answered may or may not have happened: until the registry
 * has been asked, either is right.
 */
export class Ledger {
  readonly #possible = new Map<string, ReadonlySet<Value>>();
  readonly #unseen = new Set<string>();
  /** What somebody asked to delete. */
  readonly removed = new Set<string>();

  /** What it is, where that is certain. */
  certain(path: string): Value {
    const values = this.#possible.get(path);
    return values?.size === 1 ? [...values][0] : undefined;
  }

  /** The paths that certainly hold something. */
  held(under: string): string[] {
    return [...this.#possible.keys()].filter((path) => path.startsWith(under) && this.certain(path) !== undefined);
  }

  get size(): number {
    return this.#possible.size;
  }

  /**
   * Notes what a request changes, and what became of it.
   * @param changes for each path, what it becomes from what it was.
   */
  async change(changes: Readonly<Record<string, (was: Value) => Value>>, request: () => Promise<Outcome>): Promise<Outcome> {
    const before = new Map(Object.keys(changes).map((path) => [path, this.#possible.get(path) ?? new Set<Value>([undefined])]));
    const after = new Map([...before].map(([path, values]) => [path, new Set([...values].map((was) => changes[path]?.(was)))]));
    for (const [path, values] of before) {
      this.#possible.set(path, new Set([...values, ...(after.get(path) ?? [])]));
      this.#unseen.add(path);
    }
    const outcome = await request();
    for (const [path, values] of outcome === "done" ? after : before) this.#possible.set(path, values);
    return outcome;
  }

  /** As it stands now: for a copy of the registry's disk that is taken now. */
  copy(): Ledger {
    const copy = new Ledger();
    for (const [path, values] of this.#possible) {
      copy.#possible.set(path, values);
      copy.#unseen.add(path);
    }
    return copy;
  }

  /** Asks for everything that changed since it was last asked for, and learns what became of requests that nobody answered. */
  async check(origin: string): Promise<void> {
    const paths = [...this.#unseen];
    this.#unseen.clear();
    await this.#checkAll(origin, paths);
  }

  /** @param atOnce how many requests at a time. */
  async checkEverything(origin: string, atOnce = 8): Promise<void> {
    this.#unseen.clear();
    await this.#checkAll(origin, [...this.#possible.keys()], atOnce);
  }

  async checkOne(origin: string, path: string): Promise<void> {
    const { status, digest, bodyDigest } = await get(`${origin}${path}`);
    if (status !== 200 && status !== 404) throw new Error(`${path} answered ${status}`);
    const value = status === 200 ? bodyDigest : undefined;
    if (status === 200 && digest !== bodyDigest) throw new Error(`${path} is called ${digest} and is ${bodyDigest}`);
    const possible = this.#possible.get(path);
    if (possible && !possible.has(value)) throw new Error(`${path} is ${value}, not ${[...possible].join(" or ")}`);
    this.#possible.set(path, new Set([value]));
  }

  async #checkAll(origin: string, paths: string[], atOnce = 8): Promise<void> {
    const next = async (): Promise<void> => {
      for (let path = paths.pop(); path !== undefined; path = paths.pop()) await this.checkOne(origin, path);
    };
    await Promise.all(Array.from({ length: atOnce }, next));
  }
}
