// Reads a bundle's manifest and refuses one that is malformed. No DOM, no runtime: any JavaScript engine runs it.

export const MANIFEST = 'manifest.json';
export const ITEM_BYTES = {
  float32: 4, float64: 8, float16: 2, int64: 8, int32: 4, int16: 2, int8: 1, uint8: 1, bool: 1,
};
const KIND = 'edgecompress.bundle';
const VERSION = 2;
const PATH = /^[A-Za-z0-9_][A-Za-z0-9_.+@=-]*(\/[A-Za-z0-9_][A-Za-z0-9_.+@=-]*)*$/;
const LONGEST_PATH = 200;
const MOST_FILES = 2000;
export const LARGEST_BYTES = 1 << 24;
const ROLES = ['model', 'golden', 'labels', 'runtime', 'code', 'text'];
const KINDS = ['logits', 'probabilities', 'classes', 'boxes', 'embedding', 'image', 'tensor'];
const COLORS = ['gray', 'RGB', 'BGR'];
const RESIZES = ['none', 'stretch', 'centre-crop'];
const INTERPOLATIONS = ['nearest', 'bilinear'];
const LAYOUTS = ['NCHW', 'NHWC'];

/** What is wrong with a bundle, in one line. */
export class BundleError extends Error {}

function refuse(what) {
  throw new BundleError(`${MANIFEST}: ${what}`);
}

function need(holds, what) {
  if (!holds) refuse(what);
}

const shown = value => (JSON.stringify(value) ?? String(value)).slice(0, 80);
const isObject = value => typeof value === 'object' && value !== null && !Array.isArray(value);
const isText = value => typeof value === 'string';
const isCount = value => Number.isSafeInteger(value) && value >= 0;
const isSize = value => Number.isSafeInteger(value) && value > 0;
const isSizes = value => Array.isArray(value) && value.length === 2 && value.every(isSize);
const same = (ours, theirs) => ours.length === theirs.length && ours.every((one, index) => one === theirs[index]);

/** Whether this is the path of a file in a bundle, which leaves it by no way. */
export function isPath(value) {
  return isText(value) && value.length <= LONGEST_PATH && !value.endsWith('\n') && PATH.test(value);
}

/** The bytes of a raw tensor. */
export const bytesOf = tensor => tensor.shape.reduce((product, size) => product * size, ITEM_BYTES[tensor.dtype]);

/**
 * The manifest in `bytes` (Uint8Array), whole and consistent.
 * @throws {BundleError} naming the field.
 */
export function readManifest(bytes) {
  need(bytes.length <= LARGEST_BYTES, `has more than ${LARGEST_BYTES} bytes, which no manifest needs`);
  let manifest;
  try {
    manifest = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    refuse(`not a JSON document (${error.message.slice(0, 100)})`);
  }
  need(isObject(manifest) && manifest.kind === KIND, `its kind is not ${KIND}`);
  need(manifest.version === VERSION, `version ${shown(manifest.version)} is not ${VERSION}; make the bundle again`);
  const files = checkFiles(manifest.files);
  checkFields(manifest, files);
  checkSides(manifest, files);
  checkImage(manifest, files);
  return manifest;
}

function checkFiles(entries) {
  need(Array.isArray(entries) && entries.length, 'files is no list of at least one');
  need(entries.length <= MOST_FILES, `files: lists more than ${MOST_FILES}`);
  const files = new Map();
  const seen = new Set();
  for (const entry of entries) {
    need(isObject(entry) && isPath(entry.path), `files: ${shown(entry?.path)} is not the path of a file in a bundle`);
    const { path } = entry;
    const lower = path.toLowerCase();
    need(lower !== MANIFEST, `files: lists ${MANIFEST} itself`);
    need(!seen.has(lower), `files: ${path} is listed twice`);
    need(isText(entry.sha256) && /^[0-9a-f]{64}$/.test(entry.sha256), `files: ${path} has no sha256`);
    need(isCount(entry.size_bytes), `files: ${path} has no size_bytes`);
    need(ROLES.includes(entry.role), `files: ${path} has no role`);
    seen.add(lower);
    files.set(path, entry);
  }
  for (const path of seen) {
    const parts = path.split('/');
    const inFile = parts.slice(1).some((_, index) => seen.has(parts.slice(0, index + 1).join('/')));
    need(!inFile, `files: ${path} lies in a file`);
  }
  return files;
}

function checkFields(manifest, files) {
  for (const key of ['platform', 'model', 'target', 'precision']) need(isText(manifest[key]), `${key} is no text`);
  need(isFraction(manifest.tolerance), `tolerance ${shown(manifest.tolerance)} is no fraction`);
  const own = manifest.model_file;
  need(isPath(own), `model_file ${shown(own)} is not the path of a file in a bundle`);
  const parts = [...files.values()].filter(file => file.path === own || file.path.startsWith(`${own}/`));
  need(parts.length && parts.every(file => file.role === 'model'), `model_file ${own} is no file with the role model`);
  if (manifest.runner !== null) checkRole(files, manifest.runner, 'code', 'runner');
  checkRuntime(manifest.runtime);
  need(isObject(manifest.licences), 'licences is no object');
  for (const key of ['model', 'runtime']) need(isTextOrNull(manifest.licences[key]), `licences: ${key} is no text`);
  need(isObject(manifest.verified), 'verified is no object');
  for (const key of ['compiled_with', 'run_on', 'not_run']) {
    const texts = manifest.verified[key];
    need(Array.isArray(texts) && texts.every(isText), `verified: ${key} is no list of texts`);
  }
}

const isTextOrNull = value => value === null || isText(value);
const isFraction = value => Number.isFinite(value) && value > 0 && value <= 1;

function checkRuntime(runtime) {
  need(isObject(runtime) && isText(runtime.name), 'runtime has no name');
  for (const key of ['minimum', 'tested', 'source']) need(isTextOrNull(runtime[key]), `runtime: ${key} is no text`);
  for (const key of ['library_bytes', 'library_bytes_compressed']) {
    need(runtime[key] === null || isCount(runtime[key]), `runtime: ${key} is no size`);
  }
}

function checkRole(files, path, role, what) {
  need(isPath(path) && files.get(path)?.role === role, `${what}: ${shown(path)} is no file with the role ${role}`);
}

function checkSpec(spec, what) {
  need(isObject(spec) && isText(spec.name), `${what}: one has no name`);
  need(Object.hasOwn(ITEM_BYTES, spec.dtype), `${what}: dtype ${shown(spec.dtype)} is not known`);
  const sizes = Array.isArray(spec.shape) && spec.shape.every(size => isText(size) || isSize(size));
  need(sizes, `${what}: shape ${shown(spec.shape)} is no list of sizes, or names of sizes`);
}

function checkTensor(tensor, files, what) {
  checkSpec(tensor, what);
  need(tensor.shape.every(isSize), `${what}: shape ${shown(tensor.shape)} has a free size`);
  checkRole(files, tensor.path, 'golden', what);
  const size = files.get(tensor.path).size_bytes;
  need(size === bytesOf(tensor), `${what}: ${tensor.path} has ${size} bytes in files, ${bytesOf(tensor)} by its shape`);
}

function checkSides(manifest, files) {
  need(isObject(manifest.golden), 'golden is no object with inputs and outputs');
  for (const side of ['inputs', 'outputs']) {
    const specs = manifest[side];
    need(Array.isArray(specs) && specs.length, `${side} is no list of at least one`);
    for (const spec of specs) checkSpec(spec, side);
    need(new Set(specs.map(spec => spec.name)).size === specs.length, `${side} has a name twice`);
    const tensors = manifest.golden[side];
    need(Array.isArray(tensors) && tensors.length, `golden: ${side} is no list of at least one`);
    checkLike(tensors, specs, files, `golden: ${side}`);
  }
  for (const spec of manifest.inputs) checkInput(spec);
  for (const spec of manifest.outputs) {
    need(KINDS.includes(spec.kind), `outputs: kind ${shown(spec.kind)} is not known`);
    if (spec.labels !== null) checkRole(files, spec.labels, 'labels', 'outputs: labels');
  }
}

/** Golden tensors are those of the model, in its order. */
function checkLike(tensors, specs, files, what) {
  for (const tensor of tensors) checkTensor(tensor, files, what);
  need(same(tensors.map(one => one.name), specs.map(one => one.name)), `${what} are not those of the model`);
  tensors.forEach((tensor, index) => need(fits(tensor, specs[index]), `${what}: ${tensor.name} has not the dtype and shape of the model`));
}

const fits = (tensor, spec) =>
  tensor.dtype === spec.dtype &&
  tensor.shape.length === spec.shape.length &&
  spec.shape.every((size, axis) => isText(size) || size === tensor.shape[axis]);

function checkInput(spec) {
  const { layout, preprocessing } = spec;
  need(layout === null || LAYOUTS.includes(layout), `inputs: layout ${shown(layout)} is not known`);
  if (preprocessing === null) return;
  need(isObject(preprocessing), 'inputs: preprocessing is no object');
  checkSteps(preprocessing);
  need(LAYOUTS.includes(layout) && spec.dtype === 'float32', 'inputs: preprocessing without float32 and a layout');
  const wanted = preparedShape(spec, preprocessing.size);
  const fitting = spec.shape.length === 4 && spec.shape.slice(1).every((size, axis) => isText(size) || size === wanted[axis + 1]);
  need(fitting, 'inputs: shape has not the size and channels of its preprocessing');
}

function checkSteps(steps) {
  const choices = { color: COLORS, resize: RESIZES, interpolation: INTERPOLATIONS };
  for (const [key, known] of Object.entries(choices)) {
    need(known.includes(steps[key]), `preprocessing: ${key} ${shown(steps[key])} is none of ${known.join(', ')}`);
  }
  need(isSizes(steps.size), `preprocessing: size ${shown(steps.size)} is not height and width`);
  need(Number.isFinite(steps.scale) && steps.scale !== 0, `preprocessing: scale ${shown(steps.scale)} is no finite number but 0`);
  for (const key of ['mean', 'std']) {
    const numbers = Array.isArray(steps[key]) && steps[key].every(Number.isFinite);
    need(numbers && steps[key].length === channelsOf(steps), `preprocessing: ${key} has not a number for each channel`);
  }
  need(steps.std.every(one => one !== 0), 'preprocessing: std is 0');
}

/** Of an input that takes images: one of gray, else three. */
export const channelsOf = steps => (steps.color === 'gray' ? 1 : 3);

/** The shape of one image that was prepared for an input, with a height and width. */
export const preparedShape = (spec, size) =>
  spec.layout === 'NHWC' ? [1, ...size, channelsOf(spec.preprocessing)] : [1, channelsOf(spec.preprocessing), ...size];

function checkImage(manifest, files) {
  const { image } = manifest.golden;
  if (image === null) return;
  const taking = manifest.inputs[0];
  need(isObject(image), 'image is no object');
  need(taking.preprocessing !== null, 'image: the first input has no preprocessing');
  need(isFraction(image.tolerance), `image: tolerance ${shown(image.tolerance)} is no fraction`);
  need(isCount(image.png_tolerance), `image: png_tolerance ${shown(image.png_tolerance)} is no whole number`);
  checkRole(files, image.png, 'golden', 'image: png');
  checkPair(image, taking, taking.preprocessing.size, files);
  const { pixels } = image;
  need(same(pixels.shape.slice(0, 2), taking.preprocessing.size), 'image: pixels have not the size of the input');
  need(Array.isArray(image.outputs), 'image: outputs is no list');
  if (image.outputs.length) checkLike(image.outputs, manifest.outputs, files, 'image: outputs');
  if (image.resized === null) return;
  need(isObject(image.resized) && isSizes(image.resized.size), 'image: resized has no size of height and width');
  checkPair(image.resized, taking, image.resized.size, files);
}

/** Pixels, and what preprocessing makes of them. */
function checkPair(pair, taking, size, files) {
  checkTensor(pair.pixels, files, 'image: pixels');
  checkTensor(pair.prepared, files, 'image: prepared');
  const { pixels, prepared } = pair;
  const bytes = pixels.dtype === 'uint8' && pixels.shape.length === 3;
  need(bytes && pixels.shape[2] === channelsOf(taking.preprocessing), 'image: pixels are not bytes of the channels of the input');
  const wanted = preparedShape(taking, size);
  need(prepared.dtype === 'float32' && same(prepared.shape, wanted), 'image: prepared has not the shape of the input');
}
