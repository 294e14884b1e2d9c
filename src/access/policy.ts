import type { Awaitable } from "../core/awaitable.js";
import { RegistryError } from "../core/errors.js";
import type { Caller } from "../core/registry.js";

/**
 * What a request wants to do. `pull`: manifests, blobs, tags and referrers of one repository. `push`: manifests, uploads and mounts into one.
 * `delete`: manifests, tags and blobs. `list`: the catalog, which names every repository and therefore has none itself. `refresh`: to make caches ask their
 * sources about a tag now, which costs their quotas; asked after `pull`, and where it is refused the tag is pulled as it is.
 */
export type Action = "pull" | "push" | "delete" | "list" | "refresh";

/** One question to a host: may this caller do this? */
export interface AccessQuestion {
  /** Absent: anonymous. */
  readonly caller?: Caller;
  readonly action: Action;
  /** Absent for `list`. */
  readonly repository?: string;
  /** The tag or digest, where the request names one. */
  readonly reference?: string;
  /** The host name of `?ns=`: the pull is meant for what answers for that registry, whose repository names are then asked for. */
  readonly namespace?: string;
}

/** A host's policy. Only `true` permits; a throw refuses with 500 and says nothing to the client. */
export type Authorize = (question: AccessQuestion) => boolean | Promise<boolean>;

export interface PolicyOptions {
  /** Decides every request. Default: reads are open; writes and deletes are refused unless `anonymousWrites`. */
  readonly authorize?: Authorize;
  /** Lets everybody push and delete where there is no `authorize`; with one, it alone decides. Default: false. */
  readonly anonymousWrites?: boolean;
  /** The `WWW-Authenticate` header of a 401. Clients read only the first challenge, and need quoted parameters. Default: `Basic realm="registry"`. */
  readonly challenge?: string;
}

/** Who may do what, as the HTTP adapter asks it. */
export interface Policy {
  readonly challenge: string;
  /**
   * Nothing when the caller may; a promise only where the host's policy is asynchronous.
   * @throws RegistryError UNAUTHORIZED for an anonymous caller, DENIED for a known one, UNKNOWN when the policy itself failed.
   */
  admit(question: AccessQuestion): Awaitable<void>;
  /**
   * Whether `/v2/` asks an anonymous client to sign in. docker and podman learn the scheme there and nowhere else: with a 200 they would never
   * send the credentials they have. With a Basic challenge and no credentials they go on anonymously, so open pulls stay open.
   */
  asksToSignIn(caller: Caller | undefined): boolean;
  /**
   * Whether the answer is the same for every repository, tag and digest: then nobody has to be asked about what else a request touches, as the repository that a
   * mount takes its blob from, or the tags that go with a manifest. An upstream could not say what those are.
   */
  readonly isUniform: boolean;
}

/**
 * The policy of an HTTP handler.
 *
 * @throws RegistryError UNKNOWN for a challenge that cannot be a header.
 */
export function accessPolicy(options: PolicyOptions = {}): Policy {
  const { authorize, anonymousWrites = false, challenge = 'Basic realm="registry"' } = options;
  if (!/^[\x20-\x7e]+$/.test(challenge)) throw new RegistryError("UNKNOWN", "the challenge must be one line of printable ASCII");
  if (authorize) {
    return {
      challenge,
      isUniform: false,
      asksToSignIn: (caller) => caller === undefined,
      admit: (question) => askHost(authorize, question),
    };
  }
  return {
    challenge,
    isUniform: true,
    asksToSignIn: () => false,
    admit(question) {
      if (question.action === "pull" || question.action === "list" || anonymousWrites) return;
      throw refusal(question, "this registry is read-only: the host gave neither `authorize` nor `anonymousWrites: true`");
    },
  };
}

function askHost(authorize: Authorize, question: AccessQuestion): Awaitable<void> {
  let answer: Awaitable<boolean>;
  try {
    answer = authorize(question);
  } catch (cause) {
    throw failedPolicy(cause);
  }
  if (answer === true) return;
  if (answer === false) throw refusal(question);
  return Promise.resolve(answer).then(
    (permitted) => {
      // Not a truthiness test: a host in plain JavaScript may answer a user object or an error by mistake.
      if (permitted !== true) throw refusal(question);
    },
    (cause) => {
      throw failedPolicy(cause);
    },
  );
}

function refusal(question: AccessQuestion, why?: string): RegistryError {
  const { caller, action, repository } = question;
  const what = repository === undefined ? action : `${action} ${repository}`;
  const reason = why === undefined ? "" : `: ${why}`;
  if (!caller) return new RegistryError("UNAUTHORIZED", `sign in to ${what}${reason}`);
  return new RegistryError("DENIED", `you may not ${what}${reason}`);
}

function failedPolicy(cause: unknown): RegistryError {
  return new RegistryError("UNKNOWN", "access could not be decided", { cause });
}
