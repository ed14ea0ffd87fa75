// GPT-2's forward pass in plain JavaScript, in float32, which writes down every step.
//
//     gpt2np fixture --out fixture
//     node gpt2.mjs fixture/fixture.json steps       writes steps.bin and steps.txt
//
// steps.bin holds the steps one behind the other, bare float32; steps.txt has a line for each of them, as in
// `h.0.ln_1 float32 7 12`. `gpt2np compare steps.bin --shapes steps.txt` reads the two.
//
// JavaScript's numbers are float64; Math.fround rounds one to float32. Every product and every sum is
// rounded, so that the steps are those of a program that knows nothing but float32.
import { readFileSync, writeFileSync } from "node:fs";

const [source, target] = process.argv.slice(2);
if (target === undefined) {
  console.error("usage: node gpt2.mjs FIXTURE.json NAME    (writes NAME.bin and NAME.txt)");
  process.exit(2);
}
const fixture = JSON.parse(readFileSync(source, "utf8"));
const { n_layer: L, n_head: H, n_embd: C, vocab_size: V, layer_norm_epsilon: epsilon } = fixture.config;
const ids = fixture.token_ids;
const T = ids.length, D = C / H, M = 4 * C;
const f = Math.fround;
const weight = (name) => Float32Array.from(fixture.weights[name].data);

const steps = [];
function record(name, shape, array) {
  steps.push({ name, shape, array: array.slice() });
  return array;
}

// ---- the operations ----

// x W + b: [T, nIn] -> [T, nOut]
function linear(x, name, nIn, nOut) {
  const w = weight(`${name}.weight`), bias = weight(`${name}.bias`);
  const y = new Float32Array(T * nOut);
  for (let t = 0; t < T; t++)
    for (let o = 0; o < nOut; o++) {
      let sum = 0;
      for (let i = 0; i < nIn; i++) sum = f(sum + f(x[t * nIn + i] * w[i * nOut + o]));
      y[t * nOut + o] = sum + bias[o];
    }
  return y;
}

// each row to mean 0 and variance 1, then scaled and shifted: [T, C] -> [T, C]
function layerNorm(x, name) {
  const w = weight(`${name}.weight`), bias = weight(`${name}.bias`);
  const y = new Float32Array(T * C);
  for (let t = 0; t < T; t++) {
    const row = x.subarray(t * C, (t + 1) * C);
    let sum = 0, squares = 0;
    for (const value of row) sum = f(sum + value);
    const mean = f(sum / C);
    for (const value of row) squares = f(squares + f(f(value - mean) * f(value - mean)));
    const scale = f(1 / f(Math.sqrt(f(f(squares / C) + f(epsilon)))));
    for (let i = 0; i < C; i++) y[t * C + i] = f(f(f(row[i] - mean) * scale) * w[i]) + bias[i];
  }
  return y;
}

function gelu(x) {
  const cube = f(f(f(x * x) * x) * f(0.044715));
  return f(f(0.5 * x) * f(1 + f(Math.tanh(f(f(Math.sqrt(2 / Math.PI)) * f(x + cube))))));
}

const add = (a, b) => a.map((value, i) => value + b[i]);

// exp of each number, divided by their sum
function softmax(row) {
  const largest = Math.max(...row);
  const powers = row.map((value) => Math.exp(f(value - largest)));
  const sum = powers.reduce((total, power) => f(total + power), 0);
  return powers.map((power) => power / sum);
}

// ---- the model ----

// The only place where tokens meet: [T, C] -> [T, C]
function attention(x, at) {
  const qkv = record(`${at}.qkv`, [T, 3 * C], linear(x, `${at}.c_attn`, C, 3 * C));
  const scores = new Float32Array(H * T * T).fill(-Infinity), pattern = new Float32Array(H * T * T);
  const z = new Float32Array(T * C), scale = f(1 / Math.sqrt(D));
  for (let h = 0; h < H; h++)
    for (let query = 0; query < T; query++) {
      const row = (h * T + query) * T;
      for (let key = 0; key <= query; key++) {
        let dot = 0;
        for (let d = h * D; d < (h + 1) * D; d++)
          dot = f(dot + f(qkv[query * 3 * C + d] * qkv[key * 3 * C + C + d]));
        scores[row + key] = dot * scale;
      }
      pattern.set(softmax(scores.subarray(row, row + T)), row);
      for (let d = h * D; d < (h + 1) * D; d++)
        for (let key = 0; key <= query; key++)
          z[query * C + d] += f(pattern[row + key] * qkv[key * 3 * C + 2 * C + d]);
    }
  record(`${at}.scores`, [H, T, T], scores);
  record(`${at}.pattern`, [H, T, T], pattern);
  record(`${at}.z`, [T, H, D], z);
  return record(`${at}.out`, [T, C], linear(z, `${at}.c_proj`, C, C));
}

// Each token by itself: [T, C] -> [T, C]
function mlp(x, at) {
  const pre = record(`${at}.pre`, [T, M], linear(x, `${at}.c_fc`, C, M));
  const post = record(`${at}.post`, [T, M], pre.map(gelu));
  return record(`${at}.out`, [T, C], linear(post, `${at}.c_proj`, M, C));
}

// Read the stream and add to it, twice.
function block(x, at) {
  const a = attention(record(`${at}.ln_1`, [T, C], layerNorm(x, `${at}.ln_1`)), `${at}.attn`);
  const middle = record(`${at}.resid_mid`, [T, C], add(x, a));
  const m = mlp(record(`${at}.ln_2`, [T, C], layerNorm(middle, `${at}.ln_2`)), `${at}.mlp`);
  return record(`${at}.resid_post`, [T, C], add(middle, m));
}

const table = weight("wte.weight");
const wte = Float32Array.from(ids.flatMap((id) => Array.from(table.subarray(id * C, (id + 1) * C))));
const wpe = weight("wpe.weight").subarray(0, T * C);
record("wte", [T, C], wte);
record("wpe", [T, C], wpe);
let x = record("embed", [T, C], add(wte, wpe));
for (let layer = 0; layer < L; layer++) x = block(x, `h.${layer}`);
x = record("ln_f", [T, C], layerNorm(x, "ln_f"));
const logits = new Float32Array(T * V);
for (let t = 0; t < T; t++)
  for (let token = 0; token < V; token++)
    for (let i = 0; i < C; i++) logits[t * V + token] += f(x[t * C + i] * table[token * C + i]);
record("logits", [T, V], logits);

const bytes = steps.map(({ array }) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength));
writeFileSync(`${target}.bin`, Buffer.concat(bytes));
writeFileSync(`${target}.txt`, steps.map((s) => `${s.name} float32 ${s.shape.join(" ")}\n`).join(""));
