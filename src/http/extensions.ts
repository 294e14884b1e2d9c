import { type Exchange, jsonResponse, type WireResponse } from "./exchange.js";

const specification = "https://github.com/opencontainers/distribution-spec/blob/main";

const discover = {
  name: "_oci",
  description: "which extensions this registry has",
  url: `${specification}/extensions/_oci.md`,
  endpoints: ["_oci/ext/discover"],
};

const catalog = {
  name: "_catalog",
  description: "the names of all repositories",
  url: `${specification}/spec.md#extensions`,
  endpoints: ["_catalog"],
};

/** What is really there, and no more: a client may rely on it. Endpoints are below `/v2/`, or below the repository. (distribution-spec, extensions/_oci.md) */
export async function listExtensions(x: Exchange, repository: string | undefined): Promise<WireResponse> {
  return jsonResponse(200, { extensions: repository === undefined ? [discover, catalog] : [discover] }, { head: x.head });
}
