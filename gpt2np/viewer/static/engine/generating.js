// A generation, token by token, with a cache: the same draws and the same ledger as `gpt2np generate`.

import { Pass, forward, newCache } from "./forward.js";
import { draws } from "./pcg64.js";
import { choose, probabilities } from "./sampling.js";

/**
 * Choose up to `most` tokens after `ids`, fewer where the context ends: {ids, ledger, own, stopped_by}; `own` is how probable
 * the model itself held each chosen token. `told` hears of every entry of the ledger as it is made; `wanted` says whether to go on.
 */
export async function generate(model, ids, options, { edit = null, pause, told = () => {}, wanted = () => true } = {}) {
  const { config, parameters } = model,
    cache = newCache(config),
    draw = draws(options.seed),
    all = [...ids],
    ledger = [],
    own = [];
  let fed = ids,
    stopped_by = "length";
  for (let step = 0; step < options.most && all.length <= config.n_positions && wanted(); step++) {
    const logits = await forward(parameters, config, new Pass(fed, { keep: false, edit, cache, pause }));
    const entry = choose(logits.data, options, step, draw);
    ledger.push(entry);
    own.push(probabilities(logits.data)[entry.token_id]);
    all.push(entry.token_id);
    fed = [entry.token_id];
    told(entry);
    await pause?.();
    if (config.eos_ids.includes(entry.token_id)) {
      stopped_by = "eos";
      break;
    }
  }
  return { ids: all, ledger, own, stopped_by };
}
