const { existsSync, writeFileSync } = require("node:fs");
const { hooked } = require("./hooked.cjs");

/** As a disk that takes its time: while there is a file `hold`, COMMIT blocks its thread. It writes `held` once it does. */
module.exports = hooked(({ sql, file }) => {
  if (sql !== "COMMIT" || !existsSync(file("hold"))) return;
  writeFileSync(file("held"), "");
  const nothing = new Int32Array(new SharedArrayBuffer(4));
  // With an end, so that a test fails where the event loop is the thread that is blocked.
  for (let waited = 0; existsSync(file("hold")); waited += 5) {
    if (waited > 5000) throw new Error("nobody ended the wait");
    Atomics.wait(nothing, 0, 0, 5);
  }
});
