import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { freePort, RunningProcess, run, temporaryFolder } from "./processes.js";

/** The user's own logins and settings must not matter. */
async function cleanHome(): Promise<NodeJS.ProcessEnv> {
  const home = await temporaryFolder();
  const auth = join(home, "auth.json");
  await writeFile(auth, "{}");
  return { HOME: home, XDG_RUNTIME_DIR: home, REGISTRY_AUTH_FILE: auth, DOCKER_CONFIG: home };
}

/** Copies an image with all its platforms; registries are spoken to over plain HTTP. */
export async function skopeoCopy(from: string, to: string): Promise<void> {
  const insecure = ["--src-tls-verify=false", "--dest-tls-verify=false"];
  await run("skopeo", ["--insecure-policy", "copy", "--all", "--quiet", "--preserve-digests", ...insecure, from, to], await cleanHome());
}

export async function skopeo(...args: string[]): Promise<string> {
  return run("skopeo", ["--insecure-policy", ...args], await cleanHome());
}

export type RunClient = (...args: string[]) => Promise<string>;

/** podman and buildah over one image store of their own. */
export async function podmanAndBuildah(): Promise<{ podman: RunClient; buildah: RunClient }> {
  const env = await cleanHome();
  const folder = await temporaryFolder();
  const store = ["--root", join(folder, "root"), "--runroot", join(folder, "run"), "--storage-driver", "vfs"];
  return {
    podman: (...args) => run("podman", [...store, "--cgroup-manager=cgroupfs", ...args], env),
    buildah: (...args) => run("buildah", [...store, ...args], env),
  };
}

async function startContainerd(folder: string): Promise<string> {
  const socket = join(folder, "containerd.sock");
  const config = join(folder, "containerd.toml");
  await writeFile(
    config,
    `version = 2
root = "${join(folder, "containerd-root")}"
state = "${join(folder, "containerd-state")}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[debug]
  level = "warn"
[grpc]
  address = "${socket}"
`,
  );
  await new RunningProcess("containerd", ["-c", config]).listeningAt(socket);
  return socket;
}

/** containerd with state of its own; answers its client `ctr`. */
export async function containerd(): Promise<RunClient> {
  const socket = await startContainerd(await temporaryFolder());
  return (...args) => run("ctr", ["-a", socket, ...args]);
}

/** A docker engine with state of its own, without networks; answers its client `docker`. */
export async function dockerEngine(settings: object = {}): Promise<RunClient> {
  const folder = await temporaryFolder();
  const containerdSocket = await startContainerd(folder);
  const config = join(folder, "docker.json");
  await writeFile(config, JSON.stringify({ "insecure-registries": ["127.0.0.0/8"], ...settings }));
  const socket = join(folder, "docker.sock");
  const places = ["--data-root", join(folder, "data"), "--exec-root", join(folder, "exec"), "--pidfile", join(folder, "pid")];
  const noNetworks = ["--iptables=false", "--ip6tables=false", "--bridge=none"];
  const engine = [
    "--config-file",
    config,
    "-H",
    `unix://${socket}`,
    "--containerd",
    containerdSocket,
    "--storage-driver=vfs",
    "--log-level=warn",
  ];
  // Docker Hub, which it asks when a mirror fails, is out of reach.
  const nowhere = "http://127.0.0.1:1";
  const offline = { HTTP_PROXY: nowhere, HTTPS_PROXY: nowhere, NO_PROXY: "127.0.0.1" };
  await new RunningProcess("dockerd", [...engine, ...places, ...noNetworks], offline).listeningAt(socket);
  const env = await cleanHome();
  return (...args) => run("docker", ["-H", `unix://${socket}`, ...args], env);
}

export interface DockerRegistry {
  readonly host: string;
  readonly origin: string;
  readonly folder: string;
  readonly process: RunningProcess;
}

/** CNCF's docker-registry; by default with an empty store on a free port, for everybody. `htpasswd`: a line of that file, with a bcrypt hash. */
export async function dockerRegistry(o: { folder?: string; port?: number; htpasswd?: string } = {}): Promise<DockerRegistry> {
  const folder = o.folder ?? (await temporaryFolder());
  const port = o.port ?? (await freePort());
  const config = join(folder, "config.yml");
  const users = join(folder, "htpasswd");
  if (o.htpasswd !== undefined) await writeFile(users, `${o.htpasswd}\n`);
  const auth = o.htpasswd === undefined ? "" : `auth: { htpasswd: { realm: test, path: ${users} } }\n`;
  await writeFile(
    config,
    `version: 0.1
log: { accesslog: { disabled: false } }
storage: { filesystem: { rootdirectory: ${join(folder, "data")} }, delete: { enabled: true } }
http: { addr: "127.0.0.1:${port}" }
${auth}`,
  );
  const process = new RunningProcess("docker-registry", ["serve", config], { OTEL_TRACES_EXPORTER: "none" });
  await process.listening(port);
  return { host: `127.0.0.1:${port}`, origin: `http://127.0.0.1:${port}`, folder, process };
}

/** One that ended once more, on the same port and store. */
export function dockerRegistryAgain({ folder, origin }: DockerRegistry): Promise<DockerRegistry> {
  return dockerRegistry({ folder, port: Number(new URL(origin).port) });
}
