import { expect, test } from "vitest";
import { filesBelow, read } from "./support.js";

/** Interfaces whose properties a host writes down when it makes something, and what the table calls them. */
const factories: readonly {
  readonly factory: string;
  readonly interfaces: readonly string[];
  readonly more?: readonly string[];
  readonly without?: readonly string[];
}[] = [
  { factory: "localRegistry", interfaces: ["LocalRegistryOptions", "RuntimeOptions"] },
  { factory: "remoteRegistry", interfaces: ["RemoteOptions", "UpstreamLimits", "ConnectionOptions", "RuntimeOptions"] },
  { factory: "timeouts", interfaces: ["RemoteTimeouts"] },
  { factory: "breaker", interfaces: ["BreakerOptions"] },
  {
    factory: "dockerHub",
    interfaces: ["DockerHubOptions", "RemoteOptions", "UpstreamLimits", "ConnectionOptions", "RuntimeOptions"],
    without: ["realmHosts"],
  },
  { factory: "tls", interfaces: ["TlsOptions"] },
  { factory: "ghcr", interfaces: ["GhcrOptions"] },
  { factory: "ecr", interfaces: ["EcrOptions"] },
  { factory: "googleArtifactRegistry", interfaces: ["GoogleArtifactRegistryOptions"] },
  { factory: "acr", interfaces: ["AcrOptions"] },
  { factory: "quay", interfaces: ["QuayOptions"] },
  { factory: "registryK8s", interfaces: ["RegistryK8sOptions"] },
  { factory: "dockerConfig", interfaces: ["DockerConfigOptions"] },
  { factory: "cached", interfaces: ["CachedOptions", "RuntimeOptions"] },
  { factory: "aggregate", interfaces: ["AggregateOptions", "RuntimeOptions"] },
  { factory: "connector", interfaces: ["Connector", "ContentFilter"] },
  { factory: "fromLockFile", interfaces: ["FromLockFileOptions"] },
  { factory: "routes", interfaces: ["RoutesOptions", "RouteExtras", "RuntimeOptions"] },
  { factory: "fromConfig", interfaces: ["ConfigRuntimeOptions", "RuntimeOptions"] },
  ...["dockerHubSearch", "quaySearch", "harborSearch"].map((factory) => ({ factory, interfaces: ["SearchServiceOptions"] })),
  { factory: "filtered", interfaces: ["FilteredOptions", "ContentFilter"] },
  { factory: "tagRules", interfaces: ["TagRules"] },
  { factory: "TagScope", interfaces: ["TagScope"] },
  { factory: "nodeHandler", interfaces: ["HandlerOptions", "PolicyOptions", "ProxyOptions", "FlowGuardOptions", "RuntimeOptions"] },
  { factory: "koaHandler", interfaces: ["HandlerOptions", "PolicyOptions", "ProxyOptions", "FlowGuardOptions", "RuntimeOptions"] },
  {
    factory: "fetchHandler",
    interfaces: ["FetchHandlerOptions", "HandlerOptions", "PolicyOptions", "ProxyOptions", "FlowGuardOptions", "RuntimeOptions"],
  },
  { factory: "fileStorage", interfaces: ["FileBlobStoreOptions", "SqliteMetadataOptions", "RuntimeOptions"], more: ["the folder"] },
  { factory: "s3BlobStore", interfaces: ["S3BlobStoreOptions"] },
  { factory: "distributionBucket", interfaces: ["DistributionBucketOptions"] },
  { factory: "postgresMetadata", interfaces: ["PostgresMetadataOptions", "RuntimeOptions"] },
  { factory: "memoryStorage", interfaces: ["RuntimeOptions"] },
  { factory: "fakeUpstream", interfaces: ["FakeUpstreamOptions"] },
];

/** Not written down by hosts: between files of this library, or of single calls. */
const others = [
  "AdoptImagesOptions",
  "AdoptOptions",
  "AdoptTagsOptions",
  "AggregateBlobsOptions",
  "AggregateManifestsOptions",
  "AggregateWritesOptions",
  "AppendOptions",
  "FindDanglingOptions",
  "AuthorizerOptions",
  "LocalCopiesOptions",
  "ReferenceCopiesOptions",
  "BrowseOptions",
  "CacheEvictionOptions",
  "CallOptions",
  "CollectGarbageOptions",
  "DeleteManifestOptions",
  "DeleteOptions",
  "ExportLayoutOptions",
  "FakeImageOptions",
  "FileReaderOptions",
  "FileStorageOptions",
  "FillOptions",
  "FreeSpaceOptions",
  "FillsOptions",
  "FillReaderOptions",
  "GetBlobOptions",
  "LostBlobsOptions",
  "ImagesOptions",
  "ImportLayoutOptions",
  "ListingCacheOptions",
  "LocalUploadsOptions",
  "ManifestCacheOptions",
  "ManifestIntakeOptions",
  "MembershipOptions",
  "MountOptions",
  "CopyToLocalOptions",
  "PlanOptions",
  "PromoteOptions",
  "PutManifestOptions",
  "ReadOptions",
  "ReadyOptions",
  "RegistryErrorOptions",
  "RunningFillsOptions",
  "RepairOptions",
  "SelectionOptions",
  "ScrubOptions",
  "StickyNamesOptions",
  "StoredBytesOptions",
  "TakeBlobOptions",
  "TokenClientOptions",
  "TransferOptions",
  "TurnOptions",
  "LeaseWaitOptions",
  "UsageOptions",
  "WalkOptions",
  "WarmOptions",
];

const sources = filesBelow("src", ".ts").map(read);
const rows = read("docs/options.md")
  .split("\n")
  .filter((line) => line.startsWith("| ") && !line.startsWith("| ---") && !line.startsWith("| factory"))
  .map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  );

function propertiesOf(name: string): string[] {
  for (const source of sources) {
    const body = new RegExp(`^export interface ${name}(?:<[^>]*>)?(?: extends [^{]*)? \\{\\n([\\s\\S]*?)^\\}`, "m").exec(source)?.[1];
    if (body !== undefined) return [...body.matchAll(/^ {2}(?:readonly )?(\w+)\??[:(]/gm)].map(([, property = ""]) => property);
  }
  throw new Error(`there is no interface ${name} in src`);
}

test("every interface of options is in the table or known not to be one of a host's", () => {
  const known = new Set([...factories.flatMap(({ interfaces }) => interfaces), ...others]);
  const found = sources.flatMap((source) => [...source.matchAll(/^export interface (\w+Options)\b/gm)].map(([, name = ""]) => name));
  expect(found.filter((name) => !known.has(name))).toEqual([]);
});

test.each(factories)("the table has the options of $factory, and no others", ({ factory, interfaces, more = [], without = [] }) => {
  const properties = interfaces.flatMap(propertiesOf).filter((property) => !without.includes(property));
  const listed = rows
    .filter(([first = ""]) => first.split(", ").some((cell) => cell.replaceAll("`", "") === factory))
    .map(([, option = ""]) => option.replaceAll("`", ""));
  expect([...listed].sort()).toEqual([...new Set([...properties, ...more])].sort());
});

test("every row says what the default is", () => {
  expect(rows.filter((row) => row.length !== 5 || row[3] === "").map((row) => row.join(" | "))).toEqual([]);
});

test("the table has the variables of the main job", () => {
  const declared = /const \{([^}]*)\} = process\.env/.exec(read("examples/standalone.ts"))?.[1] ?? "";
  const variables = [...declared.matchAll(/([A-Z]+)(?: = "([^"]*)")?/g)].map(([, name = "", value]) => ({ name, value }));
  expect(variables.length).toBeGreaterThan(0);
  for (const { name, value } of variables) {
    const row = rows.find(([factory, option]) => factory === "`npm start`" && option === `\`${name}\``);
    expect(row, name).toBeDefined();
    if (value !== undefined) expect(row?.[3]).toBe(`\`${value}\``);
  }
});
