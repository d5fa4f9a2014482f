// The model of a bundle: checked first, then asked. No DOM; files, runtime and image decoder come from outside.
import { BundleError, MANIFEST, readManifest } from './manifest.js';
import { prepare } from './preparing.js';
import { sha256 } from './digest.js';
import { difference, firstOf, numbersOf, tensorOf } from './tensors.js';

const LEFT_BEHIND = ['__pycache__', '.DS_Store', 'Thumbs.db', 'desktop.ini'];
const small = number => (number ? number.toExponential(1) : '0');

/**
 * A model that answers only after everything in its bundle was found whole and its golden answers came out.
 *
 *     const model = await EdgeModel.open({ files, start, decode });
 *     const answers = await model.ask({ data, height, width, channels });
 *
 * `files` has read(path), a Uint8Array or an error, and may have list(), the paths of all files that are there;
 * `start(manifest, read)` opens the model in a runtime: {name, version, inputs, outputs, run(feed)} with tensors
 * {dtype, shape, data} by name, inputs and outputs as {name, dtype, shape}; `decode(bytes)`, if given, turns the golden PNG into pixels as the app's own decoder
 * does; `report`, if given, is filled while the check proceeds.
 */
export class EdgeModel {
  /** @throws {BundleError} naming the first thing that is wrong. */
  static async open({ files, start, decode = null, report = {} }) {
    const model = new EdgeModel();
    Object.assign(report, { kind: 'edgecompress.web_report', version: 1, ok: false, verdict: '', checks: [] });
    model.report = report;
    try {
      await model.#check(files, start, decode);
      report.ok = true;
      report.verdict = 'ok: every file is whole, and the model answers here as it did in PyTorch';
    } catch (error) {
      report.verdict = `refused: ${error.message}`;
      throw error;
    }
    return model;
  }

  async #check(files, start, decode) {
    this.manifest = readManifest(await read(files, MANIFEST));
    const { model, target, precision, tolerance } = this.manifest;
    Object.assign(this.report, { model, target, precision, tolerance });
    this.#passed('manifest', 'every field is there, and they fit');
    this.contents = await wholeFiles(this.manifest, files);
    const names = this.manifest.files.map(file => file.path);
    this.#passed('files', `${names.length} files are whole (SHA-256)${files.list ? ', and no other is there' : ''}`);
    const began = performance.now();
    this.session = await start(this.manifest, path => this.#bytes(path));
    this.report.load_ms = performance.now() - began;
    this.report.runtime = { name: this.session.name, version: this.session.version };
    checkSignature(this.manifest, this.session);
    await this.#checkGolden();
    await this.#checkImage(decode);
    this.labels = this.#labels();
  }

  #passed(name, detail) {
    this.report.checks.push({ name, detail });
  }

  #bytes(path) {
    const found = this.contents.get(path);
    if (!found) throw new BundleError(`${path} is not listed in ${MANIFEST}`);
    return found;
  }

  #tensor(spec) {
    const tensor = tensorOf(spec, this.#bytes(spec.path));
    if (numbersOf(tensor).some(Number.isNaN)) throw new BundleError(`${spec.path} holds NaN, which proves nothing`);
    return tensor;
  }

  async #checkGolden() {
    const { inputs, outputs } = this.manifest.golden;
    const feed = Object.fromEntries(inputs.map(spec => [spec.name, this.#tensor(spec)]));
    const expected = outputs.map(spec => this.#tensor(spec));
    const began = performance.now();
    const found = await this.session.run(feed);
    this.report.first_run_ms = performance.now() - began;
    const error = this.#error(outputs, expected, found, 'the golden pair');
    this.report.golden = 'ok';
    this.report.max_relative_error = error;
    this.#passed('golden pair', `off by ${small(error)} of the largest answer, ${small(this.manifest.tolerance)} is allowed`);
    this.feed = this.#once(feed);
  }

  /** One input of each kind, where the model takes batches of any size. */
  #once(feed) {
    const free = spec => typeof spec.shape[0] === 'string';
    return Object.fromEntries(this.manifest.inputs.map(spec => [spec.name, free(spec) ? firstOf(feed[spec.name]) : feed[spec.name]]));
  }

  /** The worst error of several outputs. */
  #error(specs, expected, found, what) {
    const errors = specs.map((spec, index) => difference(numbersOf(found[spec.name]), numbersOf(expected[index])));
    const worst = Math.max(...errors);
    if (!(worst <= this.manifest.tolerance)) {
      const off = Number.isFinite(worst) ? `differs by ${small(worst)} of the largest answer` : 'gives NaN, infinity or another shape';
      throw new BundleError(`${what} ${off} (allowed ${small(this.manifest.tolerance)})`);
    }
    return worst;
  }

  async #checkImage(decode) {
    const { image } = this.manifest.golden;
    this.report.image_error = null;
    if (!image) return;
    this.report.image_error = Math.max(this.#prepared(image), image.resized ? this.#prepared(image.resized, image.tolerance) : 0);
    if (image.outputs.length) {
      const feed = { [this.manifest.inputs[0].name]: this.#imageTensor(this.#pixels(image.pixels)) };
      const expected = image.outputs.map(spec => this.#tensor(spec));
      this.#error(image.outputs, expected, await this.session.run(feed), "the golden image's answer");
    }
    this.#passed('golden image', `prepared with an error of ${small(this.report.image_error)}, and answered as expected`);
    if (decode) await this.#checkDecoder(decode, image);
  }

  #pixels(spec) {
    const [height, width, channels] = spec.shape;
    return { data: this.#bytes(spec.path), height, width, channels };
  }

  #prepared(pair, tolerance = pair.tolerance) {
    const ours = prepare(this.#pixels(pair.pixels), this.manifest.inputs[0], pair.size);
    const error = difference(ours, numbersOf(this.#tensor(pair.prepared)));
    if (error <= tolerance) return error;
    throw new BundleError(`the golden image is prepared with an error of ${small(error)} (allowed ${small(tolerance)})`);
  }

  async #checkDecoder(decode, image) {
    const ours = await decode(this.#bytes(image.png));
    const [height, width, channels] = image.pixels.shape;
    const theirs = this.#bytes(image.pixels.path);
    let worst = ours.height === height && ours.width === width ? 0 : 255;
    for (let i = 0; worst < 255 && i < height * width; i++) {
      for (let channel = 0; channel < channels; channel++) {
        const off = Math.abs(ours.data[i * ours.channels + channel] - theirs[i * channels + channel]);
        worst = Math.max(worst, off);
      }
    }
    this.report.png_error = worst;
    if (worst > image.png_tolerance) {
      throw new BundleError(`the golden image ${image.png} is decoded here with bytes off by ${worst} (allowed ${image.png_tolerance})`);
    }
    this.#passed('golden PNG', `decoded here with bytes off by at most ${worst}, ${image.png_tolerance} is allowed`);
  }

  #labels() {
    const path = this.manifest.outputs[0].labels;
    return path === null ? [] : new TextDecoder().decode(this.#bytes(path)).split('\n').filter(Boolean);
  }

  #imageTensor(image) {
    const spec = this.manifest.inputs[0];
    const { preprocessing, layout } = spec;
    const channels = preprocessing.mean.length;
    const shape = layout === 'NHWC' ? [1, ...preprocessing.size, channels] : [1, channels, ...preprocessing.size];
    return { dtype: 'float32', shape, data: prepare(image, spec) };
  }

  /** Whether it takes images, one at a time. */
  get takesImages() {
    const [spec, ...more] = this.manifest.inputs;
    return !more.length && spec.preprocessing !== null && (typeof spec.shape[0] === 'string' || spec.shape[0] === 1);
  }

  /** What the model answers for an image of bytes: its outputs by name, and for scores of classes the ranked ones. */
  async ask(image) {
    if (!this.takesImages) throw new BundleError('the model takes no images, one at a time');
    const tensor = this.#imageTensor(image);
    const began = performance.now();
    const outputs = await this.run({ [this.manifest.inputs[0].name]: tensor });
    return { outputs, tensor, ms: performance.now() - began, ranked: this.#ranked(outputs) };
  }

  /** All outputs for tensors by name. */
  async run(feed) {
    const outputs = await this.session.run(feed);
    for (const spec of this.manifest.outputs) {
      if (numbersOf(outputs[spec.name]).some(Number.isNaN)) throw new BundleError(`the answer ${spec.name} holds NaN`);
    }
    return outputs;
  }

  /** Classes of the first output from the likeliest on, as {index, label, share}; null where it has no scores. */
  #ranked(outputs) {
    const [spec] = this.manifest.outputs;
    if (!['logits', 'probabilities'].includes(spec.kind)) return null;
    const scores = numbersOf(outputs[spec.name]);
    const shares = spec.kind === 'logits' ? softmax(scores) : scores;
    const named = Array.from(shares, (share, index) => ({ index, label: this.labels[index] ?? `class ${index}`, share }));
    return named.sort((a, b) => b.share - a.share);
  }
}

function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = scores.map(score => Math.exp(score - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map(power => power / sum);
}

async function read(files, path) {
  try {
    return await files.read(path);
  } catch (error) {
    throw new BundleError(`${path} is missing or cannot be read (${error.message}); copy the whole bundle`);
  }
}

/** The bytes of all files by path, once each is whole and no other is there. */
async function wholeFiles(manifest, files) {
  const listed = new Set(manifest.files.map(file => file.path));
  for (const path of files.list ? await files.list() : []) {
    const left = path.split('/').some(part => LEFT_BEHIND.includes(part));
    if (path !== MANIFEST && !listed.has(path) && !left) throw new BundleError(`${path} is not listed in ${MANIFEST}; move it elsewhere`);
  }
  const contents = new Map();
  for (const { path, size_bytes: size, sha256: digest } of manifest.files) {
    const bytes = await read(files, path);
    if (bytes.length !== size || (await sha256(bytes)) !== digest) {
      throw new BundleError(`${path} was changed or damaged: its size or sha256 differs from the manifest's`);
    }
    contents.set(path, bytes);
  }
  return contents;
}

/** The manifest declares the model's own inputs and outputs, all of them, in order. */
function checkSignature(manifest, session) {
  const sizes = shape => shape.map(size => (Number.isInteger(size) && size > 0 ? size : '?'));
  const words = specs => specs.map(({ name, dtype, shape }) => `${name} ${dtype} ${sizes(shape).join(' x ')}`).join(', ');
  for (const side of ['inputs', 'outputs']) {
    const [ours, theirs] = [words(session[side]), words(manifest[side])];
    if (ours !== theirs) throw new BundleError(`${MANIFEST}: its ${side} (${theirs}) are not the ${side} of the model (${ours})`);
  }
}
