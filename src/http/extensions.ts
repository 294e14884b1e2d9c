import type { Exchange, WireResponse } from "./exchange.js";
import { jsonResponse } from "./headers.js";

const specification = "https://github.com/opencontainers/distribution-spec/blob/main";

const discover = {
  name: "_oci",
  description: "which extensions this registry has",
  url: `${specification}/extensions/_oci.md`,
};

const catalog = {
  name: "_catalog",
  description: "the names of all repositories",
  url: `${specification}/spec.md#extensions`,
};

/** What is really there, and no more: a client may rely on it. (distribution-spec, extensions/_oci.md) */
export async function listExtensions(x: Exchange, repository: string | undefined): Promise<WireResponse> {
  const path = repository === undefined ? "_oci/ext/discover" : `${repository}/_oci/ext/discover`;
  const extensions = [{ ...discover, endpoints: [path] }, ...(repository === undefined ? [{ ...catalog, endpoints: ["_catalog"] }] : [])];
  return jsonResponse(200, { extensions }, { head: x.head });
}
