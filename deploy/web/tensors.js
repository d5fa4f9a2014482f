// Raw little-endian numbers as typed arrays, and how far two of them are apart. No DOM.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array,
  int16: Int16Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};

/** A tensor {dtype, shape, data} of a raw file's bytes; float16 stays in bits. */
export function tensorOf({ dtype, shape }, bytes) {
  return { dtype, shape, data: new ARRAYS[dtype](bytes.slice().buffer) };
}

/** The numbers of a tensor as doubles. */
export function numbersOf({ dtype, data }) {
  if (dtype === 'float16' && data instanceof Uint16Array) return Float64Array.from(data, half);
  return Float64Array.from(data, Number);
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const part = bits & 1023;
  if (exponent === 31) return part ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + part / 1024) : 2 ** -14 * (part / 1024));
}

/** The first item of a batch. */
export function firstOf({ dtype, shape, data }) {
  const size = shape.slice(1).reduce((product, side) => product * side, 1);
  return { dtype, shape: [1, ...shape.slice(1)], data: data.slice(0, size) };
}

/**
 * The largest difference, as a fraction of the largest expected number; infinite where ours are no answer.
 * Infinity has to stand where it was expected.
 */
export function difference(ours, theirs) {
  if (ours.length !== theirs.length) return Infinity;
  let [scale, off, compared] = [1e-6, 0, 0];
  for (let i = 0; i < theirs.length; i++) {
    if (!Number.isFinite(theirs[i]) || !Number.isFinite(ours[i])) {
      if (!Object.is(ours[i], theirs[i]) || Number.isNaN(ours[i])) return Infinity;
      continue;
    }
    compared++;
    scale = Math.max(scale, Math.abs(theirs[i]));
    off = Math.max(off, Math.abs(ours[i] - theirs[i]));
  }
  return compared ? off / scale : Infinity;
}
