// The arrays of a run as the panels of a page read them, as page_data.py makes them of a trace; nothing is left out.

import { array, multiply } from "./products.js";
import { largestOf, likeliest, probabilities } from "./sampling.js";

const BINS = 48,
  REACH = 6,
  NEURONS = 20,
  OUTLIERS = 6;

/** All of them by name, from the recorded sites of a pass over `ids`. */
export async function recordedArrays(model, ids, sites, pause) {
  const { config } = model,
    found = {};
  for (const part of [
    () => vectors(model, sites),
    () => attentionTriangles(config, sites),
    () => predictions(ids, sites.logits),
    () => residual(config, ids, sites),
    () => neurons(config, ids, sites),
  ]) {
    Object.assign(found, part());
    await pause();
  }
  return found;
}

/** Arrays of all layers as one: [layer, ...]. */
function stacked(parts) {
  const out = array(parts.length, ...parts[0].shape);
  parts.forEach((part, i) => out.data.set(part.data, i * part.data.length));
  return out;
}

/** A site of all layers. */
export function ofLayers(config, sites, name) {
  return Array.from({ length: config.n_layer }, (_, i) => sites[`h.${i}.${name}`]);
}

// -- the map --------------------------------------------------------------------------------------

function vectors(model, sites) {
  const { config, parameters } = model,
    found = {};
  for (const name of ["wte", "wpe", "embed", "ln_f"]) found[name] = sites[name];
  for (const name of "ln_1 attn.q attn.k attn.v attn.z attn.out resid_mid ln_2 mlp.pre mlp.post mlp.out resid_post".split(" "))
    found[name] = stacked(ofLayers(config, sites, name));
  found["attn.heads"] = stacked(
    ofLayers(config, sites, "attn.z").map((z, i) => headOutputs(z, parameters.h[i].attn.c_proj.heads, config.n_embd)),
  );
  for (const [name, x] of Object.entries({ ...found })) found[`${name}:stats`] = statistics(x, x.shape.length > 3);
  return found;
}

/** Each head's result times its slice of c_proj: [pos, head, d_head] -> [pos, head, n_embd]. */
function headOutputs(z, slices, n_embd) {
  const [pos, heads, size] = z.shape,
    out = array(pos, heads, n_embd),
    x = array(pos, size),
    one = array(pos, n_embd);
  slices.forEach((slice, head) => {
    const at = (row) => row * heads + head;
    for (let row = 0; row < pos; row++) x.data.set(z.data.subarray(at(row) * size, (at(row) + 1) * size), row * size);
    multiply(x, slice, one);
    for (let row = 0; row < pos; row++) out.data.set(one.data.subarray(row * n_embd, (row + 1) * n_embd), at(row) * n_embd);
  });
  return out;
}

/** Norm, smallest and largest number of each vector; of a head's only the norm. */
function statistics(x, perHead) {
  const n = x.shape[x.shape.length - 1],
    width = perHead ? 1 : 3,
    out = array(...x.shape.slice(0, -1), width);
  for (let i = 0; i < x.data.length / n; i++) {
    let squares = 0,
      least = Infinity,
      most = -Infinity;
    for (let j = i * n; j < (i + 1) * n; j++) {
      const value = x.data[j];
      squares += value * value;
      if (value < least) least = value;
      if (value > most) most = value;
    }
    out.data.set([Math.sqrt(squares), least, most].slice(0, width), i * width);
  }
  return out;
}

// -- attention ------------------------------------------------------------------------------------

/** Patterns and scores as triangles, row by row: [layer, head, pairs]. */
function attentionTriangles(config, sites) {
  const triangles = (name) =>
    stacked(
      ofLayers(config, sites, name).map(({ data, shape: [heads, n] }) => {
        const out = array(heads, (n * (n + 1)) / 2);
        let at = 0;
        for (let row = 0; row < heads * n; row++) {
          const count = (row % n) + 1;
          out.data.set(data.subarray(row * n, row * n + count), at);
          at += count;
        }
        return out;
      }),
    );
  return { pattern: triangles("attn.pattern"), scores: triangles("attn.scores") };
}

// -- predictions and the residual stream ------------------------------------------------------------

function predictions(ids, logits) {
  const [pos, vocab] = logits.shape,
    k = Math.min(10, vocab),
    best = { data: new Uint32Array(pos * k), shape: [pos, k] },
    chance = array(pos, k),
    read = array(pos);
  read.data[0] = NaN;
  for (let row = 0; row < pos; row++) {
    const chances = probabilities(logits.data.subarray(row * vocab, (row + 1) * vocab)),
      top = likeliest(chances, k);
    best.data.set(top, row * k);
    chance.data.set(top.map((id) => chances[id]), row * k);
    if (row + 1 < pos) read.data[row + 1] = chances[ids[row + 1]];
  }
  return { "next:id": best, "next:p": chance, "token:p": read };
}

/** The points of the residual stream: embed, then mid and post of each layer. */
export function points(config, sites) {
  const of = (i) => [sites[`h.${i}.resid_mid`], sites[`h.${i}.resid_post`]];
  return [sites.embed, ...Array.from({ length: config.n_layer }, (_, i) => of(i)).flat()];
}

function residual(config, ids, sites) {
  const streams = points(config, sites),
    { n_embd } = config,
    pos = ids.length,
    last = streams[streams.length - 1].data,
    norm = array(streams.length, pos),
    cosine = array(streams.length, pos);
  streams.forEach(({ data }, point) => {
    for (let row = 0; row < pos; row++) {
      let own = 0,
        final = 0,
        both = 0;
      for (let i = row * n_embd; i < (row + 1) * n_embd; i++) {
        own += data[i] * data[i];
        final += last[i] * last[i];
        both += data[i] * last[i];
      }
      norm.data[point * pos + row] = Math.sqrt(own);
      cosine.data[point * pos + row] = both / Math.max(Math.sqrt(own * final), Number.MIN_VALUE);
    }
  });
  return { "resid:norm": norm, "resid:cosine": cosine, ...outliers(streams, pos, n_embd) };
}

/** The dimensions that are largest in the mean, and the kurtosis of vectors, at each point. */
function outliers(streams, pos, n_embd) {
  const n = streams.length,
    found = { data: new Uint32Array(n * OUTLIERS), shape: [n, OUTLIERS] },
    ratio = array(n, OUTLIERS),
    kurtosis = array(n);
  streams.forEach(({ data }, point) => {
    const size = new Float64Array(n_embd);
    let total = 0;
    for (let start = 0; start < pos * n_embd; start += n_embd) {
      let sum = 0,
        second = 0,
        fourth = 0;
      for (let i = 0; i < n_embd; i++) sum += data[start + i];
      const mean = sum / n_embd;
      for (let i = 0; i < n_embd; i++) {
        const apart = data[start + i] - mean,
          squared = apart * apart;
        size[i] += Math.abs(data[start + i]) / pos;
        second += squared;
        fourth += squared * squared;
      }
      total += (fourth * n_embd) / Math.max(second * second, Number.MIN_VALUE);
    }
    kurtosis.data[point] = total / pos;
    const sorted = size.slice().sort(),
      median = (sorted[(n_embd - 1) >> 1] + sorted[n_embd >> 1]) / 2,
      largest = [...size.keys()].sort((a, b) => size[b] - size[a] || a - b);
    for (let i = 0; i < OUTLIERS; i++) {
      const dimension = largest[Math.min(i, n_embd - 1)];
      found.data[point * OUTLIERS + i] = dimension;
      ratio.data[point * OUTLIERS + i] = size[dimension] / Math.max(median, Number.MIN_VALUE);
    }
  });
  return { "resid:dimension": found, "resid:ratio": ratio, "resid:kurtosis": kurtosis };
}

// -- the MLP ----------------------------------------------------------------------------------------

function neurons(config, ids, sites) {
  const pos = ids.length,
    { d_mlp, n_layer } = config,
    k = Math.min(NEURONS, d_mlp),
    named = { data: new Uint32Array(n_layer * pos * k), shape: [n_layer, pos, k] },
    before = array(n_layer, pos, k),
    after = array(n_layer, pos, k),
    bins = { data: new Uint16Array(n_layer * pos * BINS), shape: [n_layer, pos, BINS] },
    sparsity = array(n_layer, 2);
  const every = Array.from({ length: pos }, () => []); // of each position: [post, layer, neuron]
  for (let layer = 0; layer < n_layer; layer++) {
    const pre = sites[`h.${layer}.mlp.pre`].data,
      post = sites[`h.${layer}.mlp.post`].data;
    let silent = 0,
      positive = 0;
    for (const value of post) {
      if (Math.abs(value) <= 0.01) silent++;
      else if (value > 0) positive++;
    }
    sparsity.data.set([silent / post.length, positive / post.length], 2 * layer);
    for (let row = 0; row < pos; row++) {
      const start = row * d_mlp,
        at = layer * pos + row;
      for (let i = start; i < start + d_mlp; i++) {
        const bin = Math.floor(((Math.min(Math.max(pre[i], -REACH), REACH) + REACH) * BINS) / (2 * REACH));
        bins.data[at * BINS + Math.min(bin, BINS - 1)]++;
      }
      const best = largestOf(post.subarray(start, start + d_mlp), k);
      best.forEach((i, rank) => {
        named.data[at * k + rank] = i;
        before.data[at * k + rank] = pre[start + i];
        after.data[at * k + rank] = post[start + i];
        every[row].push([post[start + i], layer, i]);
      });
    }
  }
  return {
    "neuron:id": named,
    "neuron:pre": before,
    "neuron:post": after,
    "neuron:bins": bins,
    sparsity,
    ...mostActive(every, Math.min(10, n_layer * d_mlp)),
  };
}

/** The ten most active neurons of all layers at each position. */
function mostActive(every, k) {
  const shape = [every.length, k],
    found = { layer: new Uint16Array(every.length * k), id: new Uint32Array(every.length * k), post: new Float32Array(every.length * k) };
  every.forEach((neurons, row) => {
    neurons.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
    neurons.slice(0, k).forEach(([post, layer, id], rank) => {
      found.layer[row * k + rank] = layer;
      found.id[row * k + rank] = id;
      found.post[row * k + rank] = post;
    });
  });
  return Object.fromEntries(Object.entries(found).map(([name, data]) => [`active:${name}`, { data, shape }]));
}

/** Each head's output at every position, of each layer, from the array of all layers. */
export function outputsOf({ data, shape: [layers, ...shape] }) {
  const n = data.length / layers;
  return Array.from({ length: layers }, (_, i) => ({ data: data.subarray(i * n, (i + 1) * n), shape }));
}

/** `x @ weight` of rows [n, n_in], as an array of its own. */
export function product(x, weight) {
  const out = array(x.data.length / weight.nIn, weight.nOut);
  multiply(x, weight, out);
  return out;
}
