import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { freePort, RunningProcess, temporaryFolder } from "../interop/processes.js";
import { keys, type S3Server } from "./s3-server.js";

const script = fileURLToPath(new URL("./s3-node.mjs", import.meta.url));
const library = fileURLToPath(new URL("../../dist/storage/s3/index.js", import.meta.url));

export interface S3Node {
  readonly origin: string;
  readonly folder: string;
  readonly process: RunningProcess;
}

/** A registry over S3 in a process of its own, sharing its records with those of the same folder. */
export async function startNode(server: S3Server, bucket: string, o: { folder?: string; redirects?: boolean } = {}): Promise<S3Node> {
  if (!existsSync(library)) throw new Error("the library is not built: npm run build");
  const port = await freePort();
  const folder = o.folder ?? (await temporaryFolder());
  const S3 = JSON.stringify({ ...keys, endpoint: server.endpoint, bucket, port, folder, redirects: o.redirects ?? false });
  const node = new RunningProcess(process.execPath, [script], { S3 });
  await node.listening(port);
  return { origin: `http://127.0.0.1:${port}`, folder, process: node };
}
