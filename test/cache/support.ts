import {
  type CachedOptions,
  type CachedRegistry,
  type Caller,
  type CallOptions,
  cached,
  type ErrorCode,
  type Lookup,
  localRegistry,
  orThrow,
  type Registry,
  RegistryError,
} from "oci-manifold";
import { memoryStorage } from "oci-manifold/storage/memory";
import { fakeClock } from "oci-manifold/testing";
import { makeImage, pushImage } from "../fixtures/images.js";
import { eventually } from "../fixtures/read.js";
import { recorder } from "../http/support.js";

/** One question to the source, as "method repository reference". */
export interface Question {
  readonly text: string;
  readonly repository: string;
  readonly caller: Caller | undefined;
  readonly options: CallOptions;
}

const reads = [
  "resolveManifest",
  "getManifest",
  "resolveBlob",
  "getBlob",
  "listTags",
  "listReferrers",
  "listRepositories",
] as const satisfies (keyof Registry)[];

export function failing(code: ErrorCode, message = "fake", retryAfter?: number): Lookup<never> {
  const kind = code === "UNAUTHORIZED" || code === "DENIED" ? "denied" : "unavailable";
  return { kind, error: new RegistryError(code, message, retryAfter === undefined ? {} : { retryAfter }) };
}

export const down = failing("UNAVAILABLE", "connection refused");

/** A source that notes every question, and a test may answer in its place. */
export function questioned(origin: Registry) {
  const calls: string[] = [];
  const questions: Question[] = [];
  const control: { answer?: ((question: Question) => Lookup<never> | undefined | Promise<Lookup<never> | undefined>) | undefined } = {};
  const source: Registry = { ...origin };
  for (const method of reads) {
    const ask = origin[method].bind(origin) as (...args: unknown[]) => Promise<Lookup<never>>;
    const replaced = async (...args: unknown[]) => {
      const strings = args.filter((arg) => typeof arg === "string");
      const options = (args.at(-1) ?? {}) as CallOptions;
      const question = { text: [method, ...strings].join(" "), repository: strings[0] ?? "", caller: options.caller, options };
      calls.push(question.text);
      questions.push(question);
      return (await control.answer?.(question)) ?? ask(...args);
    };
    Object.assign(source, { [method]: replaced });
  }
  return { source, calls, questions, control };
}

/** A cache of a local registry, with the source's questions, a clock that stands still and all events. */
export function caching(options: Partial<CachedOptions> = {}) {
  const clock = fakeClock();
  const sink = recorder();
  const storage = options.storage ?? memoryStorage();
  const origin = localRegistry({ storage: memoryStorage(), name: "origin", sparse: true, clock });
  const { source, calls, questions, control } = questioned(origin);
  const open = (more: Partial<CachedOptions> = {}) =>
    cached(source, { name: "hub", tagTtl: "5m", clock, events: sink, ...options, ...more, storage });
  return {
    clock,
    sink,
    storage,
    origin,
    source,
    calls,
    questions,
    hub: open(),
    /** The same cache once more, as after a restart. */
    restart: open,
    switchOff(answer: Lookup<never> = down) {
      control.answer = () => answer;
    },
    switchOn() {
      control.answer = undefined;
    },
    answers(answer: NonNullable<typeof control.answer>) {
      control.answer = answer;
    },
  };
}

export const minutes = (count: number): number => count * 60_000;

export function whole(hub: CachedRegistry, repository: string, reference: string, o?: CallOptions): Promise<void> {
  return eventually(
    async () => (await hub.completeness(repository, reference, undefined, o)).complete,
    `${repository}:${reference} is whole`,
  );
}

export function gate(): { open: () => void; passed: Promise<undefined> } {
  let open = () => {};
  const passed = new Promise<undefined>((resolve) => {
    open = () => resolve(undefined);
  });
  return { open, passed };
}

/** Lets everything run that waits for no timer. */
export async function settled(turns = 20): Promise<void> {
  for (let attempt = 0; attempt < turns; attempt++) await new Promise((resolve) => setImmediate(resolve));
}

/** A cache that has one image, whose questions are forgotten. */
export async function warmed(options: Partial<CachedOptions> = {}) {
  const all = caching(options);
  const image = await pushImage(all.origin, "app", "1", makeImage([10]));
  orThrow(await all.hub.getManifest("app", "1"));
  await whole(all.hub, "app", "1");
  all.calls.length = 0;
  return { ...all, image };
}
