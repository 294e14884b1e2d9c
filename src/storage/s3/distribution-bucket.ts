import { wholeBody } from "../../core/content.js";
import type { DistributionStorage } from "../../core/distribution-storage.js";
import { isRegistryError, RegistryError } from "../../core/errors.js";
import { pageOf } from "../../core/page.js";
import { openBucket } from "./bucket.js";
import { normalPrefix } from "./keys.js";
import type { ModuleSource, S3ClientLike, S3Sdk } from "./s3-sdk.js";

export interface DistributionBucketOptions {
  /** An `S3Client` of the host's. */
  readonly client: S3ClientLike;
  /** The old registry's `bucket`. */
  readonly bucket: string;
  /** The old registry's `rootdirectory`. Default: none, the tree starts at `docker/registry/v2`. */
  readonly prefix?: string;
  /** The module `@aws-sdk/client-s3`, or what loads it. By default it is imported at the first use; bundled hosts pass it. */
  readonly sdk?: ModuleSource<S3Sdk>;
}

/**
 * The bucket of a docker-registry (v2 or v3) with the `s3` driver, for `adoptDistribution`. It is only read: `s3:ListBucket` and `s3:GetObject` are enough. A registry
 * whose own `s3BlobStore` has a client that may read this bucket takes blobs by copies within the service.
 *
 * @throws RegistryError from its methods: UNAVAILABLE when the store cannot be reached, refuses access, or has no such bucket, or the package is missing.
 *
 * @example
 * ```ts
 * import { S3Client } from "@aws-sdk/client-s3";
 * import { distributionBucket } from "oci-manifold/storage/s3";
 * const old = distributionBucket({ client: new S3Client({ region: "eu-central-1" }), bucket: "old-registry", prefix: "/production" });
 * console.log(old.place);
 * ```
 */
export function distributionBucket(o: DistributionBucketOptions): DistributionStorage {
  const root = `${normalPrefix(o.prefix)}docker/registry/v2`;
  const bucket = openBucket({ ...o, prefix: root });
  return {
    place: `${o.bucket}/${root}`,

    async list(path, { after, limit }) {
      const names: string[] = [];
      for await (const name of bucket.folders(`${path}/`, after, limit + 1)) {
        names.push(name);
        if (names.length > limit) break;
      }
      return pageOf(names, limit, (name) => name);
    },

    async read(path, limit) {
      const tooLarge = () => new RegistryError("SIZE_INVALID", `${bucket.key(path)} has more than ${limit} bytes`);
      try {
        return await wholeBody(bucket.read(path), limit, tooLarge);
      } catch (error) {
        if (isRegistryError(error) && error.code === "BLOB_UNKNOWN") return undefined;
        throw error;
      }
    },

    size: (path) => bucket.size(path),
    open: (path) => bucket.read(path),
    foreign: async (path) => ({ kind: "object", bucket: o.bucket, key: bucket.key(path) }),
  };
}
