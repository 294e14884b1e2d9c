import { systemClock } from "../core/clock.js";
import { RegistryError } from "../core/errors.js";
import { noEvents, type RuntimeOptions, reportFault, safeSink } from "../core/events.js";
import { orThrow } from "../core/lookup.js";
import { parseRepositoryName } from "../core/name.js";
import { allPages } from "../core/page.js";
import type { Caller, CallOptions, Registry } from "../core/registry.js";
import { spendTurn } from "../core/turn-budget.js";
import { type Duration, toMilliseconds } from "../core/units.js";
import { compilePatterns } from "../views/patterns.js";
import type { Completeness } from "./completeness.js";
import type { WarmOptions, WarmProgress } from "./images.js";

/** What it costs to match one tag, in the units of the turn budget. */
const unitsToMatch = 0.2;

/** What is kept warm, and how often it is looked at. */
export interface WarmPlan {
  /** `library/node:22-*`: a repository and a pattern over its tags; without one, `latest`. */
  readonly images: readonly string[];
  /** The time between the end of one round and the start of the next. */
  readonly every: Duration;
  readonly platforms?: readonly string[];
  /** Whose part of a partitioned cache is kept warm. */
  readonly caller?: Caller;
  /** Ends the rounds, also in the middle of an image; the next plan goes on from there. Closing the cache ends them too. */
  readonly signal: AbortSignal;
  readonly progress?: (progress: WarmProgress & { readonly reference: string }) => void;
}

interface Warmable extends Registry {
  warm(repository: string, reference: string, o?: WarmOptions & CallOptions): Promise<Completeness>;
}

/** Warms the images in rounds, one after the other, until the signal aborts. An image that fails is told as a `fault` and tried again in the next round. */
export async function keepWarm(
  cache: Warmable,
  plan: WarmPlan,
  { clock = systemClock, events = noEvents, name }: RuntimeOptions & { name: string },
) {
  const { signal, platforms, progress, caller } = plan;
  const call = { signal, ...(caller && { caller }) };
  const sink = safeSink(events);
  const images = plan.images.map(parseImage);
  const every = toMilliseconds(plan.every);
  const contain = async (what: string, work: () => Promise<unknown>) => {
    try {
      await work();
    } catch (error) {
      if (signal.aborted) return;
      reportFault({ events: sink, clock, name }, `${what} could not be kept warm`, error);
    }
  };
  while (!signal.aborted) {
    for (const { repository, tags } of images) {
      await contain(repository, async () => {
        for await (const tag of tagsOf(cache, repository, tags, call)) {
          if (signal.aborted) return;
          const ofTag = progress && ((at: WarmProgress) => progress({ ...at, reference: tag }));
          const options = { ...call, ...(platforms && { platforms }), ...(ofTag && { progress: ofTag }) };
          await contain(`${repository}:${tag}`, () => cache.warm(repository, tag, options));
        }
      });
      if (signal.aborted) return;
    }
    await clock.sleep(every, signal).catch(() => {});
  }
}

function parseImage(text: string): { repository: string; tags: string } {
  const colon = text.indexOf(":");
  const repository = parseRepositoryName(colon < 0 ? text : text.slice(0, colon));
  const tags = colon < 0 ? "latest" : text.slice(colon + 1);
  if (tags === "")
    throw new RegistryError("NAME_INVALID", `${JSON.stringify(text)} ends with a colon: write a tag or a pattern of tags after it`);
  compilePatterns([`${repository}:${tags}`]);
  return { repository, tags };
}

/** The tags that a pattern fits. One tag needs no list: some registries give none. */
async function* tagsOf(
  cache: Registry,
  repository: string,
  tags: string,
  call: CallOptions & { readonly signal: AbortSignal },
): AsyncGenerator<string> {
  if (!/[*{]/.test(tags)) {
    yield tags;
    return;
  }
  const patterns = compilePatterns([`${repository}:${tags}`]);
  const pages = allPages(async (page) => {
    call.signal.throwIfAborted();
    return orThrow(await cache.listTags(repository, page, call), "NAME_UNKNOWN");
  });
  for await (const tag of pages) {
    // Pages may all come from memory.
    const turn = spendTurn(unitsToMatch);
    if (turn) await turn;
    if (patterns.tag(repository, tag)) yield tag;
  }
}
