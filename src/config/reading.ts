import { isRegistryError, RegistryError } from "../core/errors.js";
import { nearest } from "./nearest.js";

/** What is wrong at one place of a configuration. */
export interface ConfigProblem {
  /** `registries.prerelease.connectors[1].allow[0]` */
  readonly path: string;
  readonly message: string;
}

/** Collects everything that is wrong, so that one error names all of it. */
export class Problems {
  readonly all: ConfigProblem[] = [];

  add(path: string, message: string): undefined {
    this.all.push({ path, message });
    return undefined;
  }

  /** Runs a check of the library's own: what it refuses is a problem of this place. */
  attempt<T>(path: string, run: () => T): T | undefined {
    try {
      return run();
    } catch (error) {
      if (isRegistryError(error)) return this.add(path, error.message);
      throw error;
    }
  }

  /** @throws RegistryError UNKNOWN when there is one. */
  throwAny(): void {
    if (this.all.length === 0) return;
    const lines = this.all.map(({ path, message }) => `${path}: ${message}`);
    throw new RegistryError("UNKNOWN", lines.join("\n"), { detail: { problems: this.all } });
  }
}

/**
 * Reads one value of plain data. Where there is a problem, the answer is not used: problems are thrown before. Messages never repeat a value, since somebody may have put a
 * secret into the wrong place.
 */
export type Read<T> = (value: unknown, path: string, problems: Problems) => T | undefined;

export const text: Read<string> = (value, path, problems) =>
  typeof value === "string" ? value : problems.add(path, `must be text, is ${kindOf(value)}`);

export const flag: Read<boolean> = (value, path, problems) =>
  typeof value === "boolean" ? value : problems.add(path, `must be true or false, is ${kindOf(value)}`);

export const number: Read<number> = (value, path, problems) =>
  typeof value === "number" ? value : problems.add(path, `must be a number, is ${kindOf(value)}`);

/** Text in a form that a function of the library checks. */
export function form<T extends string>(check: (text: T) => unknown): Read<T> {
  return (value, path, problems) => {
    const read = text(value, path, problems);
    if (read === undefined) return undefined;
    problems.attempt(path, () => check(read as T));
    return read as T;
  };
}

export function oneOf<T extends string>(...choices: readonly T[]): Read<T> {
  const listed = choices.map((choice) => JSON.stringify(choice)).join(" or ");
  return (value, path, problems) => choices.find((choice) => choice === value) ?? problems.add(path, `must be ${listed}`);
}

/** A value that can have one of two forms. @param isFirst whether it has the first one. */
export function either<A, B>(isFirst: (value: unknown) => boolean, first: Read<A>, second: Read<B>): Read<A | B> {
  return (value, path, problems) => (isFirst(value) ? first(value, path, problems) : second(value, path, problems));
}

export function list<T>(item: Read<T>): Read<readonly T[]> {
  return (value, path, problems) => {
    if (!Array.isArray(value)) return problems.add(path, `must be a list, is ${kindOf(value)}`);
    return value.flatMap((one: unknown, index) => item(one, `${path}[${index}]`, problems) ?? []);
  };
}

/** An object whose keys are names that the host chose. */
export function named<T>(item: Read<T>): Read<Readonly<Record<string, T>>> {
  return (value, path, problems) => {
    const object = objectAt(value, path, problems);
    if (!object) return undefined;
    const entries = Object.entries(object).map(([name, one]) => [name, item(one, below(path, name), problems)] as const);
    return Object.fromEntries(entries.filter((entry): entry is [string, T] => entry[1] !== undefined));
  };
}

/** A reader for each key of a type: a key that is added to it does not compile until it is read. */
export type Fields<T> = { readonly [K in keyof T]-?: Read<NonNullable<T[K]>> };

/** An object with known keys; others are problems. */
export function record<T extends object>(required: readonly (keyof T & string)[], fields: Fields<T>): Read<T> {
  return (value, path, problems) => {
    const object = objectAt(value, path, problems);
    if (!object) return undefined;
    const known = new Map<string, Read<unknown>>(Object.entries(fields));
    const result: Record<string, unknown> = {};
    for (const [key, one] of Object.entries(object)) {
      const read = known.get(key);
      if (read) result[key] = read(one, below(path, key), problems);
      else problems.add(below(path, key), `is not known here${nearest(key, known.keys())}`);
    }
    for (const key of required) if (!(key in object)) problems.add(below(path, key), "is missing");
    // Every key was read by the reader of its type; where one is missing or wrong there is a problem, and the result is not used.
    return result as T;
  };
}

export function objectAt(value: unknown, path: string, problems: Problems): Readonly<Record<string, unknown>> | undefined {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  return problems.add(path, `must be an object, is ${kindOf(value)}`);
}

export function below(path: string, key: string): string {
  const step = /^[A-Za-z_$][\w$-]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`;
  return path === "" ? step.replace(/^\./, "") : path + step;
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return "nothing";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "an object";
  if (typeof value === "string") return "text";
  return typeof value === "boolean" ? "true or false" : `a ${typeof value}`;
}
