// The engine as a server: it answers messages, in a worker, or on the page itself where none can be made.

import { Pass, forward } from "./forward.js";
import { generate } from "./generating.js";
import { generationFacts, runOf } from "./run_facts.js";
import { editOf } from "./switched_off.js";
import { Tokenizer } from "./tokenizer.js";
import { parametersOf, unzipped, weightsOf } from "./weights.js";

const SLICE = 12; // milliseconds of work after which others have their turn

class Stale extends Error {}

/** What gives others their turn when a slice is over; it throws once `stale()` is true. */
function pauses(stale) {
  let since = performance.now();
  return async () => {
    if (performance.now() - since < SLICE) return;
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(0);
    });
    since = performance.now();
    if (stale()) throw new Stale();
  };
}

/** The model from what live_page.py packed. */
export async function loadedModel(weights, facts) {
  const { config } = facts,
    tokenizer = new Tokenizer(facts.tokenizer);
  const parameters = parametersOf(weightsOf(await unzipped(weights), facts.shapes), config);
  return { facts, config, tokenizer, parameters, neuronWords: new Map() };
}

/** The ids of a text; an error where there are none or too many. */
function idsOf({ tokenizer, config }, text) {
  const most = config.n_positions;
  const tooLong = (n) => new Error(`The text has ${n} tokens; the context of this model holds ${most}.`);
  if (text.length > most * tokenizer.longest) throw tooLong(`more than ${most}`);
  const ids = tokenizer.encode(text);
  if (ids.length > most) throw tooLong(ids.length);
  if (!ids.length) throw new Error("There is no text to read: type something.");
  return ids;
}

const ANSWERS = {
  tokenize: (model, { text }) => {
    const ids = model.tokenizer.encode(text);
    return { ids, tokens: ids.map((id) => model.tokenizer.token(id)) };
  },
  decode: (model, { ids }) => model.tokenizer.decode(ids),
  run: (model, { text, ids = idsOf(model, text), off, shown }, pause, part) => runOf(model, { ids, off, shown }, pause, part),
  /** Loss of each token in nats, with parts off; null for the first. */
  losses: async (model, { ids, off }, pause) => {
    const pass = new Pass(ids, { edit: editOf(off), pause, keep: false });
    return lossesOf(await forward(model.parameters, model.config, pass), ids);
  },
  generate: async (model, { text, ids = idsOf(model, text), options, off }, pause, part, wanted) => {
    const told = (entry) => part({ entry, token: model.tokenizer.token(entry.token_id) });
    const made = await generate(model, ids, options, { edit: editOf(off), pause, told, wanted });
    const read = made.ids.slice(0, -1);
    const generation = generationFacts(model, ids.length, made, options);
    const tokens = made.ledger.map((entry) => model.tokenizer.token(entry.token_id));
    return { ids: made.ids, ledger: made.ledger, tokens, run: await runOf(model, { ids: read, off, generation }, pause) };
  },
  /** Every recorded array of a pass, by name. */
  sites: async (model, { ids, off = {} }, pause) => {
    const pass = new Pass(ids, { edit: editOf(off), pause });
    await forward(model.parameters, model.config, pass);
    return pass.sites;
  },
};

function lossesOf({ data, shape: [, vocab] }, ids) {
  return ids.map((id, pos) => {
    if (!pos) return null;
    const logits = data.subarray((pos - 1) * vocab, pos * vocab),
      most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    return most + Math.log(logits.reduce((total, x) => total + Math.exp(x - most), 0)) - logits[id];
  });
}

/**
 * What answers messages {id, kind, ...}: by {id, part} as often as there is something to tell, then {id, value}, {id, error},
 * or {id, stale} where a newer one of the same `series` has come.
 */
export function serving(post) {
  let model = null,
    stopped = -1; // generations asked for up to here are to end
  const newest = {};
  return async ({ id, kind, series = null, ...request }) => {
    if (series) newest[series] = id;
    if (kind === "stop") return void (stopped = id);
    if (kind === "hello") return void post({ id, value: null });
    const stale = () => series !== null && newest[series] !== id;
    try {
      let value = null;
      if (kind === "load") model = await loadedModel(request.weights, request.facts);
      else value = await ANSWERS[kind](model, request, pauses(stale), (part) => post({ id, part }), () => stopped < id);
      post(stale() ? { id, stale: true } : { id, value });
    } catch (error) {
      post(error instanceof Stale ? { id, stale: true } : { id, error: error.message });
    }
  };
}

if (typeof document === "undefined" && typeof postMessage === "function") {
  const answer = serving((message) => postMessage(message));
  onmessage = (event) => answer(event.data);
} else {
  globalThis.gpt2npServing = serving;
}
