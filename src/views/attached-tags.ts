import { type Digest, isDigest } from "../core/digest.js";

/** cosign's tags for signatures, attestations and SBOMs, and the fallback tag of referrers (distribution-spec, "Referrers Tag Schema"). */
const attachedForm = /^(sha256|sha512)-([0-9a-f]{64,128})(?:\.(?:sig|att|sbom))?$/;

/** The digest of the manifest that a tag's content is attached to, where the tag says so. */
export function subjectOfTag(tag: string): Digest | undefined {
  const match = attachedForm.exec(tag);
  const digest = match ? `${match[1]}:${match[2]}` : "";
  return isDigest(digest) ? digest : undefined;
}

/** Whether a tag belongs to another manifest rather than being a name of its own. A sha512 is cut to 64 digits in fallback tags. */
export function isAttachedTag(tag: string): boolean {
  return attachedForm.test(tag);
}
