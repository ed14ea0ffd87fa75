// The figures of the panels: a caption below each, that says of what run and place it is, and buttons that save it.

import { el, quoted } from "./drawing.js";
import { fullName } from "./map_card.js";
import { download, pictureOf, pngOf } from "./figure_saving.js";

const here = (run, { pos }) => `position ${pos} ${quoted(run.labels[pos])}`;
const head = (run, { layer, head }) => `${run.layerName(layer)}, head ${head}`;

// Of each panel: what holds a figure, its file's name, and what its caption says.
const FIGURES = {
  map: [
    [".map", "map", (run, s) => `The way of ${here(run, s)} through the model, ${run.layerName(s.layer)} drawn whole; every cell is a number of a vector.`],
    [".strips", "strips", (run, s) => `${fullName(run, s.part, s.layer)} at several positions, one strip each, all on one scale.`],
  ],
  attention: [
    [".picture", "attention", (run, s) => `Attention of ${head(run, s)}: each row is a query, each column a key that it looks at.`],
    [".multiples", "heads-of-layer", (run, s) => `Attention patterns of all heads of ${run.layerName(s.layer)}.`],
    [".every-head", "all-heads", () => "Attention patterns of all heads of all layers: rows are queries, columns keys."],
    [".finder .grid", "heads-by-score", () => "Each head of each layer by the chosen score."],
  ],
  lens: [
    [".scroll", "logit-lens", () => "What would be predicted after each layer at each position; the colour is its probability."],
    [".chart", "rank", (run, s) => `The rank of one token to follow ${here(run, s)}, layer by layer.`],
  ],
  contributions: [
    [".lists", "contributions", (run, s) => `What each part adds to a logit at ${here(run, s)}: the largest.`],
    [".paths", "paths", (run, s) => `The strongest paths through a head to a logit at ${here(run, s)}.`],
    [".components", "all-contributions", (run, s) => `What each part adds to a logit at ${here(run, s)}, layer by layer.`],
  ],
  mlp: [
    [".chart", "neurons", (run, s) => `Neurons of ${run.layerName(s.layer)} at ${here(run, s)}, before and after activation.`],
    [".neuron-pushes", "neuron-pushes", (run, s) => `What neurons add to a logit at ${here(run, s)}.`],
    [".neuron", "neuron", () => "One neuron along the text."],
  ],
  residual: [[".two", "residual-stream", (run, s) => `The residual stream of ${here(run, s)} and, thin, of all others.`]],
  weights: [
    [".parameter-bars", "parameters", () => "The share of each kind of part in all parameters, of this model and of the four released ones."],
    [".boxes", "matrices", () => "Matrices as boxes; each side is as long as the root of its size."],
    [".matrix-map", "matrix", (run, s) => `One matrix, of ${run.layerName(s.layer)} where it is of a layer, in blocks; full colour: the largest and smallest 3 of 100.`],
    [".circuits", "circuits", (run, s) => `Scores and effects between tokens, and what is read and written, by the weights of ${head(run, s)}.`],
    [".grids", "composition", () => "How much of what one head writes a later head reads."],
  ],
  against: [
    [".apart-grid", "streams-apart", () => "Where the residual streams of two texts part: after each layer, token beside token."],
    [".chart", "logits-apart", () => "One logit above another in two texts, layer by layer."],
    [".two-patterns", "attention-of-two", (run, s) => `Attention of ${head(run, s)} in two texts.`],
  ],
  generation: [
    [".steps-box", "steps", (run) => `All ${run.generation.steps.length} steps of a generation.`],
    [".lists", "choice", (run, s) => `Step ${s.step}: the candidates, and ${run.generation.beams ? "the beams" : "what filters removed"}.`],
  ],
};

/** Put captions and buttons below the figures of a panel; returns what renews the captions. */
export function addFigures(panel, run, focus) {
  const made = (FIGURES[panel.id] ?? []).flatMap(([selector, name, caption]) => {
    const element = panel.element.querySelector(selector);
    if (!element) return [];
    const told = el("span", {});
    const said = panel.element.querySelector(".window span"); // which stretch of a long text it shows
    const full = () => `${caption(run, focus.state)} ${said?.textContent ?? ""}${run.model.name.slice(-60)}, ${run.T} tokens; gpt2np.`;
    const file = `gpt2np-${name}`;
    const save = (kind, write) =>
      el("button", { type: "button", "aria-label": `save as ${kind}: ${name}`, onclick: () => write(draw()) }, kind);
    const draw = () => pictureOf(element, full(), ".save, .card, .toggle, select, .window");
    const buttons = el(
      "span",
      { class: "save" },
      " save as ",
      save("SVG", ({ text }) => download(new Blob([text], { type: "image/svg+xml" }), `${file}.svg`)),
      " ",
      save("PNG", async (picture) => download(await pngOf(picture), `${file}.png`)),
    );
    const holder = el("div", { class: "figure-holder" });
    element.replaceWith(holder);
    const below = el("p", { class: "caption" }, told, buttons);
    holder.append(element, below);
    return [
      () => {
        told.textContent = caption(run, focus.state);
        below.hidden = element.hidden;
      },
    ];
  });
  return () => made.forEach((renew) => renew());
}
