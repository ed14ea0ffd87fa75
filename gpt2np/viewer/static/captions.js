// What the caption of each figure says: what is drawn, which side is what, the unit and the colours; so that a figure that
// somebody has taken out of the page can be read alone.

import { isDark, quoted } from "./drawing.js";
import { fullName } from "./map_card.js";

const here = (run, { pos }) => `position ${pos} ${quoted(run.labels[pos])}`;
const headOf = (run, { layer, head }) => `${run.layerName(layer)}, head ${head}`;
const cap = (run) => (run.model.capped ? ", before the cap on it" : "");
const SIGNS = "Blue: negative, orange: positive";
const shares = () => (isDark() ? "from dark (0 %) over violet and green to yellow (100 %)" : "from pale (0 %) over green to dark violet (100 %)");
const strengths = () => (isDark() ? "from dark over green to yellow" : "from pale over green to dark violet");
const chances = () => (isDark() ? "from dark (0 %) to pale green (100 %)" : "from pale (0 %) to dark teal (100 %)");
const pressed = (element, words) =>
  [...element.querySelectorAll(".toggle button")].some((button) => button.getAttribute("aria-pressed") === "true" && button.textContent === words);

function attention(run, state, element) {
  const rows = `Layer ${state.layer}, head ${state.head}: rows are queries (who looks), columns keys (at whom)`;
  return pressed(element, "scores")
    ? `${rows}; colour (and number): the score before softmax. ${SIGNS}; full colour: the largest score of this head.`
    : `${rows}; colour (and number, where there is room): share of the query’s attention in percent, ${shares()}. Framed: ${here(run, state)}.`;
}

function matrix(run, state, element) {
  const blocks = "One matrix in blocks of weights, rows and columns as in W; a vector is multiplied from the left";
  return pressed(element, "mean")
    ? `${blocks}. Colour: the mean of a block. ${SIGNS}; full colour: the largest 3 of 100 blocks.`
    : `${blocks}. Colour: the root mean square of a block, ${strengths()}; the ends of the scale: the smallest and the largest 3 of 100 blocks.`;
}

// Of each panel: what holds a figure, its file's name, and what its caption says.
export const CAPTIONS = {
  map: [
    [
      ".map",
      "map",
      (run, s) =>
        `The way of ${here(run, s)} through the model from top to bottom, ${run.layerName(s.layer)} drawn whole. Every strip is a vector, its components from left to right. ` +
        `${SIGNS}; full colour: the largest 3 of 100 cells of the strip. Left: the same of each token, a column each. Curves: what attention carries to this one, ` +
        `orange by head ${s.head} in layer ${s.layer}, grey elsewhere by all heads on average; thin lines: its query held against each key.`,
    ],
    [
      ".strips",
      "strips",
      (run, s) => `${fullName(run, s.part, s.layer)}: a strip for each position, named on the left, components from left to right. ${SIGNS}; all strips on one scale.`,
    ],
  ],
  attention: [
    [".picture", "attention", attention],
    [
      ".multiples",
      "heads-of-layer",
      (run, s) => `The attention patterns of all heads of ${run.layerName(s.layer)}: rows are queries, columns keys, from the upper left on; colour: share of attention, ${shares()}.`,
    ],
    [
      ".every-head",
      "all-heads",
      (run) => `The attention patterns of all ${run.L * run.H} heads, layers down and heads across; in each, rows are queries and columns keys, from the upper left on; colour: share of attention, ${shares()}.`,
    ],
    [".finder .grid", "heads-by-score", (run, s, element) => `The score ‘${scoreOf(element)}’ of each head: layers down, heads across; colour ${strengths()}.`],
  ],
  lens: [
    [
      ".scroll",
      "logit-lens",
      () => `The likeliest next token, if the model stopped there: positions across, each named by its token; layers down, from the embedding to the last. Colour: its probability, ${chances()}, by the square root.`,
    ],
    [".chart", "rank", (run, s) => `The rank of one token to follow ${here(run, s)}, down the side on a logarithmic scale (1: the likeliest of ${run.model.vocab.toLocaleString("en")}); across: from the embedding through the layers.`],
  ],
  contributions: [
    [".lists", "contributions", (run, s, element) => `What each part adds to ${logitOf(element)} at ${here(run, s)}${cap(run)}, in logits: the largest of both signs. Orange raises it, blue lowers it; all bars on one scale.`],
    [".components", "all-contributions", (run, s, element) => `What each part adds to ${logitOf(element)} at ${here(run, s)}${cap(run)}, in logits: layers down, heads, biases and the MLP across. Orange raises it, blue lowers it.`],
    [".paths", "paths", (run, s, element) => `The strongest paths to ${logitOf(element)} at ${here(run, s)}${cap(run)}, in logits: who wrote what, at which token, and the head that carried it here.`],
  ],
  mlp: [
    [".chart", "neurons", (run, s) => `The neurons of ${run.layerName(s.layer)} at ${here(run, s)}: across, what goes into the activation function; up, what comes out (left) and how many neurons there are (right).`],
    [".neuron", "neuron", () => "One neuron along the text: a bar is its activation at a token. Orange: positive, blue: negative; bars to the scale of the largest."],
    [".neuron-pushes", "neuron-pushes", (run, s, element) => `What single neurons add to ${logitOf(element)} at ${here(run, s)}${cap(run)}, in logits. Orange raises it, blue lowers it; bars to the scale of the largest in each list.`],
    [".quiet", "active-neurons", () => "How many of all neurons of a layer are active, of all positions of the text; a whole bar is 100 %."],
  ],
  residual: [
    [
      ".two",
      "residual-stream",
      (run, s) =>
        `The residual stream of ${here(run, s)} (thick) and of the other positions (thin, grey). Across: after the embedding, and after attention and MLP of each layer. ` +
        "Up, on the left: its norm, which is its length, on a logarithmic scale; on the right: the cosine of its angle to the last stream, 1 where it points the same way.",
    ],
    [".lists", "written", (run, s) => `How much each layer writes to the stream at ${here(run, s)}: the norm of what attention and what the MLP adds; both on one scale.`],
  ],
  weights: [
    [".parameter-bars", "parameters", () => "The share of each kind of part in all parameters, of this model and of the four released ones of GPT-2; on the right: how many parameters there are."],
    [".boxes", "matrices", () => "Each matrix as a box, rows down and columns across; sides are as long as the square roots of the numbers of rows and columns. Below: rows × columns = weights."],
    [".matrix-map", "matrix", matrix],
    [
      ".circuits",
      "circuits",
      (run, s) => `The weights of ${headOf(run, s)} alone: scores of one token for another (left), what attending adds to logits (right; both without a text), and the strongest directions of both. ${SIGNS}; full colour: the largest of the table.`,
    ],
    [".grids", "composition", () => `How much of what a head writes (rows) a head of a later layer reads (columns): 0 nothing, 1 a single direction shared; colour ${strengths()}.`],
    [".memory", "memory", () => "Which part writes against (left) or along (right) what an earlier part wrote at the same position: the cosine of the two, of all positions of this text together."],
  ],
  against: [
    [
      ".apart-grid",
      "streams-apart",
      (run, s, element) => {
        const grid = "How far apart the residual streams of two texts are: down, from the embedding to the final norm; across, token beside token, ≠ where they differ";
        return pressed(element.closest(".apart"), "cosine")
          ? `${grid}. Colour: the cosine of the two, ${isDark() ? "dark" : "pale"} where it is 1.`
          : `${grid}. Colour: the length of the difference as a share of the mean of both lengths, ${strengths()} (1 or more).`;
      },
    ],
    [".chart", "logits-apart", () => "One logit minus another in two texts, up, in logits; across: from the embedding through the layers. Circles: the first text; squares and dashes: the second."],
    [".two-patterns", "attention-of-two", (run, s) => `Attention of ${headOf(run, s)} in two texts: rows are queries, columns keys, from the upper left on; colour: share of attention, ${shares()}.`],
  ],
  generation: [
    [".steps-box", "steps", (run) => `All ${run.generation.steps.length} steps of a generation, a row each.`],
    [".lists", "choice", (run, s) => `Step ${s.step}: the candidates, and ${run.generation.beams ? "the beams" : "what filters removed"}.`],
  ],
};

/** The score by which the heads are coloured, in its own words. */
function scoreOf(grid) {
  return grid.closest(".finder").querySelector("select").selectedOptions[0].textContent;
}

/** Whose logit is taken apart: as the pressed button says. */
function logitOf(element) {
  const button = element.closest(".contributions, .neuron-pushes").querySelector('.toggle [aria-pressed="true"]');
  const tokens = [...(button?.querySelectorAll(".token") ?? [])].map((token) => `‘\u2068${token.textContent}\u2069’`);
  return tokens.length === 2 ? `the logit of ${tokens[0]} minus that of ${tokens[1]}` : `the logit${tokens.length ? ` of ${tokens[0]}` : ""}`;
}
