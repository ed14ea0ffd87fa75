// What works on each row or number alone: embeddings, sums, LayerNorm, activation functions.

/** Row `indices[i]` of the table: -> [pos, n_embd]. */
export function lookup(indices, table, out) {
  const n = table.shape[1];
  indices.forEach((index, row) => out.data.set(table.data.subarray(index * n, (index + 1) * n), row * n));
}

/** The sum; how every part of the model writes to the residual stream. */
export function add(a, b, out) {
  for (let i = 0; i < out.data.length; i++) out.data[i] = a.data[i] + b.data[i];
}

/** Mean and 1 / standard deviation of the n numbers from `start` on. */
export function layer_norm_statistics(data, start, n, epsilon) {
  let sum = 0,
    squares = 0;
  for (let i = start; i < start + n; i++) sum += data[i];
  const mean = sum / n;
  for (let i = start; i < start + n; i++) {
    const apart = data[i] - mean;
    squares += apart * apart; // `** 2` is many times slower
  }
  return [mean, 1 / Math.sqrt(squares / n + epsilon)];
}

/** Each row to mean 0 and variance 1, then scaled and shifted: [pos, n_embd] -> [pos, n_embd]. */
export function layer_norm(x, p, out) {
  const n = p.weight.length;
  for (let start = 0; start < x.data.length; start += n) {
    const [mean, rstd] = layer_norm_statistics(x.data, start, n, p.epsilon);
    for (let i = 0; i < n; i++) out.data[start + i] = (x.data[start + i] - mean) * rstd * p.weight[i] + p.bias[i];
  }
}

/** Applies a function to every number. */
function each(f) {
  return (x, out) => {
    for (let i = 0; i < x.data.length; i++) out.data[i] = f(x.data[i]);
  };
}

/** GELU by its tanh approximation, GPT-2's own. */
export const gelu_tanh = each((x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))));

/** GELU itself, `x * Phi(x)`, by the error function. */
export const gelu_erf = each((x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)));

/** The larger of x and 0. */
export const relu = each((x) => Math.max(x, 0));

/** `x * sigmoid(x)`. */
export const silu = each((x) => 0.5 * x * (1 + Math.tanh(0.5 * x)));

/** The hyperbolic tangent. */
export const tanh = each(Math.tanh);

/** By the names that a config has for them. */
export const ACTIVATIONS = {
  gelu_new: gelu_tanh,
  gelu_pytorch_tanh: gelu_tanh,
  gelu: gelu_erf,
  relu,
  silu,
  tanh,
};

/** The error function, by a series of terms of one sign. */
export function erf(x) {
  if (Math.abs(x) > 6) return Math.sign(x);
  let term = x,
    sum = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}
