import { RegistryError } from "../core/errors.js";
import { absent, type Lookup } from "../core/lookup.js";
import { isLoop } from "../core/via.js";
import { isHidden } from "../views/filter-gate.js";

/** Refusals and failures of members, on the way to one answer. */
export type Failure = Extract<Lookup<never>, { kind: "denied" | "unavailable" }>;

export interface MemberFailure {
  readonly member: string;
  readonly failure: Failure;
}

/** What one member said, in the `detail` of the error that many of them became. */
export interface ToldFailure {
  readonly member: string;
  readonly code: string;
  readonly message: string;
  /** In seconds. */
  readonly retryAfter?: number;
}

/** Seconds, where no member said when to come back. */
const defaultRetryAfter = 30;

/**
 * No member had it: absent only if all said so, DENIED where filters hide it and their hosts say so, TOOMANYREQUESTS if every failure was one, else UNAVAILABLE. Never silently absent: a client that is
 * told "absent" may go to a public registry for a private name (dependency confusion). A member's 401 becomes none of ours: who signs in here has nothing to
 * tell it.
 */
function foldFailures(failures: readonly MemberFailure[]): Lookup<never> {
  const [first] = failures;
  if (!first) return absent;
  // Not a failure that may pass: this very aggregate's filter hides it, and its host wants that said.
  if (failures.every(({ failure }) => isHidden(failure.error))) return { kind: "denied", error: first.failure.error };
  return { kind: "unavailable", error: foldedError(failures, first) };
}

function foldedError(failures: readonly MemberFailure[], first: MemberFailure): RegistryError {
  const errors = failures.map(({ failure }) => failure.error);
  const code = errors.every((error) => error.code === "TOOMANYREQUESTS") ? "TOOMANYREQUESTS" : "UNAVAILABLE";
  const waits = errors.flatMap((error) => error.retryAfter ?? []);
  const members = failures.map(
    ({ member, failure: { error } }): ToldFailure => ({
      member,
      code: error.code,
      message: error.message,
      ...(error.retryAfter !== undefined && { retryAfter: error.retryAfter }),
    }),
  );
  const loop = errors.some(isLoop);
  return new RegistryError(code, members.map(({ member, message }) => `${member}: ${message}`).join("; "), {
    retryAfter: waits.length > 0 ? Math.min(...waits) : defaultRetryAfter,
    cause: first.failure.error,
    detail: { members, ...(loop && { loop }) },
  });
}

/** Collects what members answer, until one has it. */
export class Answers {
  readonly #failures: MemberFailure[] = [];

  get failed(): boolean {
    return this.#failures.length > 0;
  }

  /** Notes a refusal or failure; whether it was one. */
  note(member: string, lookup: Lookup<unknown>): boolean {
    if (lookup.kind !== "denied" && lookup.kind !== "unavailable") return false;
    this.#failures.push({ member, failure: lookup });
    return true;
  }

  fold(): Lookup<never> {
    return foldFailures(this.#failures);
  }
}
