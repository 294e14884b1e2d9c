// Drivers for tests: the first that the library would take, with a look at each statement. Both threads of a store load them, so they share nothing but files.
const { dirname, join } = require("node:path");

const Inner = process.getBuiltinModule?.("node:sqlite")?.DatabaseSync ?? require("libsql");

/** A class of databases whose statements pass a hook first. `file` names a file beside the database. */
exports.hooked = (hook) =>
  class {
    constructor(path) {
      this.inner = new Inner(path);
      this.hook = (sql, parameters) => hook({ sql, parameters, file: (name) => join(dirname(path), name) });
    }

    exec(sql) {
      this.hook(sql, []);
      return this.inner.exec(sql);
    }

    prepare(sql) {
      const statement = this.inner.prepare(sql);
      return {
        run: (...parameters) => {
          this.hook(sql, parameters);
          return statement.run(...parameters);
        },
        get: (...parameters) => {
          this.hook(sql, parameters);
          return statement.get(...parameters);
        },
        all: (...parameters) => {
          this.hook(sql, parameters);
          return statement.all(...parameters);
        },
      };
    }

    close() {
      return this.inner.close();
    }
  };
