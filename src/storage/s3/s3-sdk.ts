import { errorText, RegistryError } from "../../core/errors.js";

/** An `S3Client` of `@aws-sdk/client-s3`, as far as it is used here. */
export interface S3ClientLike {
  // `never` takes whichever command type the host's version of the SDK has.
  send(command: never, options?: { abortSignal?: AbortSignal }): Promise<unknown>;
}

type CommandClass = new (input: never) => object;

/** What is used of the module `@aws-sdk/client-s3`: its command classes. */
export interface S3Sdk {
  readonly AbortMultipartUploadCommand: CommandClass;
  readonly CompleteMultipartUploadCommand: CommandClass;
  readonly CopyObjectCommand: CommandClass;
  readonly CreateMultipartUploadCommand: CommandClass;
  readonly DeleteObjectCommand: CommandClass;
  readonly GetObjectCommand: CommandClass;
  readonly HeadObjectCommand: CommandClass;
  readonly ListMultipartUploadsCommand: CommandClass;
  readonly ListObjectsV2Command: CommandClass;
  readonly ListPartsCommand: CommandClass;
  readonly PutObjectCommand: CommandClass;
  readonly UploadPartCommand: CommandClass;
  readonly UploadPartCopyCommand: CommandClass;
}

/** What is used of the module `@aws-sdk/s3-request-presigner`. */
export interface S3Presigner {
  getSignedUrl(client: never, command: never, options?: { expiresIn?: number }): Promise<string>;
}

/** A module, or what loads it when it is first needed. */
export type ModuleSource<T extends object> = T | (() => T | Promise<T>);

const clientPackage = "@aws-sdk/client-s3";
const presignerPackage = "@aws-sdk/s3-request-presigner";

// Names in variables: an import by a literal would need the types of packages that only users of S3 have installed.
export const loadSdk = once<S3Sdk>(clientPackage, "sdk", () => import(clientPackage));
export const loadPresigner = once<S3Presigner>(presignerPackage, "presigner", () => import(presignerPackage));

/** A function that makes a function that loads once; after a failure it is tried again. */
function once<T extends object>(name: string, option: string, load: () => Promise<T>): (given?: ModuleSource<T>) => () => Promise<T> {
  return (given) => {
    let loaded: Promise<T> | undefined;
    const start = async (): Promise<T> => {
      if (typeof given === "function") return given();
      return given ?? load().catch((error: unknown) => Promise.reject(missing(name, option, error)));
    };
    return () => {
      loaded ??= start().catch((error: unknown) => {
        loaded = undefined;
        throw error;
      });
      return loaded;
    };
  };
}

function missing(name: string, option: string, error: unknown): RegistryError {
  const reason = errorText(error);
  return new RegistryError(
    "UNAVAILABLE",
    `storage in S3 needs the package ${name}: run "npm install ${name}", or pass the module as the option ${option} (${reason})`,
    { cause: error },
  );
}
