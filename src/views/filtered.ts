import { LRUCache } from "lru-cache";
import pLimit from "p-limit";
import { type Clock, systemClock } from "../core/clock.js";
import type { Content } from "../core/content.js";
import type { Descriptor } from "../core/descriptor.js";
import { type Digest, digestOf, isDigest } from "../core/digest.js";
import { isRegistryError, RegistryError } from "../core/errors.js";
import type { ContentFilter, FilterQuestion } from "../core/filter.js";
import { absent, type Lookup, mapFound, permanentlyDenied, permanentReason } from "../core/lookup.js";
import { followManifest, type Manifest, parseManifest } from "../core/manifest.js";
import { protectingTag } from "../core/protected-content.js";
import { keptReferences, missingReference } from "../core/references.js";
import type { CallOptions, DeleteManifestOptions, ManifestContent, PutManifestOptions, Registry, UploadSession } from "../core/registry.js";
import { type RegistryCall, type RegistryMethod, sessionThrough } from "../core/registry-calls.js";
import type { VisibleDigests } from "../core/storing-registry.js";
import { spendTurn } from "../core/turn-budget.js";
import { toBytes, toMilliseconds } from "../core/units.js";
import { subjectOfTag } from "./attached-tags.js";
import { type ContentRules, ContentVerdicts, compileContentRules, type Reason } from "./content-filter.js";
import { filterPage } from "./filter-page.js";
import { behindNamespaces, intercept, type Refusal } from "./intercept.js";
import { compilePatterns, type Patterns } from "./patterns.js";

/** A page of a listing asks about each of its items: the host's rule, or the memory. */
const questionsAtOnce = 16;

export interface FilteredOptions extends ContentFilter {
  /** Where the visible digests are kept, and when the filter first met a digest. Default: in memory, the latest 100,000 digests. */
  readonly reach?: VisibleDigests;
  /** For `minimumAge`. Default: the system's. */
  readonly clock?: Clock;
}

/** Whether a filter shows everything. */
export function showsEverything(filter: ContentFilter): boolean {
  const { allow, block, platforms, mediaTypes, artifactTypes, maxManifestBytes, maxBlobBytes, minimumAge, permit } = filter;
  return [allow, block, platforms, mediaTypes, artifactTypes, maxManifestBytes, maxBlobBytes, minimumAge, permit].every(
    (rule) => rule === undefined,
  );
}

/**
 * A view of part of a registry. What is hidden is absent, by tag, by digest and by blob. Where a digest says nothing by itself, only what something permitted has led to is
 * visible by digest. Writes can neither name nor remove what is hidden.
 *
 * @throws RegistryError NAME_INVALID for a malformed pattern, UNKNOWN for a malformed size or duration.
 *
 * @example
 * ```ts
 * import { filtered, localRegistry } from "oci-manifold";
 * import { memoryStorage } from "oci-manifold/storage/memory";
 * const all = localRegistry({ storage: memoryStorage(), name: "images" });
 * const some = filtered(all, {
 *   allow: ["library/node:{>=20.1 <23}-alpine*", "team/**"],
 *   block: ["team/secret"],
 *   platforms: ["linux/amd64", "linux/arm64"],
 * });
 * await some.listTags("library/node", { limit: 10 });
 * ```
 */
export function filtered(registry: Registry, options: FilteredOptions): Registry {
  const { reach, clock, ...filter } = options;
  const rules = new FilterRules(registry, filter, reach, clock);
  const limited = pLimit(questionsAtOnce);

  const shown = async <T>(
    method: RegistryMethod,
    o: CallOptions | undefined,
    lookup: Lookup<T>,
    decide: () => Promise<Reason>,
  ): Promise<Lookup<T>> => (lookup.kind === "found" ? ((await rules.decided(method, o, decide)) ?? lookup) : lookup);

  const listed = async <T>(o: CallOptions | undefined, list: () => Promise<Lookup<T>>): Promise<Lookup<T>> => {
    try {
      return await list();
    } catch (cause) {
      if (o?.signal?.aborted) throw cause;
      return undecided(cause);
    }
  };

  return intercept(
    registry,
    (call) => rules.enter(call),
    (guarded) => ({
      ...filterWrites(registry, rules, guarded),
      // With visible digests of its own: names may mean something else there.
      ...behindNamespaces(registry, (behind) => filtered(behind, { ...filter, ...(clock && { clock }) })),
      async resolveManifest(name, reference, o) {
        const lookup = await guarded.resolveManifest(name, reference, o);
        return shown("resolveManifest", o, lookup, async () =>
          lookup.kind === "found" ? rules.admit(rules.canonical(name), reference, lookup.value, undefined, o) : undefined,
        );
      },
      async getManifest(name, reference, o) {
        const lookup = await guarded.getManifest(name, reference, o);
        return shown("getManifest", o, lookup, async () =>
          lookup.kind === "found" ? rules.admit(rules.canonical(name), reference, lookup.value.descriptor, lookup.value, o) : undefined,
        );
      },
      async resolveBlob(name, digest, o) {
        const lookup = await guarded.resolveBlob(name, digest, o);
        return lookup.kind === "found" && rules.whyTooLarge(lookup.value) !== undefined ? absent : lookup;
      },
      async getBlob(name, digest, o) {
        const lookup = await guarded.getBlob(name, digest, rules.limitsBlobs ? { ...o, unsized: false } : o);
        const reason = lookup.kind === "found" ? rules.whyTooLarge(lookup.value.descriptor) : undefined;
        if (lookup.kind === "found" && reason !== undefined) giveUp(lookup.value.content);
        return shown("getBlob", o, lookup, async () => reason);
      },
      async listReferrers(name, subject, page, o) {
        const lookup = await guarded.listReferrers(name, subject, page, o);
        if (lookup.kind !== "found") return lookup;
        // A permitted image's signatures are permitted with it.
        const items = lookup.value.items.filter((item) => rules.shows(item));
        return listed(o, async () => {
          await rules.remember(
            rules.canonical(name),
            items.map(({ digest }) => digest),
          );
          return mapFound(lookup, (value) => ({ ...value, items }));
        });
      },
      listTags: (name, page, o) =>
        listed(o, () =>
          filterPage(
            page,
            (request) => guarded.listTags(name, request, o),
            (tag) => {
              const repository = rules.canonical(name);
              return (
                rules.listsAtOnce(repository, tag) ?? limited(async () => (await rules.whyTagHidden(repository, tag, o)) === undefined)
              );
            },
          ),
        ),
      listRepositories: (page, o) =>
        listed(o, () =>
          filterPage(
            page,
            (request) => registry.listRepositories(request, o),
            (repository) => limited(async () => (await rules.whyRepositoryHidden(repository, o)) === undefined),
          ),
        ),
    }),
  );
}

/** Closes content that nobody reads: a stream from an upstream holds a response. */
function giveUp(content: Content): void {
  if (content.kind !== "stream") return;
  content
    .open()
    .on("error", () => {})
    .destroy();
}

/** Methods that answer HEAD: after "not there" a client pushes its own, a refusal would end the push. */
const probes: ReadonlySet<RegistryMethod> = new Set(["resolveManifest", "resolveBlob"]);
const notLedTo = "no tag that is shown here has led to this digest";

/**
 * All that a filter knows and decides. Patterns decide about names, {@link ContentVerdicts} about manifests by their bytes and configs, the host's `permit` about
 * everything. Where these say nothing of a digest, the visible digests do: those that something permitted has led to. Repository names are the canonical ones behind the filter.
 */
class FilterRules {
  readonly patterns: Patterns;
  readonly #registry: Registry;
  readonly #filter: ContentFilter;
  readonly #visible: VisibleDigests;
  readonly #content: ContentRules | undefined;
  readonly #verdicts: ContentVerdicts | undefined;
  readonly #clock: Clock;
  readonly #minimumAge: number;
  readonly #largestBlob: number;
  readonly #firstSeen: NonNullable<VisibleDigests["firstSeen"]>;

  constructor(registry: Registry, filter: ContentFilter, reach: VisibleDigests | undefined, clock: Clock = systemClock) {
    const inMemory = visibleDigestsInMemory(clock);
    this.#registry = registry;
    this.#filter = filter;
    this.#clock = clock;
    this.#visible = reach ?? inMemory;
    this.#firstSeen = reach?.firstSeen?.bind(reach) ?? inMemory.firstSeen;
    this.patterns = compilePatterns(filter.allow, filter.block);
    this.#content = compileContentRules(filter);
    this.#verdicts = this.#content && new ContentVerdicts(registry, this.#content, followedManifest);
    this.#minimumAge = filter.minimumAge === undefined ? 0 : toMilliseconds(filter.minimumAge);
    this.#largestBlob = filter.maxBlobBytes === undefined ? Number.POSITIVE_INFINITY : toBytes(filter.maxBlobBytes);
  }

  canonical(name: string): string {
    return this.#registry.canonicalName?.(name) ?? name;
  }

  /** Whether a manifest's digest says nothing by itself, so that only visible digests can be pulled. */
  manifestsMustBeVisible(repository: string): boolean {
    if (this.#filter.digests === "any") return false;
    return this.#filter.permit !== undefined || this.patterns.repository(repository) === "tags";
  }

  /** Whether a blob's digest says nothing by itself. */
  blobsMustBeVisible(repository: string): boolean {
    if (this.#filter.digests === "any") return false;
    return this.manifestsMustBeVisible(repository) || this.#content !== undefined || this.#minimumAge > 0;
  }

  async enter(call: RegistryCall): Promise<string | undefined | Refusal> {
    const repository = this.canonical(call.repository);
    const { method, options } = call;
    const answer = await this.decided(method, options, () => this.#whyHidden(repository, call));
    if (answer === undefined) return repository;
    return answer.kind === "absent" ? undefined : answer;
  }

  /** Nothing where something may be seen, else the answer in its place. What cannot be decided is not shown. */
  async decided(
    method: RegistryMethod,
    o: CallOptions | undefined,
    decide: () => Promise<Reason>,
  ): Promise<Refusal | typeof absent | undefined> {
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

  async #whyHidden(repository: string, { method, access, reference, options }: RegistryCall): Promise<Reason> {
    const verdict = this.patterns.verdict(repository);
    if (!verdict.visible) return refused(repository, verdict.pattern);
    if (reference === undefined) return this.#whyNotPermitted({ access: access === "neither" ? "read" : access, repository }, options);
    if (!isDigest(reference))
      return this.whyTagHidden(repository, reference, options, access === "push" || access === "delete" ? access : "read");
    // Who pushes bytes has them; what a manifest refers to is looked at when it is put.
    if (access !== "push") {
      const isBlob = method === "resolveBlob" || method === "getBlob";
      const needed = isBlob ? this.blobsMustBeVisible(repository) : this.manifestsMustBeVisible(repository);
      if (needed && !(await this.knows(repository, reference))) return notLedTo;
    }
    return this.#whyNotPermitted({ access: access === "push" || access === "delete" ? access : "read", repository, reference }, options);
  }

  async whyTagHidden(repository: string, tag: string, o?: CallOptions, access: FilterQuestion["access"] = "read"): Promise<Reason> {
    const verdict = this.patterns.verdict(repository, tag);
    if (!verdict.visible && !(await this.#isAttached(repository, tag))) return refused(`${repository}:${tag}`, verdict.pattern);
    return this.#whyNotPermitted({ access, repository, reference: tag }, o);
  }

  /** Whether a tag is listed, where that can be said at once. */
  listsAtOnce(repository: string, tag: string): boolean | undefined {
    if (this.#filter.permit) return undefined;
    if (this.patterns.tag(repository, tag)) return true;
    return subjectOfTag(tag) ? undefined : false;
  }

  whyRepositoryHidden(repository: string, o?: CallOptions): Promise<Reason> | Reason {
    const verdict = this.patterns.verdict(repository);
    return verdict.visible ? this.#whyNotPermitted({ access: "catalog", repository }, o) : refused(repository, verdict.pattern);
  }

  /** Whether a tag is permitted with its subject: signatures of a permitted image are, under cosign's tags and in referrers tags. */
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
    return this.#visible.knows(repository, digest);
  }

  async remember(repository: string, digests: readonly Digest[]): Promise<void> {
    if (digests.length > 0 && this.blobsMustBeVisible(repository)) await this.#visible.remember(repository, [...new Set(digests)]);
  }

  /** Why a manifest that was found stays hidden. Where it does not, what it leads to is visible from now on. */
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
   * The first thing a manifest refers to whose digest is not visible here. Once the manifest can be pulled it leads to all that it names, so the client that pushes it has to
   * have all of that: also layers that another registry may lack because their licence forbids distribution.
   */
  async firstUnproven(repository: string, manifest: Manifest): Promise<Descriptor | undefined> {
    if (!this.blobsMustBeVisible(repository)) return undefined;
    for (const reference of keptReferences(manifest)) {
      const turn = spendTurn();
      if (turn) await turn;
      if (!(await this.knows(repository, reference.digest))) return reference;
    }
    return undefined;
  }

  async #ofContent(repository: string, descriptor: Descriptor, content: ManifestContent | undefined, o?: CallOptions): Promise<Reason> {
    if (!this.#verdicts) return undefined;
    const known = this.#verdicts.known(descriptor);
    if (known) return known.reason;
    if (content) return this.#verdicts.verdict(repository, content, o);
    const lookup = await this.#registry.getManifest(repository, descriptor.digest, o);
    if (lookup.kind === "denied" || lookup.kind === "unavailable") throw lookup.error;
    return lookup.kind === "found" ? this.#verdicts.verdict(repository, lookup.value, o) : "it is not there";
  }

  async #ofAge(repository: string, reference: string, digest: Digest): Promise<Reason> {
    if (this.#minimumAge === 0) return undefined;
    // A child of an index that is old enough is as old; a tag that moves to it is not.
    if (isDigest(reference) && (await this.knows(repository, digest))) return undefined;
    const age = this.#clock.now() - (await this.#firstSeen(repository, digest));
    return age >= this.#minimumAge ? undefined : `it was first asked for here less than ${this.#filter.minimumAge} ago`;
  }

  /** What is visible once a manifest is: what {@link firstUnproven} asks for, without children that are hidden here by what their index says of them. */
  #shownBy({ descriptor, bytes }: ManifestContent): Digest[] {
    const manifest = followedManifest(descriptor, bytes);
    const named = keptReferences(manifest);
    return (manifest.kind === "index" ? named.filter((child) => this.shows(child)) : named).map(({ digest }) => digest);
  }

  /** Whether a manifest may be shown, as far as its descriptor tells. */
  shows(descriptor: Descriptor): boolean {
    return this.#content?.child(descriptor) === undefined;
  }

  get looksAtContent(): boolean {
    return this.#verdicts !== undefined;
  }

  /** Why a manifest must not be pushed through this filter. */
  async whyUnfit(repository: string, content: ManifestContent, o?: CallOptions): Promise<Reason> {
    return this.#verdicts?.verdict(repository, content, o);
  }

  whyTooLarge({ size }: Descriptor): Reason {
    return size > this.#largestBlob ? `blobs of more than ${this.#filter.maxBlobBytes} are not shown here` : undefined;
  }

  get limitsBlobs(): boolean {
    return this.#largestBlob < Number.POSITIVE_INFINITY;
  }
}

/** Whether a refusal is a filter's own (`hidden: "denied"`), not one of a registry behind it. */
export function isHidden({ detail }: RegistryError): boolean {
  return typeof detail === "object" && detail !== null && "hidden" in detail && detail.hidden === true;
}

/** The answer where a rule failed. Never "absent": a client that is told so may go to a public registry for a private name. */
function undecided(cause: unknown): Refusal {
  // The source's bytes are what they are: nothing would change by asking again.
  if (isRegistryError(cause) && cause.code === "MANIFEST_INVALID")
    return permanentlyDenied("whether this may be shown cannot be decided", cause.message, cause);
  if (isRegistryError(cause) && permanentReason(cause) !== undefined) return { kind: "denied", error: cause, permanent: true };
  return { kind: "unavailable", error: new RegistryError("UNAVAILABLE", "whether this may be shown could not be decided", { cause }) };
}

function refused(what: string, pattern: string | undefined): string {
  return pattern === undefined ? `${what} is not permitted here` : `${what} is blocked here by ${JSON.stringify(pattern)}`;
}

type Writes = Pick<Registry, "putManifest" | "putBlob" | "mountBlob" | "startUpload" | "resumeUpload" | "deleteManifest" | "deleteBlob">;

/** Writes through a filter: what is hidden can be neither named nor removed, and what is written is visible to its writer. */
function filterWrites(registry: Registry, rules: FilterRules, guarded: Registry): Writes {
  /** What an upload session commits is visible to its writer. */
  const remembering = (name: string, session: UploadSession): UploadSession =>
    Object.assign(
      sessionThrough(session, (step) => step()),
      {
        async commit(digest: string) {
          const blob = await session.commit(digest);
          await rules.remember(rules.canonical(name), [blob.digest]);
          return blob;
        },
      },
    );

  const checkReferences = async (repository: string, content: { bytes: Uint8Array; mediaType?: string }, o?: PutManifestOptions) => {
    const manifest = parseManifest(content.bytes, content.mediaType);
    const unproven = o?.references === "trust" ? undefined : await rules.firstUnproven(repository, manifest);
    if (unproven) throw missingReference(unproven);
    // Whether a hidden subject exists must not show.
    const { subject } = manifest;
    if (subject && rules.manifestsMustBeVisible(repository) && !(await rules.knows(repository, subject.digest)))
      throw missingReference(subject);
    if (!rules.looksAtContent) return;
    if (manifest.config && (await registry.resolveBlob(repository, manifest.config.digest, o)).kind === "absent")
      throw missingReference(manifest.config);
    const descriptor = { mediaType: manifest.mediaType, digest: digestOf(content.bytes), size: content.bytes.byteLength };
    const reason = await rules.whyUnfit(repository, { descriptor, bytes: content.bytes }, o);
    if (reason !== undefined) throw new RegistryError("DENIED", `this cannot be pushed here: ${reason}`);
  };

  /** Whether a tag may be deleted with its manifest: one that is hidden stays. */
  const mayGo = async (repository: string, digest: string, tag: string, o?: DeleteManifestOptions): Promise<boolean> => {
    const refusal = await rules.decided("deleteManifest", o, () => rules.whyTagHidden(repository, tag, o, "delete"));
    if (refusal?.kind === "unavailable") throw refusal.error;
    // Its name stays hidden too.
    if (refusal) throw new RegistryError("DENIED", `${digest} has other tags, which cannot be deleted here: delete the tag`);
    return (await o?.permits?.(tag)) ?? true;
  };
  /** A protected tag that is hidden here is not named. */
  const unnamed =
    (repository: string, o?: CallOptions) =>
    async (error: unknown): Promise<never> => {
      const tag = protectingTag(error);
      if (tag === undefined || (await rules.decided("getManifest", o, () => rules.whyTagHidden(repository, tag, o))) === undefined)
        throw error;
      throw new RegistryError("DENIED", "this is needed by something that is protected: it cannot be deleted here");
    };

  return {
    async putManifest(name, reference, content, o) {
      const repository = rules.canonical(name);
      const entered = await rules.enter({ method: "putManifest", access: "push", repository: name, reference, ...(o && { options: o }) });
      // Where the name is refused, the guarded registry says so.
      if (typeof entered === "string") await checkReferences(repository, content, o);
      const stored = await guarded.putManifest(name, reference, content, o);
      await rules.remember(repository, [stored.digest]);
      return stored;
    },
    async putBlob(name, expected, source, o) {
      const blob = await guarded.putBlob(name, expected, source, o);
      await rules.remember(rules.canonical(name), [blob.digest]);
      return blob;
    },
    async mountBlob(name, digest, from, o) {
      const blob = await guarded.mountBlob(name, digest, from, o);
      if (blob) await rules.remember(rules.canonical(name), [blob.digest]);
      return blob;
    },
    startUpload: async (name, o) => remembering(name, await guarded.startUpload(name, o)),
    resumeUpload: async (name, id, o) => remembering(name, await guarded.resumeUpload(name, id, o)),
    async deleteManifest(name, reference, o) {
      const repository = rules.canonical(name);
      const hides = isDigest(reference) && rules.manifestsMustBeVisible(repository);
      const permitting = hides ? { ...o, permits: (tag: string) => mayGo(repository, reference, tag, o) } : o;
      await guarded.deleteManifest(name, reference, permitting).catch(unnamed(repository, o));
    },
    async deleteBlob(name, digest, o) {
      const repository = rules.canonical(name);
      if (rules.patterns.repository(repository) !== "none" && rules.manifestsMustBeVisible(repository)) {
        throw new RegistryError("DENIED", "what is not shown here may need this blob: delete manifests, and let the registry collect");
      }
      await guarded.deleteBlob(name, digest, o).catch(unnamed(repository, o));
    },
  };
}

/** Some 200 bytes each. What falls out is hidden again until something permitted leads to it. */
const keptDigests = 100_000;

/** Visible digests in memory, for a filter that was given no store for them. */
function visibleDigestsInMemory(clock: Clock): Required<VisibleDigests> {
  // Made when needed: each reserves the memory for all that it may hold.
  let known: LRUCache<string, true> | undefined;
  let seen: LRUCache<string, number> | undefined;
  return {
    async remember(repository, digests) {
      known ??= new LRUCache({ max: keptDigests });
      for (const digest of digests) known.set(`${repository}@${digest}`, true);
    },
    knows: async (repository, digest) => known?.get(`${repository}@${digest}`) ?? false,
    async firstSeen(repository, digest) {
      seen ??= new LRUCache({ max: keptDigests });
      const key = `${repository}@${digest}`;
      const at = seen.get(key) ?? clock.now();
      seen.set(key, at);
      return at;
    },
  };
}

/** Bytes of JSON that the manifests in memory were parsed from: two of the largest, or thousands of ordinary ones. Parsed, they take a few times as much. */
const memoryLimit = 8 * 1024 * 1024;
/** Bytes that even the smallest manifest takes. */
const overhead = 1000;

const followed = new LRUCache<string, Manifest>({ maxSize: memoryLimit });

/**
 * Parses a manifest once for each digest: a filter looks at the manifest of every pull, and parsing a large one takes tens of milliseconds.
 *
 * @param bytes must be those of the digest.
 * @throws RegistryError MANIFEST_INVALID when the bytes are no manifest.
 */
function followedManifest({ digest, mediaType }: Descriptor, bytes: Uint8Array): Manifest {
  const key = `${digest} ${mediaType}`;
  const known = followed.get(key);
  if (known) return known;
  const manifest = followManifest(bytes, mediaType);
  followed.set(key, manifest, { size: bytes.byteLength + overhead });
  return manifest;
}
