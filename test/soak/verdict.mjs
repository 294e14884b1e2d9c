/** What may be more at the end than at the beginning, and by how much. Files and handles by a few, since a connection to the upstream may be kept or not. */
const limits = {
  "open files": 3,
  handles: 3,
  "heap, MB": 4,
  "outside of the heap, MB": 4,
  // Beside those: SQLite, threads, and what the allocator keeps in between.
  "resident memory, MB": 16,
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
 * Compares the beginning with the end: the medians of the first and of the last third, since single samples vary.
 * @param samples of rounds that all did the same, at rest.
 */
export function verdict(samples) {
  const third = Math.max(1, Math.floor(samples.length / 3));
  const rows = samples.map(measured);
  return Object.entries(limits).map(([what, limit]) => {
    const values = rows.map((row) => row[what]);
    const [before, after] = [median(values.slice(0, third)), median(values.slice(-third))];
    return { what, before, after, growth: after - before, limit, flat: after - before <= limit };
  });
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) / 2)];
}
