import { beforeAll, describe, test } from "vitest";
import { type MainJob, startMainJob } from "./main-job.js";
import { buildkit } from "./recorded/buildkit.js";
import { cosign } from "./recorded/cosign.js";
import { crane } from "./recorded/crane.js";
import { helm } from "./recorded/helm.js";
import { oras } from "./recorded/oras.js";
import { regctl } from "./recorded/regctl.js";

const clients = { buildkit, cosign, crane, helm, oras, regctl };

describe("what clients that cannot be installed here were recorded to send", () => {
  let job: MainJob;

  beforeAll(async () => {
    job = await startMainJob();
  });

  for (const route of ["release", "prerelease"]) {
    for (const [client, replay] of Object.entries(clients)) {
      test(`${client} at ${route}`, async () => {
        await replay({ origin: job.origin, repository: `${route}/recorded-for-${route}/${client}` });
      });
    }
  }
});
