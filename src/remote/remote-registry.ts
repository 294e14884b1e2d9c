import { type Clock, systemClock } from "../core/clock.js";
import { parseDigest } from "../core/digest.js";
import { isRegistryError, naming } from "../core/errors.js";
import { noEvents, safeSink } from "../core/events.js";
import { found } from "../core/lookup.js";
import { parseReference, parseRepositoryName } from "../core/name.js";
import type { CallOptions } from "../core/registry.js";
import { mapReads, mapWrites, sessionThrough } from "../core/registry-calls.js";
import { toMilliseconds } from "../core/units.js";
import { getRemoteBlob, resolveRemoteBlob } from "./blobs.js";
import { connectorFor } from "./connections.js";
import { type CredentialSource, credentialsFor } from "./credentials.js";
import { Authorizer, Endpoint } from "./endpoint.js";
import { Admission } from "./limits/admission.js";
import { Backoffs } from "./limits/backoff.js";
import { readUpstreamLimits } from "./limits/upstream-limits.js";
import { listingOrders, listNames, repositoryListing, tagListing } from "./listings.js";
import { getRemoteManifest, resolveRemoteManifest } from "./manifests.js";
import { checkOptions, parseBaseUrls, type RemoteOptions } from "./options.js";
import { listRemoteReferrers } from "./referrers.js";
import { TokenClient } from "./tokens.js";
import { Transport } from "./transport.js";
import { Upstream } from "./upstream.js";
import type { RemoteRegistry } from "./upstream-status.js";
import { getVerifiedBlob } from "./verified-blobs.js";
import { refusedWrites, remoteWrites } from "./writes.js";

/** What a vendor's registry does otherwise than the specification. */
export interface RegistryQuirks {
  /** The upstream's name for a repository. */
  toUpstream?(repository: string): string;
  /** `none`: there is no `_catalog`, so it is not asked for. */
  readonly catalog?: "none";
  /** `in one piece`: its lists hold all names whatever is asked for, so nothing is asked for behind the last one. */
  readonly lists?: "in one piece";
  /** What its credentials are kept under, for a host. Default: the host. */
  credentialName?(host: string): string;
  /** Credentials that the registry itself gives for others. */
  credentials?(parts: VendorParts): CredentialSource;
  /** The scope to ask a token for, where the specification's is refused; empty: none. */
  toScope?(scope: string): string;
}

export interface VendorParts {
  readonly origin: URL;
  readonly transport: Transport;
  readonly clock: Clock;
}

/**
 * A registry over HTTP: pulls go to the upstream, every time, and with `readOnly: false` pushes and deletes too. Wrap it in `cached` to keep what it gives.
 *
 * - Reads answer `absent` to 404; `denied` (DENIED) to 403, and to a 401 that persists with a fresh token; `unavailable` to 429
 *   (TOOMANYREQUESTS, with the upstream's `retryAfter`), to any other status and to network errors (UNAVAILABLE, or UNSUPPORTED for 405). They throw NAME_INVALID, DIGEST_INVALID or
 *   MANIFEST_INVALID for a malformed name, digest or tag, and the signal's reason when `signal` aborts.
 * - Storage that a blob is redirected to is not the registry: what it refuses is neither `absent` nor `denied`. A fresh redirect is asked for, then the next URL; then it is `unavailable`.
 * - Manifests and blobs are verified against their digest: the last 64 KiB of a blob wait for it, and a part of a blob, which cannot be verified, is answered
 *   by the whole. With `verify: false` blobs come as they are, for callers that hash them, as `cached` does. Content that is not opened in time (`timeouts.open`) is given up.
 * - Credentials go to this origin on a Basic challenge, or to the token endpoint: on this origin, by https on the registry's own host, or on one in `realmHosts`. Any other token endpoint is
 *   asked anonymously, and what is refused then names `realmHosts`. Redirects to another origin are followed without them, and never from https to http. No error or message holds a credential, a token or a redirect's target.
 * - Redirects and token endpoints lead to public addresses, or to those of the kind that the registry itself has, unless `allowAddresses` lists others. That is checked at each connection.
 * - Listings are in ASCII order whatever the upstream's is. After a page that links to no next one, or to one that cannot be had, what comes after its last item is asked for, until a page is
 *   empty. Only where no page can be had there is no listing; one that may not be whole, and a listing of repositories that the upstream refuses (an empty page), say so in a warning.
 * - Writes throw UNSUPPORTED (405) unless `readOnly: false`. Then they throw what the upstream's error says, where that is one of this library's codes; DENIED for
 *   401 and 403, TOOMANYREQUESTS for 429, UNSUPPORTED for 405, PRECONDITION_FAILED for 412, else UNAVAILABLE. Whoever may write here writes with
 *   this remote's credentials: who may is for the handler in front to decide.
 * - Upload sessions are kept in memory: a restart of this process ends them, and clients start anew; so does a day of rest. Nothing is sent twice, except a request
 *   without body or with a manifest after its 401. The token of a session is confirmed by a GET before bytes are streamed, which are gone if it is refused. A chunk that broke off can be resumed at the offset that the upstream gives.
 * - What older registries leave to their clients is done: a manifest is pushed by each tag of `tags` that was not taken, and one with a subject is put
 *   into the referrers tag's index.
 * - Reads are tried again after what may pass, and an upstream that asks for a pause (back-off), or fails again and again (circuit breaker), gets one: reads answer `unavailable` and writes throw, at once
 *   and with `retryAfter`, without a request. A pull quota is not used up beyond `quotaReserve` (TOOMANYREQUESTS for manifests). Of several URLs the first that works answers reads.
 * - `ready()` asks nobody: an upstream that is down is no reason not to start. `status()` tells what was seen of it, an `upstream` event what has changed.
 *
 * | option | default | |
 * | --- | --- | --- |
 * | `name` | the URL's host | in `served.member` and messages |
 * | `credentials` | anonymous | `{ username, password }`, `{ identityToken }`, or a function, called for each token request; `dockerConfig()` is one |
 * | `readOnly` | true | false: writes go to the upstream |
 * | `realmHosts` | none | further hosts whose token endpoints get the credentials |
 * | `proxy` | `"environment"` | the URL of a proxy, or false |
 * | `tls` | Node's | certificates, keys and authorities |
 * | `allowAddresses` | none | what is not public and redirects may lead to |
 * | `userAgent` | `"oci-manifold"` | |
 * | `timeouts` | connect 10 s, headers 30 s, body 60 s, open 30 s | |
 * | `maxRequests` | 64 | under way at once, bodies included; `priority: "background"` goes last |
 * | `maxConnections` | 32 | to one origin |
 * | `maxRequestsPerSecond` | no limit | |
 * | `quotaReserve` | 0 | part of a pull quota that is left |
 * | `retries` | 2 | of reads |
 * | `breaker` | `{ failures: 5, openFor: "10s" }` | false: none |
 * | `clock` | the system's | expiry of tokens, Retry-After dates, pauses |
 * | `events` | none | `upstream` |
 *
 * @param url scheme, host and port. `http://` is allowed only when written here. Several: mirrors of the first, asked for reads when it cannot answer; each gets the credentials.
 * @throws RegistryError UNKNOWN for a URL or options that cannot work.
 *
 * @example
 * ```ts
 * import { remoteRegistry } from "oci-manifold";
 * const registry = remoteRegistry("https://registry.example", {
 *   name: "example",
 *   credentials: () => ({ username: "robot", password: process.env.ROBOT_PASSWORD ?? "" }),
 *   realmHosts: ["auth.example"],
 * });
 * await registry.ready();
 * await registry.close();
 * ```
 */
export function remoteRegistry(url: string | readonly string[], options: RemoteOptions = {}): RemoteRegistry {
  return vendorRegistry(url, options, {});
}

/** A remote with a vendor's quirks: what presets such as `dockerHub` are made of. */
export function vendorRegistry(url: string | readonly string[], options: RemoteOptions, quirks: RegistryQuirks): RemoteRegistry {
  const [base, ...mirrors] = parseBaseUrls(url);
  checkOptions(options);
  const limits = readUpstreamLimits(options);
  const { clock = systemClock, realmHosts = [], userAgent = "oci-manifold", timeouts } = options;
  const name = options.name ?? base.host;
  const openWithin = toMilliseconds(timeouts?.open ?? "30s");
  const { maxConnections, retries } = limits;
  const connect = connectorFor(options, [base, ...mirrors], toMilliseconds(timeouts?.connect ?? "10s"));
  const transport = new Transport({ clock, userAgent, timeouts, maxConnections, connect });
  const backoffs = new Backoffs(clock);
  const events = safeSink(options.events ?? noEvents);
  const endpointOf = (origin: URL) => {
    const given = quirks.credentials?.({ origin, transport, clock }) ?? options.credentials;
    const { credentials, expiresAt } = credentialsFor(given, quirks.credentialName?.(origin.host) ?? origin.host);
    const tokens = new TokenClient({ name, credentials, transport, clock, retries, backoffOf: (other) => backoffs.of(other) });
    const authorizer = new Authorizer({ name, origin, realmHosts, toScope: quirks.toScope, credentials, tokens, clock });
    const backoff = backoffs.of(origin.origin);
    const url = new URL("/v2/", origin);
    // Without a token: that the upstream asks for one is an answer.
    const probe = (signal: AbortSignal) => transport.send({ method: "GET", url, follow: false, aside: true, signal });
    const admission = new Admission({ name, origin: origin.origin, clock, events, backoff, limits, probe });
    return new Endpoint({ name, base: origin, transport, authorizer, admission, credentialExpiresAt: expiresAt });
  };
  const endpoints = [endpointOf(base), ...mirrors.map(endpointOf)] as const;
  const upstream = new Upstream({ name, clock, endpoints, retries });
  const behind = upstream.inBackground();
  const upstreamFor = (o: CallOptions | undefined) => (o?.priority === "background" ? behind : upstream).after(o?.via);

  const orders = listingOrders();
  const inOnePiece = quirks.lists === "in one piece";

  const repositoryOf = (text: string) => {
    const repository = parseRepositoryName(text);
    return quirks.toUpstream ? parseRepositoryName(quirks.toUpstream(repository)) : repository;
  };

  const plain: RemoteRegistry = {
    identity: base.origin,
    ...(quirks.toUpstream && { canonicalName: quirks.toUpstream }),
    async resolveManifest(repository, reference, o) {
      return resolveRemoteManifest(upstreamFor(o), repositoryOf(repository), parseReference(reference), o?.signal);
    },
    async getManifest(repository, reference, o) {
      return getRemoteManifest(upstreamFor(o), repositoryOf(repository), parseReference(reference), o?.signal);
    },
    async resolveBlob(repository, digest, o) {
      const question = { repository: repositoryOf(repository), digest: parseDigest(digest), signal: o?.signal, openWithin };
      return resolveRemoteBlob(upstreamFor(o), question);
    },
    async getBlob(repository, digest, o) {
      const question = { repository: repositoryOf(repository), digest: parseDigest(digest), signal: o?.signal, openWithin };
      return o?.verify === false ? getRemoteBlob(upstreamFor(o), question, o) : getVerifiedBlob(upstreamFor(o), question, o ?? {});
    },
    async listTags(repository, page, o) {
      return listNames(upstreamFor(o), tagListing(repositoryOf(repository), inOnePiece, o?.signal), page, orders);
    },
    async listRepositories(page, o) {
      const refused = found(
        { items: [], warnings: [`this list is not complete: ${name} does not list its repositories`] },
        { member: [name] },
      );
      if (quirks.catalog === "none") return refused;
      const listed = await listNames(upstreamFor(o), repositoryListing(inOnePiece, o?.signal), page, orders);
      // Most public registries refuse: GHCR with 403 or 404, ECR Public with 405.
      const isRefusal =
        listed.kind === "absent" || listed.kind === "denied" || (listed.kind === "unavailable" && listed.error.code === "UNSUPPORTED");
      return isRefusal ? refused : listed;
    },
    async listReferrers(repository, subject, page, o) {
      return listRemoteReferrers(upstreamFor(o), repositoryOf(repository), parseDigest(subject), page, o?.signal);
    },
    // Anything but false: a host without TypeScript may pass text.
    ...(options.readOnly === false
      ? remoteWrites(upstream, repositoryOf, (other) => other === registry)
      : refusedWrites(`${name}: this remote is read-only: push to ${base.host} directly`)),
    forNamespace: () => undefined,
    ready: async () => {},
    async close(o) {
      for (const endpoint of endpoints) endpoint.close();
      await transport.close(o?.deadline);
    },
    status: () => ({ urls: endpoints.map(({ status }) => status) }),
  };
  const registry: RemoteRegistry = withNames(plain, [
    ...new Set([name, ...[base, ...mirrors].flatMap(({ origin, host, hostname }) => [origin, host, hostname])]),
  ]);
  return registry;
}

/** The same registry; its errors know what they call the upstream, so that a handler can tell them to those who may not know of it. */
function withNames(remote: RemoteRegistry, names: readonly string[]): RemoteRegistry {
  const named = async <T>(run: () => Promise<T>): Promise<T> => {
    try {
      return await run();
    } catch (error) {
      throw isRegistryError(error) ? naming(error, names) : error;
    }
  };
  return {
    ...remote,
    ...mapReads((call, send) =>
      named(async () => {
        const lookup = await send(remote, call.repository);
        if ("error" in lookup && lookup.error) naming(lookup.error, names);
        return lookup;
      }),
    ),
    ...mapWrites((call, send) => named(() => send(remote, call.repository))),
    mountBlob: (...call) => named(() => remote.mountBlob(...call)),
    startUpload: async (...call) => sessionThrough(await named(() => remote.startUpload(...call)), named),
    resumeUpload: async (...call) => sessionThrough(await named(() => remote.resumeUpload(...call)), named),
  };
}
