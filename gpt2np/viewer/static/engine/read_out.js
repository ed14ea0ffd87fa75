// What needs the unembedding besides the logits: the logit lens, contributions, heads and neurons in tokens.
// The same numbers as gpt2np.analysis has, as lens_and_contributions.py and page_data.py collect them.

import { array } from "./products.js";
import { layer_norm, layer_norm_statistics } from "./elementwise.js";
import { points, product } from "./recorded_arrays.js";
import { largestOf, likeliest, probabilities } from "./sampling.js";

const LENS = 10,
  FOLLOWED = 24,
  TARGETS = 4;

/** The arrays of the logit lens: at every point and position the likeliest tokens, and the ranks of some. */
export async function lensArrays({ config, parameters }, ids, sites, pause) {
  const streams = points(config, sites),
    [n, pos, d] = [streams.length, ids.length, config.n_embd],
    k = Math.min(LENS, config.vocab);
  const whole = (...shape) => ({ data: new Uint32Array(shape.reduce((a, b) => a * b, 1)), shape });
  const found = {
    "lens:id": whole(n, pos, k),
    "lens:p": array(n, pos, k),
    "lens:entropy": array(n, pos),
    "lens:kl": array(n, pos),
    "follow:id": whole(pos, FOLLOWED),
    "follow:rank": whole(n, pos, FOLLOWED),
    "follow:p": array(n, pos, FOLLOWED),
  };
  const x = array(n, d),
    normed = array(n, d);
  for (let row = 0; row < pos; row++) {
    streams.forEach(({ data }, point) => x.data.set(data.subarray(row * d, (row + 1) * d), point * d));
    layer_norm(x, parameters.ln_f, normed);
    const logits = product(normed, parameters.lm_head);
    readRow(found, Array.from({ length: n }, (_, i) => logits.data.subarray(i * config.vocab, (i + 1) * config.vocab)), row, pos, k);
    await pause();
  }
  return found;
}

/** One position, from its logits at every point. */
function readRow(found, logits, row, pos, k) {
  const chances = logits.map(probabilities),
    last = chances[chances.length - 1],
    tops = chances.map((p) => largestOf(p, k));
  const chosen = highest(tops, FOLLOWED);
  found["follow:id"].data.set(chosen, row * FOLLOWED);
  chances.forEach((p, point) => {
    const at = point * pos + row;
    found["lens:id"].data.set(tops[point], at * k);
    found["lens:p"].data.set(tops[point].map((id) => p[id]), at * k);
    let entropy = 0,
      lost = 0;
    for (let i = 0; i < p.length; i++) {
      const log = p[i] > 0 ? Math.log(p[i]) : -745;
      entropy -= p[i] * log;
      if (last[i] > 0) lost += last[i] * (Math.log(last[i]) - log);
    }
    found["lens:entropy"].data[at] = entropy;
    found["lens:kl"].data[at] = lost;
    chosen.forEach((id, i) => {
      found["follow:rank"].data[at * FOLLOWED + i] = rankOf(logits[point], id);
      found["follow:p"].data[at * FOLLOWED + i] = p[id];
    });
  });
}

/** How many tokens are likelier; of equals the lower id comes first. */
function rankOf(logits, id) {
  const own = logits[id];
  let rank = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > own || (i < id && logits[i] === own)) rank++;
  return rank;
}

/** The n tokens that reach the highest rank at any point, the last point's before others, again and again if fewer. */
function highest(tops, n) {
  const best = new Map();
  [...tops].reverse().forEach((top, point) =>
    top.forEach((id, rank) => {
      const known = best.get(id) ?? [Infinity, 0];
      if (rank < known[0] || (rank === known[0] && point < known[1])) best.set(id, [rank, point]);
    }),
  );
  const final = tops[tops.length - 1],
    others = [...best.keys()].filter((id) => !final.includes(id));
  others.sort((a, b) => best.get(a)[0] - best.get(b)[0] || best.get(a)[1] - best.get(b)[1]);
  const chosen = [...final, ...others].slice(0, n);
  return Array.from({ length: n }, (_, i) => chosen[i % chosen.length]);
}

/** What every component adds to the logits of the likeliest tokens at each position, and the components' names. */
export function contributions({ config, parameters }, ids, sites, outputs) {
  const { n_embd: d, n_layer, n_head } = config,
    targets = Math.min(TARGETS, config.vocab),
    labels = ["wte", "wpe"];
  const parts = [
    [sites.wte.data, d, 0],
    [sites.wpe.data, d, 0],
  ]; // of each component: numbers, how many of them for a position, and where its own begin
  for (let layer = 0; layer < n_layer; layer++) {
    for (let head = 0; head < n_head; head++) {
      labels.push(`h.${layer}.attn.head.${head}`);
      parts.push([outputs[layer].data, n_head * d, head * d]);
    }
    labels.push(`h.${layer}.attn.bias`, `h.${layer}.mlp`);
    parts.push([parameters.h[layer].attn.c_proj.bias, 0, 0], [sites[`h.${layer}.mlp.out`].data, d, 0]);
  }
  labels.push("ln_f.bias");
  const last = sites[`h.${n_layer - 1}.resid_post`].data,
    pushed = array(ids.length, targets, labels.length),
    named = { data: new Uint32Array(ids.length * targets), shape: [ids.length, targets] };
  const { weight, bias, epsilon } = parameters.ln_f,
    vocab = config.vocab;
  for (let row = 0; row < ids.length; row++) {
    const rstd = layer_norm_statistics(last, row * d, d, epsilon)[1],
      chosen = likeliest(probabilities(sites.logits.data.subarray(row * vocab, (row + 1) * vocab)), targets);
    if (row + 1 < ids.length && targets > 1 && !chosen.includes(ids[row + 1])) chosen[targets - 1] = ids[row + 1];
    chosen.forEach((id, i) => {
      const direction = parameters.head.data.subarray(id * d, (id + 1) * d),
        at = (row * targets + i) * labels.length,
        reader = held(direction, weight).map((x) => x * rstd);
      parts.forEach(([data, step, start], j) => (pushed.data[at + j] = dotAt(data, row * step + start, reader)));
      pushed.data[at + parts.length] = dotAt(bias, 0, direction);
      named.data[row * targets + i] = id;
    });
  }
  return { arrays: { "push:id": named, push: pushed }, labels };
}

/** A direction as it reads a vector before ln_f, its scale left out: times the weight, the mean taken off. */
function held(direction, weight) {
  const read = Float64Array.from(direction, (x, i) => x * weight[i]),
    mean = read.reduce((a, b) => a + b, 0) / read.length;
  return read.map((x) => x - mean);
}

function dotAt(data, start, direction) {
  let sum = 0;
  for (let i = 0; i < direction.length; i++) sum += data[start + i] * direction[i];
  return sum;
}

/** What each head raises and lowers at the last position: {raised, lowered}, ids and logits of five tokens. */
export function headsInTokens({ config, parameters }, ids, sites, outputs) {
  const { n_embd: d, n_head, n_layer, vocab } = config,
    row = ids.length - 1,
    [, rstd] = layer_norm_statistics(sites[`h.${n_layer - 1}.resid_post`].data, row * d, d, parameters.ln_f.epsilon);
  const found = { raised: { ids: [], values: [] }, lowered: { ids: [], values: [] } };
  for (const { data } of outputs) {
    const x = array(n_head, d);
    for (let head = 0; head < n_head; head++)
      x.data.set(centred(data.subarray((row * n_head + head) * d, (row * n_head + head + 1) * d), parameters.ln_f.weight, rstd), head * d);
    const logits = product(x, parameters.lm_head);
    for (const [name, sign] of [["raised", 1], ["lowered", -1]]) {
      const of = Array.from({ length: n_head }, (_, head) => logits.data.subarray(head * vocab, (head + 1) * vocab));
      const top = of.map((values) => largestOf(values, Math.min(5, vocab), sign));
      found[name].ids.push(top);
      found[name].values.push(top.map((some, head) => some.map((id) => of[head][id])));
    }
  }
  return found;
}

/** A part of the stream through ln_f, its scale held. */
function centred(x, weight, by = 1) {
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  return Float64Array.from(x, (value, i) => (value - mean) * by * weight[i]);
}

/** The neurons that are most active at the last position: how active at every other, and what they are for. */
export function neuronsInTokens(model, ids, sites, active) {
  const { config, parameters, tokenizer } = model,
    { n_embd: d, d_mlp } = config,
    k = active["active:id"].shape[1],
    start = (ids.length - 1) * k;
  const words = (table, vector, sign) => {
    const dots = Float64Array.from({ length: config.vocab }, (_, id) => sign * dotAt(table, id * d, vector));
    return largestOf(dots, Math.min(6, config.vocab)).map((id) => tokenizer.token(id));
  };
  return Array.from({ length: k }, (_, i) => {
    const layer = active["active:layer"].data[start + i],
      id = active["active:id"].data[start + i],
      { ln_2, mlp } = parameters.h[layer],
      column = Float64Array.from({ length: d }, (_, j) => mlp.c_fc.weight[j * d_mlp + id]),
      reads = held(column, ln_2.weight),
      writes = centred(mlp.c_proj.weight.subarray(id * d, (id + 1) * d), parameters.ln_f.weight);
    return {
      layer,
      id,
      active: ids.map((_, row) => sites[`h.${layer}.mlp.post`].data[row * d_mlp + id]),
      excited_by: words(parameters.wte.data, reads, 1),
      raises: words(parameters.head.data, writes, 1),
      lowers: words(parameters.head.data, writes, -1),
    };
  });
}
