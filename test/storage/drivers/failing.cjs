const { existsSync, readFileSync } = require("node:fs");
const { hooked } = require("./hooked.cjs");

/** Fails at statements and parameters that contain what the file `failing` says. */
module.exports = hooked(({ sql, parameters, file }) => {
  const text = existsSync(file("failing")) && readFileSync(file("failing"), "utf8");
  if (!text) return;
  if (sql.includes(text)) throw new Error("killed");
  if (parameters.includes(text)) throw Object.assign(new Error("database or disk is full"), { code: "SQLITE_FULL" });
});
