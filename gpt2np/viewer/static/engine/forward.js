// GPT-2, the whole forward pass: architectures/gpt2/forward.py once more, line by line and under the same names.
//
// Every line `x = step("name", operation, shape, inputs...)` computes operation(inputs...). The comment behind a line is
// the shape of its result.

import { array, linear, unembedding } from "./products.js";
import { ACTIVATIONS, add, layer_norm, lookup } from "./elementwise.js";
import { mix, scaled_scores, softmax, split_qkv } from "./attending.js";

/** One pass over `ids`: what it records, what it leaves out, the keys and values of positions before it. */
export class Pass {
  /** `edit(name, array, first)` may change what a step computed; `pause` lets others have their turn. */
  constructor(ids, { keep = true, edit = null, cache = null, pause = async () => {} } = {}) {
    Object.assign(this, { ids, keep, edit, cache, pause, sites: {} });
    this.first = cache ? cache.length : 0;
  }

  /** What `forward` calls: the operation, with a place for its result. */
  at(prefix) {
    const step = (name, op, shape, ...inputs) => {
      const out = array(...shape);
      op(...inputs, out);
      return this.record(prefix + name, out);
    };
    step.at = (name) => this.at(`${prefix}${name}.`);
    step.pass = this;
    return step;
  }

  record(name, out) {
    this.edit?.(name, out, this.first);
    if (this.keep) this.sites[name] = out;
    return out;
  }
}

/** Keys and values of all layers, [pos, head, d_head], with room for a whole context. */
export function newCache(config) {
  const room = config.n_positions * config.n_embd;
  const layers = Array.from({ length: config.n_layer }, () => ({ k: new Float32Array(room), v: new Float32Array(room) }));
  return { length: 0, layers };
}

/** A pass: the logits [pos, vocab]; with a cache, of the last position only, [1, vocab]. */
export async function forward(p, config, pass) {
  const step = pass.at("");
  let x = embed(p, config, step);
  for (let layer = 0; layer < config.n_layer; layer++) x = await block(x, p.h[layer], config, layer, step.at(`h.${layer}`));
  if (pass.cache) pass.cache.length += pass.ids.length;
  return unembed(x, p, config, step);
}

/** What a token is plus where it stands: -> [pos, n_embd]. */
function embed(p, { n_embd }, step) {
  const { ids, first } = step.pass,
    positions = ids.map((_, i) => first + i);
  const token = step("wte", lookup, [ids.length, n_embd], ids, p.wte); // [pos, n_embd]
  const position = step("wpe", lookup, [ids.length, n_embd], positions, p.wpe); // [pos, n_embd]
  return step("embed", add, [ids.length, n_embd], token, position); // [pos, n_embd]
}

/** Read the residual stream, add to it, twice: [pos, n_embd] -> [pos, n_embd]. */
async function block(x, p, config, layer, step) {
  const a = step("ln_1", layer_norm, x.shape, x, p.ln_1); // [pos, n_embd]
  const brought = attention(a, p.attn, config, layer, step.at("attn"));
  x = step("resid_mid", add, x.shape, x, brought); // [pos, n_embd]
  await step.pass.pause();
  const m = step("ln_2", layer_norm, x.shape, x, p.ln_2); // [pos, n_embd]
  const thought = mlp(m, p.mlp, config, step.at("mlp"));
  await step.pass.pause();
  return step("resid_post", add, x.shape, x, thought); // [pos, n_embd]
}

/** Each position gathers from itself and those before it: the only place where positions meet. */
function attention(x, p, config, layer, step) {
  const [pos, n_embd] = x.shape,
    heads = [pos, config.n_head, n_embd / config.n_head];
  const qkv = step("qkv", linear, [pos, 3 * n_embd], x, p.c_attn); // [pos, 3*n_embd]
  const [q, own_k, own_v] = ["q", "k", "v"].map((name, part) => step(name, split_qkv, heads, qkv, part)); // [pos, head, d_head]
  const k = withPast(step.pass.cache, layer, "k", own_k),
    v = withPast(step.pass.cache, layer, "v", own_v);
  const square = [config.n_head, pos, k.shape[0]];
  const scores = step("scores", scaled_scores, square, q, k, config.scales[layer]); // [head, query, key], -Infinity in the future
  const pattern = step("pattern", softmax, square, scores); // [head, query, key], rows sum to 1
  const z = step("z", mix, heads, pattern, v); // [pos, head, d_head]
  return step("out", linear, [pos, n_embd], z, p.c_proj); // [pos, n_embd]
}

/** Keys or values with those of the past, which they join. */
function withPast(cache, layer, name, own) {
  if (!cache) return own;
  const kept = cache.layers[layer][name],
    row = own.shape[1] * own.shape[2],
    length = cache.length + own.shape[0];
  kept.set(own.data, cache.length * row);
  return { data: kept.subarray(0, length * row), shape: [length, own.shape[1], own.shape[2]] };
}

/** Each position thinks by itself: d_mlp neurons read, fire, and write: [pos, n_embd] -> [pos, n_embd]. */
function mlp(x, p, config, step) {
  const wide = [x.shape[0], config.d_mlp];
  const pre = step("pre", linear, wide, x, p.c_fc); // [pos, d_mlp]
  const post = step("post", ACTIVATIONS[config.activation], wide, pre); // [pos, d_mlp]
  return step("out", linear, x.shape, post, p.c_proj); // [pos, n_embd]
}

/** Compare each final vector with every token: [pos, n_embd] -> [pos, vocab]. */
function unembed(x, p, config, step) {
  const y = step("ln_f", layer_norm, x.shape, x, p.ln_f); // [pos, n_embd]
  const { n_embd } = config,
    last = { data: y.data.subarray(y.data.length - n_embd), shape: [1, n_embd] };
  const predicting = step.pass.cache ? last : y;
  return step("logits", unembedding, [predicting.shape[0], config.vocab], predicting, p.lm_head); // [pos, vocab]
}
