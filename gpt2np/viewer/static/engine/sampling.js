// Choosing the next token: temperature, top-k, top-p, softmax, one draw; and why that one. As generation/sampling.py.

const TOP = 10; // tokens that an entry of the ledger names

/** Softmax in double precision: exp(logit) over its sum; 0 where the logit is -Infinity. */
export function probabilities(logits) {
  const weights = new Float64Array(logits.length);
  let most = -Infinity,
    sum = 0;
  for (const x of logits) most = Math.max(most, x);
  for (let i = 0; i < logits.length; i++) sum += weights[i] = Math.exp(logits[i] - most);
  for (let i = 0; i < weights.length; i++) weights[i] /= sum;
  return weights;
}

/** Divide by the temperature, in float32. */
function scale_temperature(logits, temperature) {
  return logits.map((x) => x / Math.fround(temperature));
}

/** Keep the k largest logits, and whatever equals the smallest of them. */
function keep_top_k(logits, k) {
  const smallest = logits.slice().sort()[Math.max(0, logits.length - k)];
  return logits.map((x) => (x < smallest ? -Infinity : x));
}

/** Keep the smallest set of likely tokens whose probabilities reach p; sums are in float32, from the least likely up. */
function keep_top_p(logits, p) {
  const ascending = logits.slice().sort(),
    limit = Math.fround(1 - p);
  let sum = 0,
    removed = 0;
  for (const chance of probabilities(ascending)) {
    sum += Math.fround(chance);
    if (Math.fround(sum) > limit) break;
    removed++;
  }
  removed = Math.min(removed, logits.length - 1);
  const border = ascending[removed];
  let below = 0;
  const out = logits.map((x) => (x < border ? (below++, -Infinity) : x));
  for (let i = 0; below < removed; i++) {
    if (logits[i] === border) {
      out[i] = -Infinity;
      below++;
    }
  }
  return out;
}

/** What shapes the distribution that is drawn from, in order; greedy has none. */
function warpers({ temperature, top_k, top_p }) {
  if (!temperature) return [];
  const steps = [];
  if (temperature !== 1) steps.push(["temperature", (x) => scale_temperature(x, temperature)]);
  if (top_k) steps.push(["top_k", (x) => keep_top_k(x, top_k)]);
  if (top_p && top_p < 1) steps.push(["top_p", (x) => keep_top_p(x, top_p)]);
  return steps;
}

/** Indices of the k largest numbers (with sign -1, of the smallest), the first first; lower ones first among equals. */
export function largestOf(values, k, sign = 1) {
  const best = [];
  let border = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const value = sign * values[i];
    if (best.length === k && !(value > border)) continue;
    if (best.length === k) best.pop();
    let at = best.length;
    while (at > 0 && sign * values[best[at - 1]] < value) at--;
    best.splice(at, 0, i);
    border = sign * values[best[best.length - 1]];
  }
  return best;
}

/** Ids of the n largest values above 0, largest first, equal ones in order of id. */
export function likeliest(values, n = TOP) {
  return largestOf(values, n).filter((id) => values[id] > 0);
}

function removal(name, before, after) {
  const gone = (x, i) => (after[i] === -Infinity && before[i] > -Infinity ? x : 0),
    count = before.reduce((n, _, i) => n + gone(1, i), 0);
  if (!count) return { name, count, mass: 0, most_likely: [] };
  const chances = probabilities(before).map(gone);
  return { name, count, mass: chances.reduce((a, b) => a + b, 0), most_likely: likeliest(chances) };
}

/** The token that follows, from its logits [vocab], as an entry of the ledger; `draw` gives a number from 0 to 1. */
export function choose(logits, sampling, step, draw) {
  let final = Float32Array.from(logits);
  const removals = [];
  for (const [name, apply] of warpers(sampling)) {
    const after = apply(final);
    removals.push(removal(name, final, after));
    final = after;
  }
  const chances = probabilities(final),
    greedy = !sampling.temperature,
    uniform = greedy ? null : draw();
  const [token, interval] = greedy ? [final.indexOf(final.reduce((a, b) => Math.max(a, b))), null] : drawn(chances, uniform);
  const possible = chances.filter((p) => p > 0);
  return {
    step,
    token_id: token,
    probability: chances[token],
    raw_logit: logits[token],
    raw_rank: logits.reduce((n, x) => n + (x > logits[token] ? 1 : 0), 0),
    removals,
    survivors: possible.length,
    entropy: Math.abs(possible.reduce((sum, p) => sum - p * Math.log(p), 0)),
    top: likeliest(chances).map((id) => [id, chances[id]]),
    uniform,
    interval,
  };
}

/** The first token whose cumulative probability is above the number drawn, and its stretch [low, high). */
function drawn(chances, uniform) {
  let last = chances.length - 1,
    low = 0;
  while (chances[last] === 0) last--;
  for (let i = 0; i < last; i++) {
    const high = low + chances[i];
    if (high > uniform) return [i, [low, high]];
    low = high;
  }
  return [last, [low, 1]];
}
