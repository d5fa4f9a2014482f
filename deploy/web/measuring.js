// How long a model takes: blocks long enough for a browser's coarse clock. No DOM.

export const BLOCK_MS = 20;
const MOST_IN_BLOCK = 1 << 16;

/** How many runs fill a block of at least BLOCK_MS, by trying. */
export async function runsInBlock(run) {
  for (let count = 1; ; count *= 2) {
    const times = [await block(run, count), await block(run, count), await block(run, count)];
    if (Math.min(...times) * count >= BLOCK_MS || count >= MOST_IN_BLOCK) return count; // one may have been disturbed
  }
}

/** The mean milliseconds of `count` runs in a row. */
export async function block(run, count) {
  const began = performance.now();
  for (let i = 0; i < count; i++) await run();
  return (performance.now() - began) / count;
}

/** The step of the clock, in milliseconds: the least difference between two readings. */
export function clockStep() {
  let least = Infinity;
  for (let turn = 0; turn < 20; turn++) {
    const began = performance.now();
    let now = began;
    while (now === began) now = performance.now();
    least = Math.min(least, now - began);
  }
  return least;
}

/** Middle of the sorted numbers. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/**
 * Milliseconds of one run, by blocks, the first fifth of which warms up: {median_ms, p90_ms, min_ms, ...}.
 * `pause` is awaited between blocks, so that a page stays alive.
 */
export async function measured(run, seconds, pause = async () => {}) {
  let count = await runsInBlock(run);
  let times = [];
  let end = performance.now() + seconds * 1000;
  while (times.length < 10 || performance.now() < end) {
    const time = await block(run, count);
    if (time * count < BLOCK_MS && count < MOST_IN_BLOCK) {
      count *= 2; // the processor, or the engine's compiler, got faster meanwhile
      times = [];
      end = performance.now() + seconds * 1000;
    } else {
      times.push(time);
    }
    await pause();
  }
  const kept = times.slice(Math.floor(times.length / 5)).sort((a, b) => a - b);
  return {
    median_ms: median(kept),
    p90_ms: kept[Math.floor(0.9 * (kept.length - 1))],
    min_ms: kept[0],
    blocks: kept.length,
    runs_in_block: count,
  };
}
