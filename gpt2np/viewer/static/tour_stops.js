// The stops of the tour: what each one chooses on the page, and what there is to say about this run's numbers there.

import { digits, percent, quoted, signed } from "./drawing.js";

/** Stops from a token's row to the prediction, at the last position: {title, state, figure, text, caption}; fewer where parts are missing. A caption is for paper. */
export function tourStops(run) {
  const pos = run.T - 1;
  const made = [
    token(run, pos),
    stream(run, pos),
    looks(run, pos),
    writes(run, pos),
    fires(run, pos),
    grows(run, pos),
    decides(run, pos),
    adds(run, pos),
  ];
  return made.filter(Boolean).map((stop) => ({ ...stop, state: { pos, ...stop.state } }));
}

const norm = (run, site, layer, pos) => digits(run.stats(site, layer, pos)?.norm, 3);
const strip = ".card .big-strip";
const stripCaption = (run) =>
  `All ${run.model.n_embd} numbers, row by row from left to right. Blue: negative, orange: positive; full colour: the largest 3 of 100.`;

function token(run, pos) {
  if (!run.has("wte")) return null;
  return {
    title: "A token becomes a vector",
    state: { panel: "map", part: "wte", layer: 0 },
    figure: strip,
    caption: stripCaption(run),
    text:
      `The last token is ${quoted(run.labels[pos])}, number ${run.ids[pos].toLocaleString("en")} of ${run.model.vocab.toLocaleString("en")}. ` +
      `Row ${run.ids[pos].toLocaleString("en")} of the embedding table is its vector: ${run.model.n_embd} numbers, of length ${norm(run, "wte", 0, pos)}.`,
  };
}

function stream(run, pos) {
  if (!run.has("embed")) return null;
  const added = run.has("wpe")
    ? `The vector of position ${pos}, of length ${norm(run, "wpe", 0, pos)}, is added to it. The result`
    : "No position is added here: queries and keys are turned by it later. The row is only made longer, and this vector";
  return {
    title: "The residual stream begins",
    state: { panel: "map", part: "embed", layer: 0 },
    figure: strip,
    caption: stripCaption(run),
    text: `${added}, of length ${norm(run, "embed", 0, pos)}, is the residual stream: every block reads it, and adds to it.`,
  };
}

function looks(run, pos) {
  const best = strongestLook(run, pos);
  if (!best) return null;
  const { layer, head, key, w } = best;
  return {
    title: "Attention looks back",
    state: { panel: "attention", layer, head, part: "attn.pattern" },
    figure: ".picture canvas",
    caption: "Rows: who looks; columns: at whom. The darker, the larger the share, from 0 to 100 %.",
    text:
      `Each head decides where this position looks. ${capital(run.layerName(layer))}, head ${head} takes ${run.weightText(w)} from ` +
      `${quoted(run.labels[key])} at position ${key}${key === pos ? ", itself" : ""}; each row of its pattern adds up to 100 %.`,
  };
}

// The largest share that any head takes from an earlier token other than the first; else from any.
function strongestLook(run, pos) {
  let best = null;
  for (let layer = 0; layer < run.L; layer++)
    for (let head = 0; head < run.H; head++)
      run.weights(layer, head, pos)?.forEach((w, key) => {
        const telling = key > 0 && key < pos ? 1 : 0;
        if (!best || telling > best.telling || (telling === best.telling && w > best.w))
          best = { layer, head, key, w, telling };
      });
  return best;
}

function writes(run, pos) {
  const layer = strongestLook(run, pos)?.layer ?? 0;
  if (!run.has("attn.out") || !run.has("resid_mid")) return null;
  return {
    title: "What the heads bring is added",
    state: { panel: "map", layer, part: "attn.out" },
    figure: strip,
    caption: stripCaption(run),
    text:
      `The heads of ${run.layerName(layer)} write a vector of length ${norm(run, "attn.out", layer, pos)}. ` +
      `Added to the stream it gives one of length ${norm(run, "resid_mid", layer, pos)}: nothing is replaced, only added.`,
  };
}

function fires(run, pos) {
  const row = pos - run.detail.first;
  const ids = run.at("active:id", row);
  if (!ids) return null;
  const layer = run.at("active:layer", row)[0];
  const strength = digits(run.at("active:post", row)[0], 3);
  const near = run.at("sparsity", layer)?.[0];
  const silent = near === undefined ? "" : `; in this layer ${percent(near)} of all activations in the text are within 0.01 of 0`;
  return {
    title: "The MLP works on each position alone",
    state: { panel: "mlp", layer, neuron: `${layer}.${ids[0]}`, part: "mlp.post" },
    figure: ".mlp .chart svg",
    text:
      `Each MLP has ${run.model.d_mlp.toLocaleString("en")} neurons. Neuron ${ids[0]} of layer ${layer} is the most active here, at ${strength}${silent}.`,
  };
}

function grows(run, pos) {
  if (!run.has("resid:norm")) return null;
  const [first, last] = [run.at("resid:norm", 0)[pos], run.at("resid:norm", 2 * run.L)[pos]];
  return {
    title: last > first ? "Layer by layer the stream grows" : "Layer by layer the stream changes",
    state: { panel: "residual", layer: run.L - 1, part: "resid_post" },
    figure: ".residual .two figure",
    text:
      `From length ${digits(first, 3)} to ${digits(last, 3)} after ${run.L} layers. The cosine of beginning and end is ` +
      `${run.at("resid:cosine", 0)[pos].toFixed(2).replace("-", "−")}; 1 would be the same direction.`,
  };
}

function decides(run, pos) {
  const row = pos - run.detail.firstLens;
  if (!run.at("lens:id", 0, row)) return null;
  const tops = Array.from({ length: run.L }, (_, layer) => run.at("lens:id", 2 * layer + 2, row)[0]);
  const answer = tops.at(-1),
    start = run.at("lens:id", 0, row)[0],
    at = tops.indexOf(answer),
    stays = tops.slice(at).every((id) => id === answer),
    word = quoted(run.word(answer)),
    p = percent(run.at("lens:p", 2 * at + 2, row)[0]);
  const said =
    start === answer
      ? `already says ${word}, which is the answer at the end too${at === 0 && stays ? "; no layer changes that" : ", though not after every layer between"}.`
      : `would say ${quoted(run.word(start))}. After layer ${at} it says ${word} for the first time, with ${p}${stays ? "" : "; later layers turn away from it and come back"}.`;
  return {
    title: "When the answer appears",
    state: { panel: "lens", layer: at, part: "resid_post" },
    figure: ".lens .scroll table:last-child",
    caption: "The likeliest token after each layer; the darker, the more probable.",
    text: `Read out right after the embedding, the stream ${said}`,
  };
}

function adds(run, pos) {
  const ids = run.at("next:id", pos);
  if (!ids || run.L < run.model.n_layer) return null;
  const said = `The prediction: ${quoted(run.word(ids[0]))} with ${percent(run.at("next:p", pos)[0])}, before ${quoted(run.word(ids[1]))} with ${percent(run.at("next:p", pos)[1])}.${chosen(run, pos)}`;
  const pushed = run.at("push", pos - run.detail.firstLens, 0);
  if (!pushed) return { title: "The next token", state: { panel: "map", part: "logits", layer: run.L - 1 }, figure: strip, text: said };
  const best = Math.max(0, pushed.indexOf(Math.max(...pushed)));
  const sum = pushed.reduce((a, b) => a + b, 0);
  const share = sum > pushed[best] ? ` of ${signed(sum)}` : `; all parts together give ${signed(sum)}`;
  return {
    title: "The next token",
    state: { panel: "contributions", layer: run.L - 1 },
    figure: ".contributions .lists",
    caption: "What each part adds to this logit; the largest, up and down.",
    text: `${said} The logit of ${quoted(run.word(ids[0]))}${run.model.capped ? ", before the cap on it," : ""} is a sum: ${partName(run, run.components[best])} adds most, ${signed(pushed[best])}${share}.`,
  };
}

/** The token that was chosen there, of a generation; its probability before the filters, and after them where that is another. */
function chosen(run, pos) {
  const step = run.generation?.steps.find((each) => each.pos === pos);
  if (!step) return "";
  const own = step.own ?? step.p,
    after = step.p !== null && percent(step.p) !== percent(own ?? step.p) ? `, and ${percent(step.p)} after the filters` : "";
  return ` Chosen was ${quoted(run.word(step.id))}${own === null ? "" : `, with ${percent(own)}${after}`}.`;
}

function partName(run, name) {
  const [, layer, what] = name.match(/^h\.(\d+)\.(.+)$/) ?? [];
  const outside = { wte: "the token’s embedding", wpe: "the position’s vector", embed: "the embedding", "ln_f.bias": `the bias of the last ${run.model.norm}` };
  if (layer === undefined) return outside[name] ?? name;
  const head = what.match(/^attn\.head\.(\d+)$/);
  return `layer ${layer}’s ${head ? `head ${head[1]}` : what === "mlp" ? "MLP" : what === "attn.bias" ? "attention bias" : what}`;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
