import { ok, rejects } from "node:assert/strict";
import { type ErrorCode, isRegistryError } from "../core/errors.js";
import type { MetadataStore } from "../core/metadata-store.js";
import type { Duration } from "../core/units.js";

/** Registers a case with whatever runs the tests: `test` of `node:test` or vitest, `it` of mocha. */
export type ContractTest = (name: string, run: () => Promise<void>) => void;

/** What every contract opens and closes. */
interface Subject {
  ready(): Promise<void>;
  close(o?: { deadline?: Duration }): Promise<void>;
}

/** What nobody opened is waited for no longer. */
const closing = { deadline: "100ms" } as const;

/** Cases that each have a fresh subject, made ready before and closed after, however they end. Closing twice is part of every contract. */
export function contractCases<Fresh extends { dispose(): Promise<void> }, Given>(
  test: ContractTest,
  create: () => Promise<Fresh>,
  subjectOf: (fresh: Fresh) => Subject,
  given: (fresh: Fresh) => Given,
): (name: string, run: (given: Given) => Promise<void>) => void {
  return (name, run) =>
    test(name, async () => {
      const fresh = await create();
      const subject = subjectOf(fresh);
      try {
        await subject.ready();
        await run(given(fresh));
      } finally {
        try {
          await subject.close(closing);
          await subject.close(closing);
        } finally {
          await fresh.dispose();
        }
      }
    });
}

/** The work rejects with a `RegistryError` of one of the codes; anything else is shown. */
export async function refused(work: Promise<unknown>, ...codes: readonly ErrorCode[]): Promise<void> {
  await rejects(work, (error) => {
    if (!isRegistryError(error)) throw error;
    ok(codes.includes(error.code), `${codes.join(" or ")} was expected, thrown was ${error.code}: ${error.message}`);
    return true;
  });
}

/** A promise, and how to keep it: so that a case decides what happens first. */
export function barrier(): { readonly opened: Promise<void>; open(): void } {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { opened, open: () => open() };
}

export type MetadataCase = (name: string, run: (metadata: MetadataStore) => Promise<void>) => void;
