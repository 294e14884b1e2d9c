import { type Clock, systemClock } from "../core/clock.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, isDigest } from "../core/digest.js";
import { RegistryError } from "../core/errors.js";
import type { ContentFilter, FilterQuestion } from "../core/filter.js";
import type { ReachMemory } from "../core/linking-registry.js";
import { absent } from "../core/lookup.js";
import type { Manifest } from "../core/manifest.js";
import { keptReferences } from "../core/references.js";
import type { CallOptions, ManifestContent, Registry } from "../core/registry.js";
import { spendTurn } from "../core/turn-budget.js";
import { toBytes, toMilliseconds } from "../core/units.js";
import { subjectOfTag } from "./attached-tags.js";
import { ContentJudge } from "./content-judge.js";
import { type ContentRules, compileContentRules, type Reason } from "./content-rules.js";
import { followedManifest } from "./followed-manifests.js";
import type { Call, Method, Refusal } from "./intercept.js";
import { memoryReach } from "./memory-reach.js";
import { compilePatterns, type Patterns } from "./patterns.js";

/** Answers HEAD: "not there" lets a client push its own, a refusal would end the push. */
const probes: ReadonlySet<Method> = new Set(["resolveManifest", "resolveBlob"]);
const unled = "no tag that is shown here has led to this digest";

/** All that a filter knows and decides. Repository names are the canonical ones behind it. */
export class FilterGate {
  readonly patterns: Patterns;
  readonly #registry: Registry;
  readonly #filter: ContentFilter;
  readonly #reach: ReachMemory;
  readonly #rules: ContentRules | undefined;
  readonly #judge: ContentJudge | undefined;
  readonly #clock: Clock;
  readonly #minimumAge: number;
  readonly #largestBlob: number;
  readonly #firstSeen: NonNullable<ReachMemory["firstSeen"]>;

  constructor(registry: Registry, filter: ContentFilter, reach: ReachMemory | undefined, clock: Clock = systemClock) {
    const inMemory = memoryReach(clock);
    this.#registry = registry;
    this.#filter = filter;
    this.#clock = clock;
    this.#reach = reach ?? inMemory;
    this.#firstSeen = reach?.firstSeen?.bind(reach) ?? inMemory.firstSeen;
    this.patterns = compilePatterns(filter.allow, filter.block);
    this.#rules = compileContentRules(filter);
    this.#judge = this.#rules && new ContentJudge(registry, this.#rules);
    this.#minimumAge = filter.minimumAge === undefined ? 0 : toMilliseconds(filter.minimumAge);
    this.#largestBlob = filter.maxBlobBytes === undefined ? Number.POSITIVE_INFINITY : toBytes(filter.maxBlobBytes);
  }

  canonical(name: string): string {
    return this.#registry.canonicalName?.(name) ?? name;
  }

  /** Whether a manifest's digest says nothing by itself: only what led to it permits it. */
  manifestsMustBeReached(repository: string): boolean {
    if (this.#filter.digests === "any") return false;
    return this.#filter.permit !== undefined || this.patterns.repository(repository) === "tags";
  }

  /** Whether a blob's digest says nothing by itself. */
  blobsMustBeReached(repository: string): boolean {
    if (this.#filter.digests === "any") return false;
    return this.manifestsMustBeReached(repository) || this.#rules !== undefined || this.#minimumAge > 0;
  }

  async enter(call: Call): Promise<string | undefined | Refusal> {
    const repository = this.canonical(call.repository);
    const { method, options } = call;
    const answer = await this.decided(method, options, () => this.#whyHidden(repository, call));
    if (answer === undefined) return repository;
    return answer.kind === "absent" ? undefined : answer;
  }

  /** Nothing when it may be seen, else the answer in its place. What cannot be decided is not shown. */
  async decided(method: Method, o: CallOptions | undefined, decide: () => Promise<Reason>): Promise<Refusal | typeof absent | undefined> {
    try {
      const reason = await decide();
      if (reason === undefined) return undefined;
      if (this.#filter.hidden !== "denied" || probes.has(method)) return absent;
      return { kind: "denied", error: new RegistryError("DENIED", reason, { detail: { hidden: true } }) };
    } catch (cause) {
      if (o?.signal?.aborted) throw cause;
      return undecided(cause);
    }
  }

  async #whyHidden(repository: string, { method, access, reference, options }: Call): Promise<Reason> {
    const verdict = this.patterns.verdict(repository);
    if (!verdict.visible) return refused(repository, verdict.pattern);
    if (reference === undefined) return this.#whyNotPermitted({ access: access === "neither" ? "read" : access, repository }, options);
    if (!isDigest(reference))
      return this.whyTagHidden(repository, reference, options, access === "push" || access === "delete" ? access : "read");
    // Whoever pushes bytes has them; what they refer to is looked at when the manifest comes.
    if (access !== "push") {
      const isBlob = method === "resolveBlob" || method === "getBlob";
      const needed = isBlob ? this.blobsMustBeReached(repository) : this.manifestsMustBeReached(repository);
      if (needed && !(await this.knows(repository, reference))) return unled;
    }
    return this.#whyNotPermitted({ access: access === "push" || access === "delete" ? access : "read", repository, reference }, options);
  }

  async whyTagHidden(repository: string, tag: string, o?: CallOptions, access: FilterQuestion["access"] = "read"): Promise<Reason> {
    const verdict = this.patterns.verdict(repository, tag);
    if (!verdict.visible && !(await this.#isAttached(repository, tag))) return refused(`${repository}:${tag}`, verdict.pattern);
    return this.#whyNotPermitted({ access, repository, reference: tag }, o);
  }

  /** Whether a tag is listed, where that needs no waiting. */
  listsAtOnce(repository: string, tag: string): boolean | undefined {
    if (this.#filter.permit) return undefined;
    if (this.patterns.tag(repository, tag)) return true;
    return subjectOfTag(tag) ? undefined : false;
  }

  whyRepositoryHidden(repository: string, o?: CallOptions): Promise<Reason> | Reason {
    const verdict = this.patterns.verdict(repository);
    return verdict.visible ? this.#whyNotPermitted({ access: "catalog", repository }, o) : refused(repository, verdict.pattern);
  }

  /** The signatures of a permitted image are permitted with it, under cosign's tags and in fallback indexes too. */
  async #isAttached(repository: string, tag: string): Promise<boolean> {
    const subject = subjectOfTag(tag);
    if (!subject || this.patterns.repository(repository) !== "tags" || this.patterns.blocks(repository, tag)) return false;
    return this.knows(repository, subject);
  }

  async #whyNotPermitted(question: FilterQuestion, o?: CallOptions): Promise<Reason> {
    const { permit } = this.#filter;
    if (!permit) return undefined;
    // Not a truthiness test: a host in plain JavaScript may answer something else by mistake.
    if ((await permit({ ...question, ...(o?.caller && { caller: o.caller }) })) === true) return undefined;
    return refused(question.reference === undefined ? question.repository : `${question.repository} ${question.reference}`, undefined);
  }

  knows(repository: string, digest: Digest): Promise<boolean> {
    return this.#reach.knows(repository, digest);
  }

  async remember(repository: string, digests: readonly Digest[]): Promise<void> {
    if (digests.length > 0 && this.blobsMustBeReached(repository)) await this.#reach.remember(repository, [...new Set(digests)]);
  }

  /** Why a manifest that was found stays hidden; where it does not, what it leads to is visible from now on. */
  async admit(
    repository: string,
    reference: string,
    descriptor: Descriptor,
    content: ManifestContent | undefined,
    o?: CallOptions,
  ): Promise<Reason> {
    const reason =
      (await this.#ofContent(repository, descriptor, content, o)) ?? (await this.#ofAge(repository, reference, descriptor.digest));
    if (reason !== undefined) return reason;
    await this.remember(repository, [descriptor.digest, ...(content ? this.#shownBy(content) : [])]);
    return undefined;
  }

  /**
   * The first reference of a manifest to something that nothing shown here has led to. Once the manifest can be pulled here it leads to all that it names, so
   * the client that pushes it has to have all of that: also layers that may be missing elsewhere because their licence forbids distribution.
   */
  async firstUnproven(repository: string, manifest: Manifest): Promise<Descriptor | undefined> {
    if (!this.blobsMustBeReached(repository)) return undefined;
    for (const reference of keptReferences(manifest)) {
      const turn = spendTurn();
      if (turn) await turn;
      if (!(await this.knows(repository, reference.digest))) return reference;
    }
    return undefined;
  }

  async #ofContent(repository: string, descriptor: Descriptor, content: ManifestContent | undefined, o?: CallOptions): Promise<Reason> {
    if (!this.#judge) return undefined;
    const known = this.#judge.known(descriptor);
    if (known) return known.reason;
    if (content) return this.#judge.verdict(repository, content, o);
    const lookup = await this.#registry.getManifest(repository, descriptor.digest, o);
    if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
    return lookup.kind === "found" ? this.#judge.verdict(repository, lookup.value, o) : "it is not there";
  }

  async #ofAge(repository: string, reference: string, digest: Digest): Promise<Reason> {
    if (this.#minimumAge === 0) return undefined;
    // A child of an index that is old enough is as old; a tag that moves to it is not.
    if (isDigest(reference) && (await this.knows(repository, digest))) return undefined;
    const age = this.#clock.now() - (await this.#firstSeen(repository, digest));
    return age >= this.#minimumAge ? undefined : `it was first asked for here less than ${this.#filter.minimumAge} ago`;
  }

  /** What is visible once a manifest is: what {@link firstUnproven} asks for, but children that an index says are hidden here. */
  #shownBy({ descriptor, bytes }: ManifestContent): Digest[] {
    const manifest = followedManifest(descriptor, bytes);
    const named = keptReferences(manifest);
    return (manifest.kind === "index" ? named.filter((child) => this.shows(child)) : named).map(({ digest }) => digest);
  }

  /** Whether a manifest may be shown as far as what names it tells. */
  shows(descriptor: Descriptor): boolean {
    return this.#rules?.child(descriptor) === undefined;
  }

  get judges(): boolean {
    return this.#judge !== undefined;
  }

  /** Why a manifest must not come in through this filter. */
  async whyUnfit(repository: string, content: ManifestContent, o?: CallOptions): Promise<Reason> {
    return this.#judge?.verdict(repository, content, o);
  }

  whyTooLarge({ size }: Descriptor): Reason {
    return size > this.#largestBlob ? `blobs of more than ${this.#filter.maxBlobBytes} are not shown here` : undefined;
  }

  get limitsBlobs(): boolean {
    return this.#largestBlob < Number.POSITIVE_INFINITY;
  }
}

/** Whether a refusal is a filter's own (`hidden: "denied"`), not one from further on. */
export function isHidden({ detail }: RegistryError): boolean {
  return typeof detail === "object" && detail !== null && "hidden" in detail && detail.hidden === true;
}

/** Never "absent": a client that is told so may go to a public registry for a private name. */
export function undecided(cause: unknown): Refusal {
  return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", "whether this may be shown could not be decided", { cause }) };
}

function refused(what: string, pattern: string | undefined): string {
  return pattern === undefined ? `${what} is not permitted here` : `${what} is blocked here by ${JSON.stringify(pattern)}`;
}
