import type { Awaitable } from "./awaitable.js";
import type { Caller } from "./registry.js";
import type { Duration, Size } from "./units.js";

/** What a host's own rule is asked: may this be seen, or changed, through the filter? */
export interface FilterQuestion {
  readonly access: "read" | "push" | "delete" | "catalog";
  /** The name behind the filter: a connector's source's own. */
  readonly repository: string;
  /** A tag or a digest. Absent: the repository as such. */
  readonly reference?: string;
  readonly caller?: Caller;
}

/** Which part of a registry a filter shows. Plain data but for `permit`. */
export interface ContentFilter {
  /**
   * Patterns over the names behind the filter: `repository` or `repository:tag`. `*` stays within a segment, `**` crosses segments; a tag may be a range of
   * versions, as in `library/node:{>=20 <23}`. Absent: all; `[]`: nothing. Enforced for digests and blobs too.
   */
  readonly allow?: readonly string[];
  /** As `allow`; what matches here is not visible, whatever `allow` says. */
  readonly block?: readonly string[];
  /** Images of other platforms are hidden: `linux/amd64`, `linux/arm64/v8`, with `*`. An index stays as it is. What has no platform is shown. Absent: all. */
  readonly platforms?: readonly string[];
  /** Manifests of other media types are hidden; with `*`. Absent: all. */
  readonly mediaTypes?: readonly string[];
  /** What manifests hold, by `artifactType` or the config's media type; others are hidden; with `*`. An index without one is shown. Absent: all. */
  readonly artifactTypes?: readonly string[];
  /** Larger manifests are hidden. Absent: no limit. */
  readonly maxManifestBytes?: Size;
  /** Larger blobs are hidden, and images that need one. Absent: no limit. */
  readonly maxBlobBytes?: Size;
  /** Hides what was first asked for here more recently. The date in the image is its publisher's word and does not count. Absent: no limit. */
  readonly minimumAge?: Duration;
  /** `reached` (default): by digest only what something permitted has led to. `any`: rules about tags hold for tags only. */
  readonly digests?: "reached" | "any";
  /** What pulls and lists of something hidden are told: `absent` (default, 404) or `denied` (403). HEAD is always told `absent`: pushes ask so. */
  readonly hidden?: "absent" | "denied";
  /** A rule of the host, asked last. Only `true` permits; where it throws, nothing is shown and the answer is UNAVAILABLE. */
  readonly permit?: (question: FilterQuestion) => Awaitable<boolean>;
}
