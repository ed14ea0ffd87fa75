// The chosen head as two circuits of weights: what it looks for (QK) and what it carries over (OV).

import { absent, colour, darkOn, digits, el, place, signed, tokenLabel } from "./drawing.js";

/** The pane of the chosen head: scores and effects between tokens, the directions it reads and writes, whether it copies. */
export function circuitsOf(run, { layer, head }) {
  const { ids, scores, effects } = run.circuits;
  return [
    el("h3", {}, `What layer ${layer}, head ${head} makes of two tokens`),
    el(
      "p",
      { class: "small" },
      "By the weights alone, of the tokens’ embeddings, without positions and without what other layers add. Turn queries and keys by the same " +
        "rotation, or values and outputs, and every number here stays the same: only the products W_Q W_Kᵀ and W_V W_O count.",
    ),
    el(
      "div",
      { class: "two" },
      pairs(run, ids, scores[layer][head], "QK: how much the row’s token looks for the column’s", "query", "key"),
      pairs(run, ids, effects[layer][head], "OV: what attending to the row’s token adds to the column’s logit", "source", "logit"),
    ),
    ...directionsOf(run, layer, head),
  ];
}

function pairs(run, ids, values, title, down, across) {
  const most = Math.max(...values.flat().map((value) => Math.abs(value ?? 0)), 1e-9);
  const cell = (value) => {
    const t = place(value ?? NaN, most);
    const made = el("td", { class: darkOn("diverging", t) ? "light-ink" : "dark-ink" }, value === null ? "–" : signed(value, 1));
    made.style.background = colour("diverging", t);
    return made;
  };
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
    el("h4", {}, title),
    el(
      "table",
      { class: "pairs" },
      el("thead", {}, el("tr", {}, el("th", {}, `${down} ↓ ${across} →`), ids.map((id) => el("th", { scope: "col" }, tokenLabel(run.word(id), 8))))),
      el("tbody", {}, values.map((row, i) => el("tr", {}, el("th", { scope: "row" }, tokenLabel(run.word(ids[i]), 10)), row.map(cell)))),
    ),
  );
}

// The strongest directions of both circuits, each with the tokens that lie nearest to its two ends.
function directionsOf(run, layer, head) {
  if (!run.has("direction:id")) return [absent(run, "directions", "The directions that heads read and write are")];
  const strengths = run.at("direction:strength", layer, head);
  const each = strengths.length / 2;
  const words = (circuit, i, side) => [...run.at("direction:id", layer, head, circuit, i, side)].flatMap((id) => [tokenLabel(run.word(id), 16), " "]);
  const list = (circuit, title, from, to) =>
    el(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      el("h4", {}, title),
      el(
        "table",
        { class: "plain directions" },
        el("thead", {}, el("tr", {}, ["strength", from, to].map((name) => el("th", { scope: "col" }, name)))),
        el(
          "tbody",
          {},
          Array.from({ length: each }, (_, i) =>
            el("tr", {}, el("td", {}, digits(strengths[circuit * each + i])), el("td", {}, words(circuit, i, 0)), el("td", {}, words(circuit, i, 1))),
          ),
        ),
      ),
    );
  const [copying] = run.at("copying", layer).subarray(head);
  return [
    el("h3", {}, `The directions that layer ${layer}, head ${head} reads and writes`),
    el(
      "div",
      { class: "two" },
      list(0, "QK: the strongest singular directions", "queries like", "look for keys like"),
      list(1, "OV: the strongest singular directions", "reads", "writes, as logits"),
    ),
    el(
      "p",
      { class: "small copying" },
      "Copying score ",
      el("b", {}, signed(copying)),
      ": from +1, attending to any token makes that token likelier, to −1, less likely. The tokens are those of all the vocabulary nearest to each " +
        "direction; a direction and its opposite are one, of the two the nearer to its tokens is shown.",
    ),
  ];
}
