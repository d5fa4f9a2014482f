// Runs the core of deploy/web in Node: node web_core.mjs MODULES WHAT < job.json > answer.json
import { readFileSync, readdirSync, lstatSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [modules, what] = process.argv.slice(2);
const load = name => import(pathToFileURL(join(modules, name)));
const job = JSON.parse(readFileSync(0, 'utf8'));

/** The message of what is thrown; null: nothing is. */
async function refusal(act) {
  try {
    await act();
    return null;
  } catch (error) {
    return error.message;
  }
}

function filesOf(folder) {
  return {
    read: async path => new Uint8Array(readFileSync(join(folder, path))),
    list: () => readdirSync(folder, { recursive: true }).filter(path => !lstatSync(join(folder, path)).isDirectory()),
  };
}

/** A runtime that knows the answers of an untouched bundle, and no others. */
function recorded(folder) {
  const { golden, inputs, outputs } = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'));
  const answers = specs => Object.fromEntries(specs.map(spec => {
    const bytes = readFileSync(join(folder, spec.path));
    return [spec.name, { dtype: spec.dtype, shape: spec.shape, data: new Float32Array(new Uint8Array(bytes).buffer) }];
  }));
  return async () => ({
    name: 'recorded',
    version: '0',
    inputs,
    outputs,
    run: async feed => answers(Object.values(feed)[0].shape[0] === 1 ? golden.image.outputs : golden.outputs),
  });
}

const tasks = {
  async manifests({ texts, paths }) {
    const { readManifest, isPath } = await load('manifest.js');
    const messages = await Promise.all(texts.map(text => refusal(() => readManifest(new TextEncoder().encode(text)))));
    return { messages, paths: paths.map(isPath) };
  },
  async prepare(cases) {
    const { prepare } = await load('preparing.js');
    return cases.map(({ image, spec, size }) => Array.from(prepare(image, spec, size ?? undefined)));
  },
  async digests(sizes) {
    const { sha256, sha256Here } = await load('digest.js');
    const bytes = sizes.map(size => Uint8Array.from({ length: size }, (_, i) => (7 * i + size) % 256));
    return { fast: await Promise.all(bytes.map(sha256)), own: bytes.map(sha256Here) };
  },
  async check({ folders, untouched }) {
    const { EdgeModel } = await load('edge_model.js');
    const found = [];
    for (const folder of folders) {
      const report = {};
      const message = await refusal(() => EdgeModel.open({ files: filesOf(folder), start: recorded(untouched), report }));
      found.push({ message, report });
    }
    return found;
  },
  async difference(pairs) {
    const { difference } = await load('tensors.js');
    const number = value => (typeof value === 'string' ? Number(value) : value);
    return pairs.map(([ours, theirs]) => String(difference(ours.map(number), theirs.map(number))));
  },
  async halves(bits) {
    const { numbersOf } = await load('tensors.js');
    return Array.from(numbersOf({ dtype: 'float16', data: Uint16Array.from(bits) }), String);
  },
  async measured({ costs }) {
    const { measured } = await load('measuring.js');
    let runs = 0;
    const run = async () => { const end = performance.now() + (runs++ < 20 ? costs[0] : costs[1]); while (performance.now() < end); };
    return measured(run, 0.2);
  },
};

process.stdout.write(JSON.stringify(await tasks[what](job)));
