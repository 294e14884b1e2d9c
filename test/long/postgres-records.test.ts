import { beforeAll, expect, test } from "vitest";
import { changeValues, commitTexts, conditionValues } from "../../src/storage/postgres/commit-text.js";
import { beginLocked } from "../../src/storage/postgres/key-locks.js";
import { postgresDialect } from "../../src/storage/sql/dialect.js";
import { rowOf } from "../../src/storage/sql/rows.js";
import { questionTexts } from "../../src/storage/sql/statements.js";
import { newSchema, type PostgresServer, startPostgres } from "../interop/postgres.js";
import { requires } from "../interop/requires.js";
import { countedRegistry, fillRecords } from "../storage/counted-queries.js";
import { lease, putLease } from "../storage/neighbours.js";

requires("initdb", "postgres")("PostgreSQL with 100,000 records", () => {
  const schema = newSchema();
  let server: PostgresServer;
  let pool: ReturnType<PostgresServer["pool"]>;
  let before: Awaited<ReturnType<ReturnType<typeof countedRegistry>["counts"]>>;

  beforeAll(async () => {
    server = await startPostgres();
    pool = server.pool();
    before = await countedRegistry(pool, schema).counts();
    await fillRecords(pool, schema, 30_000);
  });

  test("a request costs as many queries as with none", async () => {
    const { rows } = await pool.query(`SELECT count(*)::int AS count FROM "${schema}".records`);
    expect(rows[0].count).toBeGreaterThan(100_000);
    expect(await countedRegistry(pool, schema).counts()).toEqual(before);
  });

  const range = ["tag", "release\u0001team/app\u0001", "release\u0001team/app\u0002", 100];
  const { get, page, names } = questionTexts(postgresDialect(schema));
  const { question, change } = commitTexts(schema);
  const conditions = ["a", "b", "c"].map((name) => ({ key: lease(name), is: "absent" }) as const);
  const required = conditionValues(conditions);
  const changes = [putLease("d"), { remove: lease("e") }];
  const values = [...required, ...changeValues(changes.map(rowOf)), 99];
  const statements: [string, string, unknown[]][] = [
    ["a record", get, ["tag", "release\u0001team/app\u0001v0"]],
    ["a page", page, range],
    ["the names of a page", names, [22, ...range]],
    ["a question", question, required],
    ["a commit", change, values],
  ];

  // Fresh tables have no statistics yet; those of a busy server have.
  for (const analyzed of [false, true]) {
    test.each(statements)(`%s is looked up in an index, ${analyzed ? "with" : "without"} statistics`, async (_, text, parameters) => {
      if (analyzed) await pool.query(`ANALYZE "${schema}".records, "${schema}".contents`);
      const { rows } = await pool.query(`EXPLAIN ${text}`, parameters);
      const plan = rows.map((row) => row["QUERY PLAN"]).join("\n");
      expect(plan).toMatch(/Index (?:Only )?Scan.* records/);
      expect(plan).not.toMatch(/Seq Scan on (?:records|contents)/);
    });
  }

  test("a page is read without the records around it", async () => {
    const { rows } = await pool.query(`EXPLAIN (ANALYZE, FORMAT JSON) ${page}`, range);
    const read = JSON.stringify(rows[0]).match(/"Actual Rows":\s*\d+/g) ?? [];
    expect(read.length).toBeGreaterThan(0);
    for (const count of read) expect(Number(/\d+/.exec(count)?.[0])).toBeLessThanOrEqual(100);
  });

  test("many locks find room in the server", async () => {
    const many = Array.from({ length: 90 }, (_, index) => {
      const keys = Array.from({ length: 60 }, (__, key) => putLease(`${index} ${key}`));
      return beginLocked(schema, [], keys);
    });
    const all = server.pool({ max: 90 });
    const clients = await Promise.all(many.map(() => all.connect()));
    await Promise.all(clients.map((client, index) => client.query(many[index] ?? "")));
    await Promise.all(clients.map((client) => client.query("ROLLBACK")));
    for (const client of clients) client.release();
  });
});
