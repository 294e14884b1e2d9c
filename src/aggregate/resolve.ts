import type { ManifestResolver } from "../core/connector.js";
import { servedBy } from "../core/lookup.js";
import { Answers } from "./failures.js";

/** The default resolver: by tag the first member that is not absent decides, by digest the search goes on, since no member can give other bytes. */
export const ordered: ManifestResolver = {
  name: "ordered",
  async resolve({ reference, members }, ask) {
    const answers = new Answers();
    const byDigest = reference.includes(":");
    for (const member of members) {
      const lookup = await ask(member);
      if (lookup.kind === "found") return member === members[0] ? lookup : servedBy(member.name, lookup);
      if (answers.note(member.name, lookup) && !byDigest && member.onFailure === "stop") break;
    }
    return answers.fold();
  },
};
