const { appendFileSync } = require("node:fs");
const { hooked } = require("./hooked.cjs");

/** Writes each statement into the file `executed`. */
module.exports = hooked(({ sql, file }) => appendFileSync(file("executed"), `${sql}\n`));
