import { currentFormat, type Format, formats } from "../../src/storage/sql/formats.js";

const current = currentFormat(formats).version;

/** The formats of a version that is one newer, and only adds what today's does not look at. */
export const additive: readonly Format[] = [
  ...formats,
  {
    version: current + 1,
    oldest: current,
    migration: ({ table, integer }) => `ALTER TABLE ${table("records")} ADD COLUMN added ${integer} NOT NULL DEFAULT 0;`,
  },
];

/** The formats of one that is two newer, the second of which today's code would damage. */
export const incompatible: readonly Format[] = [
  ...additive,
  {
    version: current + 2,
    oldest: current + 2,
    migration: ({ table }) => `UPDATE ${table("records")} SET added = version;`,
  },
];

export const lease = (name: string) => ({ kind: "lease", parts: [name] }) as const;
export const putLease = (name: string, expiresAt = 1) => ({ put: lease(name), value: { holder: "h", expiresAt } }) as const;
