import type { Content } from "oci-manifold";
import { contentChunks } from "oci-manifold/extend";

export async function collectionBytes(content: Content): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of contentChunks(content)) chunks.push(chunk);
  return Buffer.concat(chunks);
}
