// A run in the form that the panels of a page read: its facts and its arrays, as page_data.py makes them of a trace.

import { Pass, forward } from "./forward.js";
import { outputsOf, recordedArrays } from "./recorded_arrays.js";
import { Lens, contributions, headsInTokens, neuronsInTokens } from "./read_out.js";
import { asWritten } from "./readable.js";
import { editOf, toldEdits } from "./switched_off.js";

const LONGEST = 80; // characters of a token that a page shows

const NEEDS = { lens: "glance", contributions: "push", attention: "heads", mlp: "neurons" }; // what a panel waits for

/**
 * A pass over `ids` with some parts off, for the panels. `first` hears of it as soon as what is `shown` is there: a panel and a
 * position, null for the last; then come the rest of lens, contributions, and heads and neurons in tokens. `generation` are
 * the facts of one, if the tokens were chosen.
 */
export async function runOf(model, { ids, off, generation = null, shown = {} }, pause, first = () => {}) {
  const pass = new Pass(ids, { edit: editOf(off), pause });
  const started = performance.now();
  await forward(model.parameters, model.config, pass);
  const milliseconds = performance.now() - started;
  await pause();
  const arrays = await recordedArrays(model, ids, pass.sites, pause),
    later = "is being computed";
  const header = { ...factsOf(model, ids, off, generation, arrays), milliseconds, missing: { lens: later, follow: later, push: later } };
  await pause();
  const lens = new Lens(model, ids, pass.sites),
    rest = restOf(model, ids, pass.sites, { header, arrays, lens, pause });
  Object.assign(arrays, lens.arrays);
  lens.read(Math.min(shown.pos ?? ids.length - 1, ids.length - 1));
  const soon = NEEDS[shown.panel];
  if (soon) await (soon === "glance" ? glance(lens, header, pause) : rest[soon]());
  first({ header: { ...header, vocabulary: vocabularyOf(model, header, arrays), missing: { ...header.missing } }, arrays: { ...arrays } });
  for (const name of Object.keys(rest).filter((each) => each !== soon)) {
    await pause();
    await rest[name]();
  }
  header.vocabulary = vocabularyOf(model, header, arrays);
  return { header, arrays };
}

/** What the table of the lens shows; ranks and the like follow. */
async function glance(lens, header, pause) {
  await lens.glance(pause);
  delete header.missing.lens;
}

/** What takes longest, by name: functions that add it to the header and the arrays of a run. */
function restOf(model, ids, sites, { header, arrays, lens, pause }) {
  const outputs = outputsOf(arrays["attn.heads"]);
  return {
    push: () => {
      const pushed = contributions(model, ids, sites, outputs, [arrays["next:id"], arrays["next:p"]]);
      Object.assign(arrays, pushed.arrays);
      header.components = pushed.labels;
      delete header.missing.push;
    },
    lens: async () => {
      await lens.readAll(pause);
      delete header.missing.lens;
      delete header.missing.follow;
    },
    heads: () => {
      const { raised, lowered } = headsInTokens(model, ids, sites, outputs);
      Object.assign(header, { "heads raised": raised, "heads lowered": lowered });
    },
    neurons: () => {
      header.neurons = neuronsInTokens(model, ids, sites, arrays);
    },
  };
}

function factsOf(model, ids, off, generation, arrays) {
  const { facts, tokenizer, config } = model,
    axes = { pos: ids.length, query: ids.length, key: ids.length },
    names = ids.map((id) => tokenizer.token(id));
  const header = {
    ...facts.page,
    model: { ...facts.page.model, edits: toldEdits(off) },
    prompt: tokenizer.decode(ids),
    tokens: names.map((name) => name.slice(0, LONGEST)),
    ...asWritten(tokenizer, ids, names, LONGEST),
    ids,
    parts: facts.page.parts.map((part) => ({ ...part, shape: part.axes.map((axis, i) => axes[axis] ?? part.shape[i]) })),
    generation,
    neurons: [],
    ...headFacts(config, ids.length, arrays.pattern, facts.page["head scores"]),
  };
  return header;
}

/** Where every head looks in this text: entropy, distance, and the scores of `head_grid.js`. */
function headFacts(config, n, pattern, known) {
  const measures = { entropy: [], distance: [], previous: [], first: [] };
  for (let layer = 0; layer < config.n_layer; layer++) {
    const rows = Object.fromEntries(Object.keys(measures).map((name) => [name, []]));
    for (let head = 0; head < config.n_head; head++) {
      const sums = ofHead(pattern.data, ((layer * config.n_head + head) * n * (n + 1)) / 2, n);
      for (const name of Object.keys(rows)) rows[name].push(sums[name]);
    }
    for (const name of Object.keys(rows)) measures[name].push(rows[name]);
  }
  const { entropy, distance, previous, first } = measures,
    where = "in this text";
  const here = [
    { name: "previous", where, values: previous },
    { name: "first", where, values: first },
  ];
  return { "head statistics": { entropy, distance }, "head scores": [...(n > 1 ? here : []), ...known] };
}

function ofHead(data, start, n) {
  const sums = { entropy: 0, distance: 0, previous: 0, first: 0 };
  for (let query = 0, at = start; query < n; at += ++query) {
    for (let key = 0; key <= query; key++) {
      const share = data[at + key];
      if (share > 0) sums.entropy -= (share * Math.log(share)) / n;
      sums.distance += (share * (query - key)) / n;
    }
    if (query) {
      sums.previous += data[at + query - 1] / (n - 1);
      sums.first += data[at] / (n - 1);
    }
  }
  return sums;
}

/** Every token that is named, as text. */
function vocabularyOf({ tokenizer }, header, arrays) {
  const ids = new Set(header.ids);
  const take = (some) => some.forEach((id) => (Array.isArray(id) ? take(id) : ids.add(id)));
  for (const name of ["next:id", "lens:id", "follow:id", "push:id"]) if (arrays[name]) take(arrays[name].data);
  for (const name of ["heads raised", "heads lowered"]) if (header[name]) take(header[name].ids);
  for (const step of header.generation?.steps ?? []) {
    take([step.id, ...step.candidates.map(([id]) => id), ...step.removals.flatMap((removal) => removal.ids)]);
  }
  return Object.fromEntries([...ids].map((id) => [id, tokenizer.token(id).slice(0, LONGEST)]));
}

/** The facts of a generation for the panel that shows it, as page_facts.py has them. */
export function generationFacts(model, n_prompt, made, options) {
  const { temperature, top_k, top_p } = options,
    sampling = { temperature, ...(top_k ? { top_k } : {}), ...(top_p && top_p < 1 ? { top_p } : {}), seed: options.seed };
  const last = made.ids[made.ids.length - 1],
    steps = made.ledger.map((entry, i) => ({
      id: entry.token_id,
      p: entry.probability,
      own: made.own[i],
      pos: n_prompt - 1 + entry.step,
      candidates: entry.top,
      removals: entry.removals.map(({ name, count, mass, most_likely }) => ({ name, count, mass, ids: most_likely })),
      survivors: entry.survivors,
      entropy: entry.entropy,
      rank: entry.raw_rank,
      logit: entry.raw_logit,
      uniform: entry.uniform,
      interval: entry.interval,
    }));
  return {
    n_prompt,
    stopped_by: made.stopped_by,
    sampling,
    last: { id: last, token: model.tokenizer.token(last).slice(0, LONGEST) },
    steps,
    ledger: true,
  };
}
