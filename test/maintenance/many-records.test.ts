import { fileStorage } from "oci-manifold/storage/files";
import { describe } from "vitest";
import { temporaryFolder } from "../fixtures/temporary-folder.js";
import { manyRecordsCases } from "./many-records-cases.js";

describe("with 3,000 images", () => manyRecordsCases(3000, () => fileStorage(temporaryFolder())));
