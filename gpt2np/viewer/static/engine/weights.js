// The parameters: float16 in the page, float32 when they are used, the matrices laid out for products.

import { laidOut } from "./products.js";

/** float16 as float32, by a table of all 65,536. */
export function widened(halves) {
  const table = new Float32Array(65536),
    out = new Float32Array(halves.length);
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31,
      fraction = (bits & 1023) / 1024;
    const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
    table[bits] = bits >> 15 ? -size : size;
  }
  for (let i = 0; i < halves.length; i++) out[i] = table[halves[i]];
  return out;
}

/** The bytes of base64 of gzip. */
export async function unzipped(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unzip the model inside this page. Any browser of 2023 or later can.");
  }
  const binary = atob(text.trim()),
    bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/**
 * Weights by their names in the checkpoint, {data, shape}, from what live_page.py packed: of all numbers first the
 * low bytes, then the high ones, which are alike and so take less room.
 */
export function weightsOf(block, shapes) {
  const n = block.byteLength / 2,
    low = new Uint8Array(block, 0, n),
    high = new Uint8Array(block, n),
    halves = new Uint16Array(n);
  for (let i = 0; i < n; i++) halves[i] = low[i] | (high[i] << 8);
  const numbers = widened(halves),
    found = {};
  let start = 0;
  for (const [name, shape] of shapes) {
    const end = start + shape.reduce((a, b) => a * b, 1);
    found[name] = { data: numbers.subarray(start, end), shape };
    start = end;
  }
  return found;
}

/** The parameters as `forward` reads them, as in weights.py of the architecture. */
export function parametersOf(weights, config) {
  const linearAt = (name) => {
    const { data, shape } = weights[`${name}.weight`];
    return { weight: data, bias: weights[`${name}.bias`].data, columns: laidOut(data, shape[0], shape[1]) };
  };
  const normAt = (name) => ({
    weight: weights[`${name}.weight`].data,
    bias: weights[`${name}.bias`].data,
    epsilon: config.epsilon,
  });
  const h = Array.from({ length: config.n_layer }, (_, i) => ({
    ln_1: normAt(`h.${i}.ln_1`),
    attn: { c_attn: linearAt(`h.${i}.attn.c_attn`), c_proj: byHead(linearAt(`h.${i}.attn.c_proj`), config) },
    ln_2: normAt(`h.${i}.ln_2`),
    mlp: { c_fc: linearAt(`h.${i}.mlp.c_fc`), c_proj: linearAt(`h.${i}.mlp.c_proj`) },
  }));
  const wte = weights["wte.weight"],
    head = weights["lm_head.weight"] ?? wte,
    lm_head = laidOut(head.data, head.shape[1], head.shape[0], true);
  return {
    wte,
    wpe: weights["wpe.weight"],
    h,
    ln_f: normAt("ln_f"),
    head, // [vocab, n_embd]
    lm_head,
    read_by: head === wte ? lm_head : laidOut(wte.data, wte.shape[1], wte.shape[0], true), // the embedding held against vectors
  };
}

/** A matrix that reads the results of all heads, and the part of it that reads each head's. */
function byHead(p, { n_embd, n_head }) {
  const size = p.weight.length / n_head,
    part = (head) => laidOut(p.weight.subarray(head * size, (head + 1) * size), n_embd / n_head, n_embd);
  return { ...p, heads: Array.from({ length: n_head }, (_, head) => part(head)) };
}
