// Measures one model, or two in turns, in this browser, by job.json; posts one JSON object to whoever serves it.
import { block, clockStep, median, runsInBlock, BLOCK_MS } from './measuring.js';
import { start } from './runtimes.js';
import { tensorOf } from './tensors.js';

const FEWEST_BLOCKS = 4;
const WARM_UP_MS = 500;
const SETTLED = 0.05;
const kept = new Map();

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** One model, loaded several times; `blocks` are mean milliseconds of a run. */
class Subject {
  constructor(job, model) {
    Object.assign(this, { job, model, blocks: [], loads: [], settled: [], load: -1, count: 1 });
    this.feed = Object.fromEntries(model.inputs.map(spec => [spec.name, tensorOf(spec, kept.get(spec.path))]));
  }

  async open() {
    await this.session?.close();
    const { target, runtime } = this.job;
    const began = performance.now();
    this.session = await start({ target, runtime, ...this.model }, path => kept.get(path));
    this.load_ms = performance.now() - began;
    this.load += 1;
    const first = performance.now();
    await this.run();
    this.first_run_ms = performance.now() - first;
  }

  run = () => this.session.run(this.feed);

  /** Until three blocks in a row agree, or time is over. */
  async warmUp() {
    const end = performance.now() + WARM_UP_MS * (this.load ? 1 : 4);
    const times = [];
    this.count = await runsInBlock(this.run);
    while (!agree(times) && performance.now() < end) {
      const time = await block(this.run, this.count);
      if (time * this.count < BLOCK_MS) this.count *= 2;
      times.push(time);
    }
    this.settled.push(agree(times));
  }

  /** One that is not kept where the other model ran before, then a block; longer ones from now on if it was short. */
  async measure() {
    await this.run();
    const time = await block(this.run, this.count);
    if (time * this.count < BLOCK_MS) {
      this.count *= 2;
      await this.measure();
    } else {
      this.blocks.push([time]);
      this.loads.push(this.load);
    }
  }

  report() {
    const { blocks, loads, settled, count, model } = this;
    return { role: model.role, wall_ms: blocks, cpu_ms: [], loads, settled, runs_in_block: count };
  }
}

function agree(times) {
  const last = times.slice(-3);
  return last.length === 3 && Math.max(...last) - Math.min(...last) <= SETTLED * Math.min(...last);
}

const inTurns = (subjects, turn) => (turn % 2 ? [...subjects].reverse() : subjects);

/** All loads; in each, blocks in turn until every model has its share of seconds and blocks. */
async function latency(subjects, job) {
  for (let load = 0; load < job.loads; load++) {
    for (const subject of inTurns(subjects, load)) await subject.open();
    for (const subject of subjects) await subject.warmUp();
    const end = performance.now() + (job.seconds * 1000 * subjects.length) / job.loads;
    const least = Math.max(FEWEST_BLOCKS, Math.ceil(job.blocks / job.loads));
    for (let turn = 0; turn < least || performance.now() < end; turn++) {
      for (const subject of inTurns(subjects, turn)) await subject.measure();
    }
  }
  return { models: subjects.map(subject => subject.report()), block_ms: BLOCK_MS };
}

async function coldStart([subject]) {
  await subject.open();
  return { load_ms: subject.load_ms, first_run_ms: subject.first_run_ms };
}

async function answer(job) {
  for (const path of job.files) kept.set(path, await fetched(path));
  const subjects = job.models.map(model => new Subject(job, model));
  const found = await (job.pass === 'start' ? coldStart : latency)(subjects, job);
  const { name, version } = subjects[0].session;
  const where = {
    user_agent: navigator.userAgent,
    cross_origin_isolated: crossOriginIsolated,
    clock_step_ms: median([clockStep(), clockStep(), clockStep()]),
  };
  return { ...found, runtime: { name, version, provider: 'wasm, one thread' }, where };
}

const job = JSON.parse(new TextDecoder().decode(await fetched('job.json')));
const found = await answer(job).catch(error => ({ error: String(error?.message ?? error) }));
await fetch(job.report, { method: 'POST', body: JSON.stringify(found) });
