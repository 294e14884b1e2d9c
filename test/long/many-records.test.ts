import { fileStorage } from "oci-manifold/storage/files";
import { describe } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { manyRecordsCases } from "../maintenance/many-records-cases.js";

describe("with 100,000 images", { timeout: 900_000 }, () => manyRecordsCases(100_000, () => fileStorage(temporaryFolder())));
