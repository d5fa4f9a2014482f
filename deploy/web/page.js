// The page: where files come from, what is shown, what is asked. The model itself is in edge_model.js.
import { EdgeModel } from './edge_model.js';
import { clockStep, measured } from './measuring.js';
import { start } from './runtimes.js';

const SECONDS = 2;
const SHOWN = 5;
const report = {};
const $ = id => document.getElementById(id);

// -- files -------------------------------------------------------------------------------------------------------

/** From beside this page. */
const served = {
  async read(path) {
    const answer = await fetch(path, { cache: 'no-cache' });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    return new Uint8Array(await answer.arrayBuffer());
  },
};

/** From this page itself: gzip in base64, one element for each file. */
function embedded(elements) {
  const files = new Map(elements.map(element => [element.dataset.path, element]));
  return {
    list: () => [...files.keys()],
    async read(path) {
      if (!files.has(path)) throw new Error('not in this page');
      const packed = Uint8Array.from(atob(files.get(path).textContent), byte => byte.charCodeAt(0));
      const whole = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
      return new Uint8Array(await new Response(whole).arrayBuffer());
    },
  };
}

// -- images ------------------------------------------------------------------------------------------------------

/** An image file as bytes of red, green, blue and alpha, by the browser's decoder, without colour management. */
async function decoded(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none', premultiplyAlpha: 'none' });
  const { width, height } = bitmap;
  const canvas = document.createElement('canvas');
  Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: context.getImageData(0, 0, width, height).data, width, height, channels: 4 };
}

const decodedPng = bytes => decoded(new Blob([bytes], { type: 'image/png' }));

/** The prepared image as the model sees it, back in bytes. */
function showSeen({ data, shape }, spec) {
  const { mean, std, scale, color, size: [height, width] } = spec.preprocessing;
  const pixels = new ImageData(width, height);
  const at = (i, channel) => data[spec.layout === 'NHWC' ? i * mean.length + channel : channel * height * width + i];
  for (let i = 0; i < height * width; i++) {
    for (let k = 0; k < 3; k++) {
      const channel = mean.length === 1 ? 0 : color === 'BGR' ? 2 - k : k;
      pixels.data[4 * i + k] = (at(i, channel) * std[channel] + mean[channel]) / scale;
    }
    pixels.data[4 * i + 3] = 255;
  }
  Object.assign($('seen'), { width, height });
  $('seen').getContext('2d').putImageData(pixels, 0, 0);
  $('seen-size').textContent = `${shape.slice(1).join(' × ')}, as the model sees it`;
}

// -- what is shown -----------------------------------------------------------------------------------------------

const counted = number => number.toLocaleString('en-US');
const milliseconds = number => number.toLocaleString('en-US', { maximumSignificantDigits: 3 });
const bytesText = size => (size === null ? 'not known' : counted(size));

function element(tag, text, className = '') {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function showVerdict() {
  $('verdict').textContent = report.ok ? 'Every file is whole, and the model answers here as it did in PyTorch.' : report.verdict;
  $('verdict').className = `verdict ${report.ok ? 'ok' : 'bad'}`;
  $('checks').replaceChildren(...report.checks.map(({ name, detail }) => {
    const row = element('li', '', 'ok');
    row.append(element('strong', name), ` ${detail}`);
    return row;
  }));
  if (!report.ok) $('checks').append(element('li', report.verdict, 'bad'));
}

function showReport() {
  $('report').textContent = JSON.stringify(report, null, 2);
  $('copy').disabled = $('save').disabled = false;
}

function showModel({ manifest }) {
  const { model, target, precision, licences, runtime } = manifest;
  document.title = `${model} · model check`;
  $('title').textContent = model;
  const library = `${report.runtime.name} ${report.runtime.version}`;
  const facts = [target, precision, library, licences.model].filter(Boolean);
  $('facts').replaceChildren(...facts.flatMap((fact, index) => [index ? ' · ' : '', element('span', fact, 'fact')]));
  const own = manifest.files.filter(file => file.role === 'model').reduce((sum, file) => sum + file.size_bytes, 0);
  const rows = [['the model', own, null], [library, runtime.library_bytes, runtime.library_bytes_compressed]];
  $('sizes').replaceChildren(...rows.map(([name, size, packed]) => {
    const row = element('tr', '');
    const head = element('th', name);
    head.scope = 'row';
    row.append(head, element('td', bytesText(size)), element('td', packed === null ? '' : bytesText(packed)));
    return row;
  }));
  const times = runtime.library_bytes === null ? '' : `The runtime takes ${counted(Number((runtime.library_bytes / own).toPrecision(3)))} times the bytes of the model. `;
  $('weight-detail').textContent = `${times}${runtime.source ?? ''}`;
  for (const id of ['weight', 'speed']) $(id).hidden = false;
}

function showAnswer(model, { outputs, tensor, ms, ranked }) {
  showSeen(tensor, model.manifest.inputs[0]);
  const rows = ranked ? ranked.slice(0, SHOWN).map(shareRow) : model.manifest.outputs.map(spec => numbersRow(spec, outputs[spec.name]));
  $('labels').replaceChildren(...rows);
  $('answer-ms').textContent = `This one answer took ${milliseconds(ms)} ms, preparing the image included.`;
  $('answer').hidden = false;
}

function percent(share) {
  if (share > 0 && share < 0.0005) return '< 0.1 %';
  return share < 1 && share >= 0.9995 ? '> 99.9 %' : `${(100 * share).toFixed(1)} %`;
}

function shareRow({ label, share }) {
  const row = element('li', '', 'share');
  const bar = element('span', '', 'bar');
  bar.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  const track = element('span', '', 'track');
  track.append(bar);
  track.setAttribute('aria-hidden', 'true');
  row.append(element('span', label, 'label'), track, element('span', percent(share), 'percent'));
  return row;
}

function numbersRow(spec, { shape, data }) {
  const first = Array.from(data.slice(0, 8), number => Number(number).toPrecision(4)).join(', ');
  return element('li', `${spec.name} (${spec.kind}, ${shape.join(' × ')}): ${first}${data.length > 8 ? ' …' : ''}`);
}

function problem(text) {
  $('labels').replaceChildren(element('li', text, 'bad'));
  $('answer-ms').textContent = '';
  $('answer').hidden = false;
}

// -- asking ------------------------------------------------------------------------------------------------------

async function ask(model, file) {
  let image;
  try {
    image = await decoded(file);
  } catch {
    problem(`${file.name ?? 'this'}: is no image that this browser can read`);
    return;
  }
  const clear = image.data.some((byte, index) => index % 4 === 3 && byte < 255);
  try {
    const found = await model.ask(image);
    showAnswer(model, found);
    if (clear) $('answer-ms').textContent += ' The image has transparent parts, whose colours a browser does not keep.';
    report.answer = found.ranked?.slice(0, SHOWN) ?? null;
    showReport();
  } catch (error) {
    problem(error.message);
  }
}

function listen(model) {
  $('asking').hidden = !model.takesImages;
  $('no-images').hidden = model.takesImages;
  const inputs = model.manifest.inputs.map(({ name, dtype, shape }) => `${name}: ${dtype}, ${shape.join(' × ')}`);
  $('inputs').textContent = `Inputs: ${inputs.join('; ')}.`;
  const given = list => list?.[0] && ask(model, list[0]);
  $('file').addEventListener('change', event => given(event.target.files));
  document.addEventListener('paste', event => given(event.clipboardData?.files));
  for (const kind of ['dragover', 'dragleave', 'drop']) {
    document.addEventListener(kind, event => {
      event.preventDefault();
      $('drop').classList.toggle('over', kind === 'dragover');
      if (kind === 'drop') given(event.dataTransfer.files);
    });
  }
  const { image } = model.manifest.golden;
  $('example').hidden = !image;
  $('example').addEventListener('click', () => ask(model, new Blob([model.contents.get(image.png)], { type: 'image/png' })));
}

// -- measuring ---------------------------------------------------------------------------------------------------

async function measure(model) {
  $('again').disabled = true;
  $('unit').textContent = 'measuring';
  const pause = () => new Promise(resolve => setTimeout(resolve));
  const found = await measured(() => model.session.run(model.feed), SECONDS, pause);
  report.latency = { unit: 'ms', ...found, batch: batchOf(model), threads: 1, clock_step_ms: clockStep() };
  $('median').textContent = milliseconds(found.median_ms);
  $('unit').textContent = `ms, median of ${counted(found.blocks)} blocks of ${counted(found.runs_in_block)} runs`;
  const { name, version } = report.runtime;
  $('speed-detail').textContent =
    `90th percentile ${milliseconds(found.p90_ms)} ms, least ${milliseconds(found.min_ms)} ms; batch ${report.latency.batch}, ` +
    `one thread, ${name} ${version}; loading took ${milliseconds(report.load_ms)} ms, the first run ${milliseconds(report.first_run_ms)} ms. ` +
    'Measured in this browser on this device, by the golden input.';
  showReport();
  $('again').disabled = false;
}

const batchOf = model => Object.values(model.feed)[0].shape[0] ?? 1;

function whereabouts() {
  const brands = navigator.userAgentData?.brands.filter(({ brand }) => !/not.a.brand/i.test(brand)) ?? [];
  return {
    browser: brands.map(({ brand, version }) => `${brand} ${version}`).join(', ') || null,
    user_agent: navigator.userAgent,
    platform: navigator.userAgentData?.platform ?? navigator.platform,
    cores: navigator.hardwareConcurrency ?? null,
    secure_context: isSecureContext,
    cross_origin_isolated: crossOriginIsolated,
    protocol: location.protocol,
  };
}

// -- the report --------------------------------------------------------------------------------------------------

function listenToReport() {
  const text = () => JSON.stringify(report, null, 2);
  $('copy').addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text());
      $('copied').textContent = 'copied';
    } catch {
      $('copied').textContent = 'this browser does not let the page copy; save it';
    }
  });
  $('save').addEventListener('click', () => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text()], { type: 'application/json' }));
    link.download = `${report.model}.report.json`;
    link.click();
  });
}

async function keepOffline() {
  if (location.protocol === 'file:') return;
  if (!('serviceWorker' in navigator)) {
    $('offline').textContent = 'This address is plain http of another machine, where browsers keep no page for offline use.';
    return;
  }
  try {
    await navigator.serviceWorker.register('sw.js');
    const { waiting } = await navigator.serviceWorker.ready;
    $('offline').textContent = waiting
      ? 'A newer version of this page is ready; it is used once all its tabs were closed.'
      : 'This page works without a network from now on.';
    document.documentElement.dataset.offline = 'ready';
  } catch (error) {
    $('offline').textContent = `This page does not work without a network here (${error.message}).`;
  }
}

async function run() {
  listenToReport();
  report.where = whereabouts();
  const elements = [...document.querySelectorAll('script[data-path]')];
  const files = elements.length ? embedded(elements) : served;
  try {
    const model = await EdgeModel.open({ files, start, decode: decodedPng, report });
    window.edgeModel = model;
    showModel(model);
    listen(model);
    showVerdict();
    await measure(model);
  } catch (error) {
    report.ok = false;
    if (!report.verdict.startsWith('refused')) report.verdict = `refused: ${error.message}`;
    showVerdict();
  }
  showReport();
  window.edgeReport = report;
  document.documentElement.dataset.state = report.ok ? 'ok' : 'refused';
  if (report.ok) await keepOffline();
}

run();
