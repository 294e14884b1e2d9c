import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { fileStorage } from "oci-manifold/storage/files";
import { expect, test } from "vitest";
import { temporaryFolder } from "../interop/processes.js";

const library = new URL("../../dist/storage/files/index.js", import.meta.url).href;
const root = fileURLToPath(new URL("../..", import.meta.url));
const lease = (name: string) => ({ kind: "lease", parts: [name] }) as const;

/** Runs a program with `metadata` on a folder and `put(name)`; answers what it printed, once it has ended by itself. */
async function program(folder: string, body: string): Promise<string> {
  const script = `
    import { sqliteMetadata } from ${JSON.stringify(library)};
    const metadata = sqliteMetadata(${JSON.stringify(folder)});
    const put = (name) => metadata.commit([], [{ put: { kind: "lease", parts: [name] }, value: { holder: "h", expiresAt: 1 } }]);
    ${body}`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], { cwd: root });
  return stdout.trim();
}

const names = async (folder: string) => {
  const { metadata } = fileStorage(folder);
  const found = await metadata.names({ kind: "lease", under: [], limit: 9 });
  await metadata.close();
  return found;
};

test.each([
  ["that has committed and closes nothing ends by itself", `await put("a"); console.log("committed");`],
  ["stays until its last commit is answered", `put("a").then(() => console.log("committed"));`],
  ["can close and then ends", `put("a").then(() => console.log("committed")); await metadata.close();`],
  ["can end in the middle of another commit", `await put("a"); console.log("committed"); put("a"); setImmediate(() => process.exit(0));`],
])("a process %s", async (_, body) => {
  const folder = await temporaryFolder();
  expect(await program(folder, body)).toBe("committed");
  expect(await names(folder)).toEqual(["a"]);
  expect(await metadataOf(folder)).toBe(true);
});

test("a process that ends at whichever moment of its commits ends as it wants to", async () => {
  // Without a wait for the thread about one in three of these aborts.
  const folder = await temporaryFolder();
  for (let moment = 0; moment < 20; moment++) {
    const commits = `await put("a"); for (let i = 0; i < 200; i++) put("b" + i); setTimeout(() => process.exit(0), ${moment / 5});`;
    expect(await program(folder, `${commits} console.log("committed");`)).toBe("committed");
  }
});

const metadataOf = async (folder: string) => {
  const { metadata } = fileStorage(folder);
  const committed = await metadata.commit([{ key: lease("a"), is: "present" }], [{ remove: lease("a") }]);
  await metadata.close();
  return committed;
};
