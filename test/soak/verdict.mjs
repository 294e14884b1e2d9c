/** What may be more at the end than at the beginning, and by how much. Files and handles by a few, since a connection to the upstream may be kept or not. */
const limits = {
  "open files": { most: 3, of: median },
  handles: { most: 3, of: median },
  "heap, MB": { most: 4, of: median },
  "outside of the heap, MB": { most: 4, of: median },
  // Beside those: SQLite and threads, and what V8 and the allocator keep in between, some 30 MB more or less from round to round. The least says what is held: a leak raises it too.
  "resident memory, MB": { most: 24, of: (values) => Math.min(...values) },
};

const megabytes = (bytes) => bytes / 1e6;
const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);

/** The numbers of a sample that have to stay flat. */
export function measured({ files, handles, memory }) {
  return {
    "open files": sum(files),
    handles: sum(handles),
    "heap, MB": megabytes(memory.heapUsed),
    "outside of the heap, MB": megabytes(memory.external),
    "resident memory, MB": megabytes(memory.rss),
  };
}

/**
 * Compares the first third of the samples with the last, since single samples vary.
 * @param samples of rounds that all did the same, at rest.
 */
export function verdict(samples) {
  const third = Math.max(1, Math.floor(samples.length / 3));
  const rows = samples.map(measured);
  return Object.entries(limits).map(([what, { most: limit, of }]) => {
    const values = rows.map((row) => row[what]);
    const [before, after] = [of(values.slice(0, third)), of(values.slice(-third))];
    return { what, before, after, growth: after - before, limit, flat: after - before <= limit };
  });
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)];
}
