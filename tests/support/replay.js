// Chooses the tokens of a ledger again, from the definitions alone: node tests/support/replay.js < ledger.jsonl
//
// Each line of standard input is one step: raw_logits (null is -infinity), sampling (the options), uniform (the number
// drawn, null when greedy), prompt_ids and step (0 begins a new text). The chosen ids are not read: they are printed, one
// a line, and are part of the text that the penalties of later steps count. Prompts decoded side by side are told apart
// by a key "prompt", if there is one.
//
// Logits and probabilities are rounded to float32 (Math.fround) wherever gpt2np, like Hugging Face, has them in float32.
"use strict";

const f32 = Math.fround;

// Softmax in double precision; a logit of -Infinity gives exactly 0.
function softmax(x) {
  const max = x.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = x.map((v) => Math.exp(v - max));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((w) => w / total);
}

// Positive logits of tokens in the text are divided by the penalty, negative ones multiplied.
function repetitionPenalty(x, text, penalty) {
  const p = f32(penalty);
  for (const id of new Set(text)) x[id] = f32(x[id] < 0 ? x[id] * p : x[id] / p);
}

// OpenAI: mu[j] - c[j] * frequency - (c[j] > 0) * presence; c[j] counts generated tokens, not the prompt's.
function presenceAndFrequencyPenalty(x, generated, presence, frequency) {
  const counts = new Map();
  for (const id of generated) counts.set(id, (counts.get(id) || 0) + 1);
  for (const [id, c] of counts) x[id] = f32(x[id] - f32(c * frequency + presence));
}

// A token is removed if it would complete an n-gram that the text already has.
function noRepeatNgram(x, text, n) {
  for (let start = 0; start + n <= text.length; start++) {
    let same = true;
    for (let j = 0; j < n - 1; j++) same = same && text[start + j] === text[text.length - n + 1 + j];
    if (same) x[text[start + n - 1]] = -Infinity;
  }
}

function temperature(x, t) {
  for (let i = 0; i < x.length; i++) x[i] = f32(x[i] / f32(t));
}

// The k largest stay, and whatever equals the smallest of them.
function topK(x, k) {
  const smallest = x.slice().sort((a, b) => b - a)[Math.min(k, x.length) - 1];
  for (let i = 0; i < x.length; i++) if (x[i] < smallest) x[i] = -Infinity;
}

// From the least likely token upward (the lower id first among equals), tokens go while their sum is at most 1 - p.
function topP(x, p) {
  const chances = softmax(x).map(f32);
  const order = x.map((_, i) => i).sort((a, b) => (x[a] === x[b] ? a - b : x[a] < x[b] ? -1 : 1));
  const limit = f32(1 - p);
  let sum = 0;
  for (const id of order.slice(0, -1)) {
    sum += chances[id];
    if (f32(sum) > limit) break;
    x[id] = -Infinity;
  }
}

// Tokens stay that are at least minP times as likely as the likeliest.
function minP(x, m) {
  const chances = softmax(x).map(f32);
  const limit = f32(f32(m) * chances.reduce((a, b) => Math.max(a, b), 0));
  chances.forEach((c, i) => { if (c < limit) x[i] = -Infinity; });
}

function choose(x, s, text, promptLength, uniform) {
  if (s.repetition_penalty !== 1) repetitionPenalty(x, text, s.repetition_penalty);
  if (s.presence_penalty || s.frequency_penalty)
    presenceAndFrequencyPenalty(x, text.slice(promptLength), s.presence_penalty, s.frequency_penalty);
  if (s.no_repeat_ngram_size) noRepeatNgram(x, text, s.no_repeat_ngram_size);
  if (s.temperature === 0) return x.reduce((best, v, i) => (v > x[best] ? i : best), 0);
  if (s.temperature !== 1) temperature(x, s.temperature);
  if (s.top_k) topK(x, s.top_k);
  if (s.top_p !== null && s.top_p < 1) topP(x, s.top_p);
  if (s.min_p) minP(x, s.min_p);

  let end = 0, last = -1;  // probabilities end to end, in order of id: the first whose end is above the number drawn
  for (const [id, chance] of softmax(x).entries()) {
    if (chance > 0) last = id;
    end += chance;
    if (end > uniform) return id;
  }
  return last;
}

async function replay(lines) {
  const texts = new Map();  // prompt -> { ids, promptLength }
  for await (const line of lines) {
    if (!line.trim()) continue;
    const { step, raw_logits, sampling, uniform, prompt_ids, prompt = 0 } = JSON.parse(line);
    if (step === 0) texts.set(prompt, { ids: prompt_ids.slice(), promptLength: prompt_ids.length });
    const text = texts.get(prompt);
    const logits = raw_logits.map((v) => (v === null ? -Infinity : f32(v)));
    const id = choose(logits, sampling, text.ids, text.promptLength, uniform);
    text.ids.push(id);
    console.log(id);
  }
}

replay(require("readline").createInterface({ input: process.stdin }));
