/**
 * `npm run soak -- --minutes 5`: a server under mixed load, in rounds. After each round it rests, and tells its open files, handles and memory; when these have grown from the
 * first rounds to the last, the exit code is 1. Linux only. Needs a build.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { load } from "./load.mjs";
import { flappingUpstream } from "./upstream.mjs";
import { measured, verdict } from "./verdict.mjs";

const roundSeconds = 15;
/** Until the last connection of a round is closed, the last fill and the last pause of the upstream's over. */
const longestRest = 30_000;
/** What the server keeps in memory is warm, and its code compiled, after so much of the time. */
const warmUp = 1 / 3;
/** Fewer rounds than this say nothing. */
const fewestRounds = 6;

const { values } = parseArgs({ options: { minutes: { type: "string", default: "5" } } });
const minutes = Number(values.minutes);
if (!(minutes > 0)) throw new Error(`--minutes takes a number above 0, not ${values.minutes}`);

const data = await mkdtemp(join(tmpdir(), "manifold-soak-"));
const upstream = await flappingUpstream();
const server = fork(join(import.meta.dirname, "server.mjs"), {
  execArgv: ["--expose-gc"],
  env: { ...process.env, DATA: data, UPSTREAM: upstream.url },
});
try {
  process.exitCode = (await soak()) ? 0 : 1;
} finally {
  server.kill("SIGKILL");
  await upstream.close();
  await rm(data, { recursive: true, force: true, maxRetries: 3 });
}

async function soak() {
  const died = once(server, "exit").then(([code, signal]) => Promise.reject(new Error(`the server ended: ${code ?? signal}`)));
  const told = async () => (await Promise.race([once(server, "message"), died]))[0];
  const sample = async () => {
    server.send("sample");
    return (await told()).sample;
  };
  const { ports } = await told();
  const counts = new Map();
  const samples = [];
  const end = Date.now() + minutes * 60_000;
  console.log("round  done  open files  handles     heap  outside  resident");
  for (let round = 1; Date.now() < end || samples.length < fewestRounds; round++) {
    const before = doneIn(counts);
    await Promise.race([load(ports, roundSeconds * 1000, counts), died]);
    const at = await rested(sample);
    samples.push(at);
    const [files, handles, ...memory] = Object.values(measured(at));
    const columns = [`${round}`.padStart(5), `${doneIn(counts) - before}`.padStart(5), `${files}`.padStart(11), `${handles}`.padStart(8)];
    console.log([...columns, ...memory.map((megabytes) => megabytes.toFixed(1).padStart(8))].join(" "));
  }
  const rows = verdict(samples.slice(Math.floor(samples.length * warmUp)));
  console.table(
    rows.map(({ before, after, growth, ...row }) => ({
      ...row,
      before: +before.toFixed(1),
      after: +after.toFixed(1),
      growth: +growth.toFixed(1),
    })),
  );
  console.table(Object.fromEntries([...counts].sort()));
  const growing = rows.filter((row) => !row.flat).map(({ what }) => what);
  if (growing.length > 0) console.log("the last sample:", JSON.stringify(samples.at(-1)));
  const wrong = [...unexpected(counts)];
  if (wrong.length > 0) console.log("unexpected:", wrong.join(", "));
  const ended = await endsByItself();
  if (!ended) console.log("the server did not end by itself: something keeps it running");
  if (growing.length > 0) console.log("not flat:", growing.join(", "));
  return growing.length === 0 && wrong.length === 0 && ended;
}

function doneIn(counts) {
  return [...counts.values()].reduce((sum, count) => sum + count, 0);
}

/** A sample of when nothing is going on any more: two in a row have the same files and handles. */
async function rested(sample) {
  let last = await sample();
  for (const until = Date.now() + longestRest; Date.now() < until; ) {
    await sleep(2000);
    const now = await sample();
    const same = JSON.stringify([now.files, now.handles]) === JSON.stringify([last.files, last.handles]);
    last = now;
    if (same) break;
  }
  return last;
}

/** What shows that the load is not the one that is meant: nothing succeeded, or a request was answered as none should be. */
function* unexpected(counts) {
  const actions = new Map();
  for (const [key, count] of counts) {
    const [, action, answer] = /^(.+) (\S+)$/.exec(key) ?? [];
    const well = /^(?:2\d\d|aborted)$/.test(answer) ? count : 0;
    actions.set(action, (actions.get(action) ?? 0) + well);
    // 503: the upstream is down. 405: some digest belongs to what `prerelease` only shows.
    const expected = /^(?:2\d\d|aborted|404|405|429|503)$/.test(answer);
    // What the upstream breaks off behind the headers, or lies about, breaks off here too.
    const brokenOff = action === "pull through the cache" && /^(?:ECONNRESET|ERR_HTTP2_STREAM_ERROR)$/.test(answer);
    if (!expected && !brokenOff) yield `${key}: ${count} times`;
  }
  for (const [action, well] of actions) if (well === 0) yield `${action} never succeeded`;
}

async function endsByItself() {
  server.send("end");
  return Promise.race([once(server, "exit").then(([code]) => code === 0), sleep(20_000, false)]);
}
