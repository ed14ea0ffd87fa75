// What needs the unembedding besides the logits: the logit lens, contributions, heads and neurons in tokens.
// The same numbers as gpt2np.analysis has, as lens_and_contributions.py and page_data.py collect them.

import { array, multiply } from "./products.js";
import { layer_norm, layer_norm_statistics } from "./elementwise.js";
import { points, product } from "./recorded_arrays.js";
import { largestOf } from "./sampling.js";

const LENS = 10,
  FOLLOWED = 24,
  TARGETS = 4,
  TOGETHER = 4; // positions of the lens that are read at once

/** The logit lens of a pass: at every point and position the likeliest tokens, and the ranks of some; row by row. */
export class Lens {
  constructor({ config, parameters }, ids, sites) {
    this.parameters = parameters;
    this.streams = points(config, sites);
    this.final = sites.logits;
    const [n, pos, d] = [this.streams.length, ids.length, config.n_embd],
      k = Math.min(LENS, config.vocab),
      known = new Uint8Array(n * pos); // which points and positions have been read
    const whole = (...shape) => ({ data: new Uint32Array(shape.reduce((a, b) => a * b, 1)), shape });
    this.sizes = { n, pos, d, k, vocab: config.vocab };
    this.arrays = {
      "lens:id": { ...whole(n, pos, k), known },
      "lens:p": { ...array(n, pos, k), known },
      "lens:entropy": array(n, pos),
      "lens:kl": array(n, pos),
      "follow:id": whole(pos, FOLLOWED),
      "follow:rank": whole(n, pos, FOLLOWED),
      "follow:p": array(n, pos, FOLLOWED),
    };
    const rows = TOGETHER * (n - 1);
    this.room = { x: array(rows, d), normed: array(rows, d), logits: array(rows, config.vocab), weights: new Float64Array(config.vocab) };
  }

  /** Logits of some positions at some points, [position][point]; the last point's are those of the pass itself. */
  logitsOf(rows, chosen) {
    const { n, d, vocab } = this.sizes,
      before = chosen.filter((point) => point < n - 1),
      count = rows.length * before.length;
    const [x, normed, logits] = ["x", "normed", "logits"].map((name) => {
      const { data, shape } = this.room[name];
      return { data: data.subarray(0, count * shape[1]), shape: [count, shape[1]] };
    });
    rows.forEach((row, i) =>
      before.forEach((point, j) => x.data.set(this.streams[point].data.subarray(row * d, (row + 1) * d), (i * before.length + j) * d)),
    );
    layer_norm(x, this.parameters.ln_f, normed);
    multiply(normed, this.parameters.lm_head, logits);
    const part = ({ data }, at) => data.subarray(at * vocab, (at + 1) * vocab);
    return rows.map((row, i) => chosen.map((point, j) => (point < n - 1 ? part(logits, i * before.length + j) : part(this.final, row))));
  }

  /** The same for all positions that are not yet known at these points, some at a time, for `take(row, logits)`. */
  async each(chosen, take, pause) {
    const { pos } = this.sizes,
      { known } = this.arrays["lens:id"],
      rows = Array.from({ length: pos }, (_, row) => row).filter((row) => chosen.some((point) => !known[point * pos + row]));
    for (let start = 0; start < rows.length; start += TOGETHER) {
      const some = rows.slice(start, start + TOGETHER);
      this.logitsOf(some, chosen).forEach((logits, i) => take(some[i], logits));
      await pause();
    }
  }

  /** All that there is to know of one position. */
  read(row) {
    this.note(this.logitsOf([row], this.every())[0], row);
  }

  readAll(pause) {
    return this.each(this.every(), (row, logits) => this.note(logits, row), pause);
  }

  /** Only the likeliest tokens, and only after whole layers. */
  glance(pause) {
    const whole = this.every().filter((point) => point % 2 === 0);
    const take = (row, logits) => logits.forEach((some, i) => this.best(whole[i], row, largestOf(some, this.sizes.k), spread(some, this.room.weights)));
    return this.each(whole, take, pause);
  }

  every() {
    return Array.from({ length: this.sizes.n }, (_, point) => point);
  }

  /** The likeliest tokens of one point and position. */
  best(point, row, top, { weights, sum }) {
    const { pos, k } = this.sizes,
      { "lens:id": ids, "lens:p": chances } = this.arrays,
      at = point * pos + row;
    for (let i = 0; i < k; i++) {
      ids.data[at * k + i] = top[i];
      chances.data[at * k + i] = weights[top[i]] / sum;
    }
    ids.known[at] = 1;
  }

  /** Note what there is to know of one position, from its logits at every point. */
  note(logits, row) {
    const { pos, k } = this.sizes,
      found = this.arrays,
      tops = logits.map((some) => largestOf(some, k)),
      followed = highest(tops, FOLLOWED),
      last = logits.length - 1,
      end = spread(logits[last], new Float64Array(logits[last].length));
    found["follow:id"].data.set(followed, row * FOLLOWED);
    for (let point = last; point >= 0; point--) {
      const some = logits[point],
        at = point * pos + row,
        { weights, sum, log, entropy } = point === last ? end : spread(some, this.room.weights);
      this.best(point, row, tops[point], { weights, sum });
      found["lens:entropy"].data[at] = entropy;
      found["lens:kl"].data[at] = point === last ? 0 : log - dotAt(some, 0, end.weights) / end.sum - end.entropy;
      for (let i = 0; i < FOLLOWED; i++) {
        const rank = tops[point].indexOf(followed[i]);
        found["follow:rank"].data[at * FOLLOWED + i] = rank < 0 ? rankOf(some, followed[i]) : rank;
        found["follow:p"].data[at * FOLLOWED + i] = weights[followed[i]] / sum;
      }
    }
  }
}

/** Of logits: `weights`, which over `sum` are probabilities; log p is a logit less `log`; the entropy in nats. */
function spread(logits, weights) {
  let most = -Infinity,
    sum = 0,
    held = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > most) most = logits[i];
  for (let i = 0; i < logits.length; i++) {
    weights[i] = Math.exp(logits[i] - most);
    sum += weights[i];
    held += weights[i] * logits[i];
  }
  const log = most + Math.log(sum);
  return { weights, sum, log, entropy: Math.abs(log - held / sum) };
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

/**
 * What every component adds to the logits of the likeliest tokens at each position, and the components' names; `next` are
 * the likeliest tokens and their probabilities.
 */
export function contributions({ config, parameters }, ids, sites, outputs, next) {
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
    [likely, chances] = next,
    k = likely.shape[1];
  for (let row = 0; row < ids.length; row++) {
    const rstd = layer_norm_statistics(last, row * d, d, epsilon)[1],
      chosen = [...likely.data.subarray(row * k, row * k + targets)].filter((_, i) => chances.data[row * k + i] > 0);
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
  const { d_mlp } = model.config,
    k = active["active:id"].shape[1],
    start = (ids.length - 1) * k;
  const chosen = Array.from({ length: k }, (_, i) => ({
    layer: active["active:layer"].data[start + i],
    id: active["active:id"].data[start + i],
  }));
  learnWords(model, chosen);
  return chosen.map(({ layer, id }) => ({
    layer,
    id,
    active: ids.map((_, row) => sites[`h.${layer}.mlp.post`].data[row * d_mlp + id]),
    ...model.neuronWords.get(`${layer}.${id}`),
  }));
}

/** Which tokens neurons read, raise and lower, by the weights alone: of those that the model does not know yet. */
function learnWords({ config, parameters, tokenizer, neuronWords }, neurons) {
  const { n_embd: d, d_mlp, vocab } = config,
    fresh = neurons.filter(({ layer, id }) => !neuronWords.has(`${layer}.${id}`)),
    [reads, writes] = [array(fresh.length, d), array(fresh.length, d)];
  fresh.forEach(({ layer, id }, i) => {
    const { ln_2, mlp } = parameters.h[layer],
      column = Float64Array.from({ length: d }, (_, j) => mlp.c_fc.weight[j * d_mlp + id]);
    reads.data.set(held(column, ln_2.weight), i * d);
    writes.data.set(centred(mlp.c_proj.weight.subarray(id * d, (id + 1) * d), parameters.ln_f.weight), i * d);
  });
  const [read, written] = [product(reads, parameters.read_by), product(writes, parameters.lm_head)];
  fresh.forEach(({ layer, id }, i) => {
    const words = ({ data }, sign) =>
      largestOf(data.subarray(i * vocab, (i + 1) * vocab), Math.min(6, vocab), sign).map((token) => tokenizer.token(token));
    neuronWords.set(`${layer}.${id}`, { excited_by: words(read, 1), raises: words(written, 1), lowers: words(written, -1) });
  });
}
