import { accessSync, constants, existsSync, readdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { describe, test } from "vitest";

/** What the tests drive, and the Debian package each comes from. Engines unpack layers with their owners, so they must be root on Linux. */
const clients = {
  skopeo: { package: "skopeo" },
  umoci: { package: "umoci" },
  podman: { package: "podman", root: true },
  buildah: { package: "buildah", root: true },
  containerd: { package: "containerd", root: true },
  ctr: { package: "containerd", root: true },
  dockerd: { package: "docker.io", root: true },
  docker: { package: "docker.io" },
  "docker-registry": { package: "docker-registry" },
  nginx: { package: "nginx" },
  radosgw: { package: "radosgw" },
  "ceph-mon": { package: "ceph-mon" },
  "ceph-osd": { package: "ceph-osd" },
  ceph: { package: "ceph-common" },
  initdb: { package: "postgresql" },
  pg_dump: { package: "postgresql" },
  psql: { package: "postgresql" },
  postgres: { package: "postgresql" },
  pgbouncer: { package: "pgbouncer" },
  strace: { package: "strace" },
  prlimit: { package: "util-linux" },
  unshare: { package: "util-linux", root: true },
  losetup: { package: "mount", root: true },
  "mkfs.ext4": { package: "e2fsprogs", root: true },
} as const satisfies Record<string, { package: string; root?: boolean }>;

export type Client = keyof typeof clients;

const systemFolders = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
/** Debian keeps each version of PostgreSQL in a folder of its own, on nobody's path. */
const versions = "/usr/lib/postgresql";
const postgresFolders = existsSync(versions) ? readdirSync(versions).map((version) => join(versions, version, "bin")) : [];
const folders = [...new Set([...(process.env.PATH ?? "").split(delimiter), ...systemFolders, ...postgresFolders])];

/** Where a program is, for those that are not on the path. */
export function pathOf(name: Client): string | undefined {
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

/**
 * `describe` for tests that need these programs. Where one is missing the group is skipped and says what to install; with the environment variable CI
 * set it fails instead, so that nothing is left out unseen.
 */
export function requires(...names: Client[]): (title: string, body: () => void) => void {
  const missing = names.flatMap((name) => whyNot(name) ?? []);
  if (missing.length === 0) return (title, body) => describe(title, body);
  const reason = [...new Set(missing)].join("; ");
  if (!process.env.CI) return (title) => test.skip(`${title}: ${reason}`, () => {});
  return (title) =>
    test(title, () => {
      throw new Error(reason);
    });
}

/** For tests that read /proc. */
export const onLinux = process.platform === "linux" ? test : test.skip;

function whyNot(name: Client): string | undefined {
  const client: { package: string; root?: boolean } = clients[name];
  if (!pathOf(name)) return `needs ${name}: apt-get install ${client.package}`;
  if (client.root && (process.platform !== "linux" || process.getuid?.() !== 0)) return `${name} is driven as root on Linux only`;
  return undefined;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
