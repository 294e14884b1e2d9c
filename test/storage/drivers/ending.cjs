const { existsSync } = require("node:fs");
const { isMainThread } = require("node:worker_threads");
const { hooked } = require("./hooked.cjs");

/** While there is a file `before` or `after`, the thread that commits ends there, before or after the database has committed. */
module.exports = class extends hooked(() => {}) {
  constructor(path) {
    super(path);
    const end = (when) => {
      if (!isMainThread && existsSync(path.replace(/[^/]*$/, when))) process.exit(7);
    };
    const exec = this.exec.bind(this);
    this.exec = (sql) => {
      if (sql !== "COMMIT") return exec(sql);
      end("before");
      exec(sql);
      end("after");
    };
  }
};
