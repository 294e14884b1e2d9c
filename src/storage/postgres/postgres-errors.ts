import { isRegistryError, type RegistryError } from "../../core/errors.js";
import { storageError } from "../storage-error.js";

interface Fields {
  readonly code?: unknown;
  readonly message?: unknown;
}

const fields = (error: unknown): Fields => (typeof error === "object" && error !== null ? error : {});

/** The server's code for an error (SQLSTATE): five characters, at least one of them a digit, unlike the system's `EPIPE`. */
export function sqlState(error: unknown): string | undefined {
  const { code } = fields(error);
  return typeof code === "string" && /^(?=.*\d)[0-9A-Z]{5}$/.test(code) ? code : undefined;
}

const systemCodes =
  /^(?:ECONN|ENOTFOUND|EAI_|EPIPE|ETIMEDOUT|EHOST|ENET|ERR_SOCKET|ERR_STREAM|ERR_SSL|ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/;
/** Failures that clients tell of in words alone. */
const lostInWords = /connection (?:terminated|ended|error)|not queryable|SSL|SASL/i;
/** The pool's word for a connection that cannot be made, and as well for one that others hold. */
const noneFree = /timeout exceeded when trying to connect/;
/** The client's own limits of time. */
const timedOutInWords = /timeout/i;

const inWords = (error: unknown, words: RegExp) => sqlState(error) === undefined && words.test(String(fields(error).message));

/** The connection broke or could not be made: 08 and 57P0x are the server's words for it, 25P03 says that it lost patience with this process. */
function isLost(error: unknown): boolean {
  const state = sqlState(error);
  if (state) return /^(?:08|57P0[123]|25P03|53300)/.test(state);
  const { code } = fields(error);
  return (typeof code === "string" && systemCodes.test(code)) || inWords(error, lostInWords);
}

/** Whether nothing was done, and the same may succeed now. Not asked about a COMMIT whose connection broke; and who waited for a limit of time has waited enough. */
export function mayTryAgain(error: unknown): boolean {
  if (isRegistryError(error) || inWords(error, timedOutInWords)) return false;
  // A serialization failure, a deadlock. Without others' locks on these tables there are none.
  return isLost(error) || /^40(?:001|P01)$/.test(sqlState(error) ?? "");
}

/** Whether the server cannot be reached, or not now. */
export function isPostgresOutage(error: unknown): boolean {
  if (isRegistryError(error)) return false;
  return isLost(error) || inWords(error, noneFree) || inWords(error, timedOutInWords);
}

/**
 * The error to throw for one of the client or server. What says nothing about the database, as a bug, stays as it is.
 *
 * @param retryAfter seconds to wait for a server that cannot be reached.
 */
export function postgresError(error: unknown, retryAfter = 1): unknown {
  if (isRegistryError(error)) return error;
  const said = explanation(error, { retryAfter });
  if (!said) return error;
  const [code, message, more] = said;
  return storageError(code, "PostgreSQL", message, { cause: withoutSecrets(error), ...more });
}

/** The connection broke while it was asked to commit. */
export function outcomeUnknown(error: unknown): RegistryError {
  const message =
    "the connection to PostgreSQL broke while a change was committed, so that it is not known whether it was: look at what it should have done, or do it again";
  return storageError("UNAVAILABLE", "PostgreSQL", message, { retryAfter: 1, cause: withoutSecrets(error) });
}

type Explanation = readonly ["UNAVAILABLE" | "INSUFFICIENT_STORAGE", string, { retryAfter: number }?];

const again = { retryAfter: 1 };

function explanation(error: unknown, later: { retryAfter: number }): Explanation | undefined {
  const state = sqlState(error);
  const said = state ?? fields(error).code ?? "no answer";
  if (state === "53100")
    return ["INSUFFICIENT_STORAGE", "the disk of the PostgreSQL server is full: free space there or give it a larger one, then try again"];
  if (state === "53300" || state === "53400")
    return [
      "UNAVAILABLE",
      `PostgreSQL permits no more connections (${state}): raise max_connections there, or lower \`max\` of the pools`,
      again,
    ];
  if (state === "53200")
    return ["UNAVAILABLE", "PostgreSQL is out of memory (53200): raise max_locks_per_transaction there, or its memory", again];
  if (state === "55P03" || state === "57014")
    return [
      "UNAVAILABLE",
      `PostgreSQL took too long (${state}), since others change the same or a migration is under way: try again`,
      again,
    ];
  if (state === "25006")
    return ["UNAVAILABLE", "the PostgreSQL server takes no writes (25006): point the pool at the primary server", again];
  if (state && /^(?:28|3D000)/.test(state))
    return ["UNAVAILABLE", `PostgreSQL does not accept the pool's user, password or database (${state}): correct the pool's settings`];
  if (state === "42501")
    return [
      "UNAVAILABLE",
      "PostgreSQL denies the pool's user what is needed (42501): see docs/storage.md for the permissions of the schema",
    ];
  if (state === "42P01" || state === "3F000" || state === "42703")
    return [
      "UNAVAILABLE",
      `tables of the registry are missing in PostgreSQL (${state}): restore them, or start the process again to create them`,
    ];
  if (/after calling end on the pool/.test(String(fields(error).message)))
    return ["UNAVAILABLE", "the pool of connections to PostgreSQL was ended: close the registry before the pool"];
  if (inWords(error, noneFree))
    return [
      "UNAVAILABLE",
      "no connection to PostgreSQL came free in time: check that it runs, and raise `max` of the pool or its `connectionTimeoutMillis` where requests only wait for each other",
      later,
    ];
  if (mayTryAgain(error) || inWords(error, timedOutInWords))
    return [
      "UNAVAILABLE",
      `PostgreSQL does not answer (${said}): check that it runs and that the pool's settings lead to it, then try again`,
      later,
    ];
  return undefined;
}

/** The words alone: errors of clients also hold settings, and texts with addresses may hold a password. Causes end up in logs. */
function withoutSecrets(error: unknown): Error {
  const { code, message } = fields(error);
  const words = typeof message === "string" ? message.replace(/\b\w+:\/\/\S+/g, "(an address)") : "";
  return new Error([code, words].filter(Boolean).join(": "));
}
