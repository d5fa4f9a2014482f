// An image of bytes as a model's input: the same numbers as in every other language. No DOM.

const LUMA = [19595, 38470, 7471]; // ITU-R BT.601, in 65,536ths

/**
 * One image as `spec` wants it: Float32Array with a batch of one, in double precision up to the last step.
 * @param {{data: ArrayLike<number>, height: number, width: number, channels: number}} image bytes, row by row
 * @param spec an input of the manifest, with preprocessing
 * @param size [height, width] in place of the input's own
 */
export function prepare(image, spec, size = spec.preprocessing.size) {
  const steps = spec.preprocessing;
  const planes = inColor(image, steps.color);
  const [height, width] = size;
  const found = new Float32Array(planes.length * height * width);
  planes.forEach((plane, channel) => {
    const numbers = resized(plane, [image.height, image.width], size, steps);
    const last = spec.layout === 'NHWC';
    const [start, step] = last ? [channel, planes.length] : [channel * height * width, 1];
    for (let i = 0; i < numbers.length; i++) {
      found[start + i * step] = (numbers[i] * steps.scale - steps.mean[channel]) / steps.std[channel];
    }
  });
  return found;
}

/** Planes of the wanted channels, as doubles; alpha is dropped. */
function inColor({ data, height, width, channels }, color) {
  const plane = channel => Float64Array.from({ length: height * width }, (_, i) => data[i * channels + channel]);
  const given = channels < 3 ? [plane(0)] : [plane(0), plane(1), plane(2)];
  if (color === 'gray') return [given.length === 1 ? given[0] : gray(given)];
  const planes = given.length === 1 ? [given[0], given[0], given[0]] : given;
  return color === 'BGR' ? planes.reverse() : planes;
}

const gray = ([red, green, blue]) =>
  red.map((value, i) => (value * LUMA[0] + green[i] * LUMA[1] + blue[i] * LUMA[2] + 32768) >> 16);

/** A plane of doubles in another size. */
function resized(plane, given, size, steps) {
  if (given[0] === size[0] && given[1] === size[1]) return plane;
  if (steps.resize === 'none') {
    throw new Error(`the image is ${given[0]} x ${given[1]}, the model takes ${size[0]} x ${size[1]}`);
  }
  let part = given;
  if (steps.resize === 'centre-crop') {
    const factor = Math.min(given[0] / size[0], given[1] / size[1]);
    part = [size[0] * factor, size[1] * factor];
  }
  const [rows, columns] = [0, 1].map(side => weights(given[side], part[side], size[side], steps.interpolation));
  const narrow = new Float64Array(given[0] * size[1]);
  for (let y = 0; y < given[0]; y++) {
    columns.forEach((column, x) => { narrow[y * size[1] + x] = weighed(plane, column, y * given[1], 1); });
  }
  const found = new Float64Array(size[0] * size[1]);
  rows.forEach((row, y) => {
    for (let x = 0; x < size[1]; x++) found[y * size[1] + x] = weighed(narrow, row, x, size[1]);
  });
  return found;
}

function weighed(values, { first, shares }, start, step) {
  let sum = 0;
  for (let i = 0; i < shares.length; i++) sum += values[start + (first + i) * step] * shares[i];
  return sum;
}

/** For each of `wanted` pixels, which span `part` in the middle of `whole`: its share of each pixel from `first` on. */
function weights(whole, part, wanted, interpolation) {
  const step = part / wanted;
  return Array.from({ length: wanted }, (_, index) => {
    const centre = (whole - part) / 2 + (index + 0.5) * step;
    return interpolation === 'nearest' ? nearest(centre, whole) : triangle(centre, whole, Math.max(step, 1));
  });
}

const nearest = (centre, whole) => ({ first: Math.min(Math.max(Math.floor(centre), 0), whole - 1), shares: [1] });

function triangle(centre, whole, reach) {
  const first = Math.max(0, Math.floor(centre - reach - 0.5));
  const last = Math.min(whole - 1, Math.ceil(centre + reach));
  const shares = [];
  for (let j = first; j <= last; j++) shares.push(Math.max(0, 1 - Math.abs(j + 0.5 - centre) / reach));
  const sum = shares.reduce((a, b) => a + b, 0);
  return { first, shares: shares.map(share => share / sum) };
}
