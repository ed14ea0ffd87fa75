// A generation as a file: what `gpt2np generate --show-choices --json` prints of the same.

import { download } from "./figure_saving.js";

/** Its text, tokens, probabilities and every choice; `engine` decodes, `facts` are the page's, `made` what the engine made. */
export async function generationRecord(engine, facts, made, options) {
  const n = made.ids.length - made.ledger.length,
    decoded = (ids) => engine.ask("decode", { ids }),
    part = async (ids) => ({ text: await decoded(ids), token_ids: ids }),
    { temperature, top_k, top_p } = options,
    sampling = { ...facts.sampling, temperature, ...(temperature ? { top_k, top_p } : {}) };
  return {
    model: facts.page.model.name,
    text: await decoded(made.ids),
    prompt: await part(made.ids.slice(0, n)),
    response: await part(made.ids.slice(n)),
    tokens: made.tokens,
    probabilities: made.ledger.map((entry) => entry.probability),
    stopped_by: made.run.header.generation.stopped_by,
    choices: made.ledger.map((entry) => ({ ...entry, sampling, prompt_ids: null, raw_logits: null })),
  };
}

/** Save it as a file. */
export function saveRecord(record) {
  download(new Blob([`${JSON.stringify(record, null, 1)}\n`], { type: "application/json" }), "gpt2np-generation.json");
}
