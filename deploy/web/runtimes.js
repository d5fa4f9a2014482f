// Opens a model in its runtime, from bytes that were proved whole; nothing is fetched. Needs a page: LiteRT.js does.

const ORT_ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int64: BigInt64Array, int32: Int32Array,
  int16: Int16Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};
const LITERT_DTYPES = ['float32', 'int32', 'uint8'];
const FOLDER = 'runtime/';

/** The address of a script's bytes. */
const addressOf = script => URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));

/** A session {name, version, inputs, outputs, run(feed)} of the manifest's model; `read(path)` gives bytes. */
export async function start(manifest, read) {
  const opened = { onnx: onnxRuntime, ort: onnxRuntime, litert: liteRt }[manifest.target];
  if (!opened) throw new Error(`target ${manifest.target} runs in no browser`);
  try {
    return await opened(manifest, read);
  } catch (error) {
    throw new Error(`${manifest.model_file} does not load: ${String(error?.message ?? error).slice(0, 300)}`);
  }
}

const libraries = {};
const specOf = ({ name, type, dtype = type, shape }) => ({ name, dtype, shape: [...shape] });
const namesOf = specs => specs.map(spec => spec.name);

async function loadedOrt(read) {
  const ort = await import(addressOf(read(`${FOLDER}ort.wasm.bundle.min.mjs`)));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = read(`${FOLDER}ort-wasm-simd-threaded.wasm`);
  return ort;
}

/** ONNX Runtime Web, one thread: several need a page of two more headers, and gain little on small models. */
async function onnxRuntime(manifest, read) {
  const ort = await (libraries.ort ??= loadedOrt(read));
  const session = await ort.InferenceSession.create(read(manifest.model_file), { executionProviders: ['wasm'] });
  const native = ({ dtype, shape, data }) => new ort.Tensor(dtype, new ORT_ARRAYS[dtype](data.buffer, data.byteOffset, data.length), shape);
  return {
    name: 'onnxruntime-web',
    version: ort.env.versions.web ?? ort.env.versions.common,
    inputs: session.inputMetadata.map(specOf),
    outputs: session.outputMetadata.map(specOf),
    close: () => session.release(),
    async run(feed) {
      const given = Object.entries(feed).map(([name, tensor]) => [name, native(tensor)]);
      const found = await session.run(Object.fromEntries(given));
      return Object.fromEntries(session.outputNames.map(name => {
        const { type, dims, data } = found[name];
        return [name, { dtype: type, shape: [...dims], data }];
      }));
    },
  };
}

async function loadedLiteRt(read) {
  const text = path => new TextDecoder().decode(read(FOLDER + path));
  const helper = addressOf(text('wasm-utils.js'));
  const core = text('litert.js').replace('"@litertjs/wasm-utils"', JSON.stringify(helper));
  const library = await import(addressOf(core));
  globalThis.Module = { wasmBinary: read(`${FOLDER}litert_wasm_compat_internal.wasm`) };
  await library.loadLiteRt(`${addressOf(text('litert_wasm_compat_internal.js'))}#.js`); // it looks at the ending
  return library;
}

/** LiteRT.js, one thread, without relaxed SIMD, whose numbers would depend on the processor. */
async function liteRt(manifest, read) {
  const { loadAndCompile, Tensor } = await (libraries.litert ??= loadedLiteRt(read));
  const model = await loadAndCompile(read(manifest.model_file), { accelerator: 'wasm' });
  const inputs = inOrder(manifest.inputs, model.getInputDetails());
  const outputs = inOrder(manifest.outputs, model.getOutputDetails());
  return {
    name: 'LiteRT.js',
    version: manifest.runtime.tested,
    inputs,
    outputs,
    close: async () => model.delete(),
    async run(feed) {
      const given = Object.fromEntries(namesOf(inputs).map(name => [name, native(feed[name], Tensor)]));
      const found = await model.run(given);
      const answers = await Promise.all(namesOf(outputs).map(async name => [name, await answerOf(found[name])]));
      [...Object.values(given), ...Object.values(found)].forEach(tensor => tensor.delete());
      return Object.fromEntries(answers);
    },
  };
}

/** A signature in the manifest's order, where the names are the same: LiteRT sorts them. */
function inOrder(specs, details) {
  const found = details.map(specOf);
  const sorted = specs.map(spec => found.find(one => one.name === spec.name));
  return found.length === sorted.length && sorted.every(Boolean) ? sorted : found;
}

function native({ dtype, shape, data }, Tensor) {
  if (!LITERT_DTYPES.includes(dtype)) throw new Error(`LiteRT.js takes no ${dtype}`);
  return new Tensor(data, shape);
}

async function answerOf(tensor) {
  const { dtype, layout } = tensor.type;
  return { dtype, shape: [...layout.dimensions], data: await tensor.data() };
}
