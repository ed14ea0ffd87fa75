// The weights: where the parameters are, what two tokens are to a head, who reads, erases and strengthens whom.

import { absent, bar, colour, darkOn, el, place, signed, tokenLabel } from "./drawing.js";
import { nearestRows } from "./nearest_rows.js";

const PARTS = ["token embedding", "position embedding", "attention", "mlp", "layer norms"]; // drawn in this order
const PAINT = [0.95, 0.8, 0.6, 0.45, 0.25]; // their places on the scale of shares
const LARGEST_BOX = 150; // pixels of the longer side of the largest matrix

export function weightsPanel(run, focus) {
  const nearest = nearestRows(run);
  const element = el("div", { class: "weights" });
  const circuits = el("div", { class: "circuits" });
  const parts = [
    el(
      "p",
      { class: "intro" },
      "What training has left behind, whatever the text: how many numbers there are, and what heads make of pairs of tokens by their weights alone. " +
        "Only the last two sections are about this run.",
    ),
    run.parameters ? section("Where the parameters are", parameterBars(run)) : null,
    run.matrices ? section("Every matrix of layer 0, and those outside of layers", boxes(run)) : absent(run, "weights", "Weights are"),
    run.circuits ? circuits : null,
    run.composition ? section("Which heads read what earlier heads write", composition(run, focus)) : null,
    run.memory ? section("Who takes back and who strengthens what another wrote", memory(run)) : null,
    nearest.element,
  ];
  element.append(...parts.filter(Boolean));

  function draw(state) {
    nearest.draw(state);
    if (run.circuits) circuits.replaceChildren(...circuitsOf(run, state));
  }
  return { id: "weights", title: "Weights", element, draw };
}

function section(title, ...content) {
  return el("section", {}, el("h3", {}, title), content.flat());
}

// -- parameters -------------------------------------------------------------------------------------

function parameterBars(run) {
  const ink = (i) => (darkOn("share", PAINT[i]) ? "#fff" : "#000");
  const rows = run.parameters.map(({ name, total, shares }) => {
    const names = [...PARTS, ...Object.keys(shares).filter((part) => !PARTS.includes(part))];
    const pieces = names.flatMap((part) => {
      const share = shares[part];
      if (!share) return [];
      const i = Math.min(PARTS.indexOf(part), PAINT.length - 1);
      const at = i < 0 ? PAINT.length - 1 : i;
      const piece = el("span", { title: `${part}: ${(100 * share).toFixed(1)} %` }, share > 0.12 ? `${part} ${Math.round(100 * share)} %` : "");
      piece.style.width = `${100 * share}%`;
      piece.style.background = colour("share", PAINT[at]);
      piece.style.color = ink(at);
      return [piece];
    });
    return el(
      "div",
      { class: "parameters" },
      el("span", { class: "name" }, name),
      el("span", { class: "stack" }, pieces),
      el("span", { class: "value" }, total.toLocaleString("en")),
    );
  });
  return el("div", { class: "parameter-bars" }, rows);
}

// Matrices as boxes, their sides as the roots of what they have.
function boxes(run) {
  const sides = run.matrices.filter(({ shape }) => shape.length === 2);
  const most = Math.sqrt(Math.max(...sides.flatMap(({ shape }) => shape)));
  return el(
    "div",
    { class: "boxes" },
    sides.map(({ name, shape }) => {
      const box = el("span", { class: "box" });
      box.style.width = `${(LARGEST_BOX * Math.sqrt(shape[1])) / most}px`;
      box.style.height = `${(LARGEST_BOX * Math.sqrt(shape[0])) / most}px`;
      const size = `${shape.map((n) => n.toLocaleString("en")).join(" × ")} = ${(shape[0] * shape[1]).toLocaleString("en")}`;
      return el("span", { class: "boxed" }, box, el("code", {}, name), el("small", {}, size));
    }),
  );
}

// -- circuits ---------------------------------------------------------------------------------------

function circuitsOf(run, { layer, head }) {
  const { ids, scores, effects } = run.circuits;
  return [
    el("h3", {}, `What two tokens are to layer ${layer}, head ${head}`),
    el(
      "p",
      { class: "small" },
      "By the weights alone, of the tokens’ embeddings, without positions and without what other layers add. Queries and keys turned both " +
        "the same way, or values and outputs, give the same numbers: only their products count.",
    ),
    el(
      "div",
      { class: "two" },
      pairs(run, ids, scores[layer][head], "QK: how much the row’s token looks for the column’s", "query", "key"),
      pairs(run, ids, effects[layer][head], "OV: what attending to the row’s token adds to the column’s logit", "source", "logit"),
    ),
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

function composition(run, focus) {
  const { heads, pairs: best, grids, chance } = run.composition;
  const words = { q: "queries", k: "keys", v: "values" };
  const name = (head) => `layer ${head.split(".")[0]} head ${head.split(".")[1]}`;
  const most = best[0]?.[3] ?? 1;
  const list = best.map(([kind, writer, reader, score]) =>
    bar(`${name(writer)} → ${words[kind]} of ${name(reader)}`, score / most, score.toFixed(3), {
      kind: "share",
      onclick: () => focus.set({ layer: Number(reader.split(".")[0]), head: Number(reader.split(".")[1]) }),
    }),
  );
  const made = Object.entries(grids).map(([kind, grid]) => {
    const cells = grid.flatMap((row, writer) =>
      row.map((score, reader) => {
        const made = el("span", { title: score === null ? "not earlier" : `${name(heads[writer])} → ${name(heads[reader])}: ${score}` });
        if (score !== null) made.style.background = colour("share", Math.sqrt(score / most));
        return made;
      }),
    );
    const drawn = el("div", { class: "compositions", role: "img", "aria-label": `${kind} composition of all pairs of heads` }, cells);
    drawn.style.setProperty("--heads", heads.length);
    return el("div", {}, el("h4", {}, `through ${words[kind]}: writers down, readers across`), drawn);
  });
  return [
    el("p", { class: "small" }, `1: they share one direction; heads that have nothing to do with one another reach ${chance.toFixed(3)}.`),
    el("div", { class: "long-names" }, list),
    el("div", { class: "grids" }, made),
  ];
}

// -- this run ---------------------------------------------------------------------------------------

function memory(run) {
  const list = (title, rows, kind) =>
    el("div", {}, el("h4", {}, title), rows.map(([writer, later, cosine]) => bar(`${told(writer)} by ${told(later)}`, cosine, cosine.toFixed(2), { kind })));
  return el(
    "div",
    { class: "lists long-names" },
    list("Erased: minus the cosine of both", run.memory.opposition.slice(0, 8), "push negative"),
    list("Strengthened: the cosine of both", run.memory.agreement.slice(0, 8), "push"),
  );
}

function told(component) {
  const [, layer, what] = component.match(/^h\.(\d+)\.(.+)$/) ?? [];
  if (layer === undefined) return { wte: "token embedding", wpe: "position embedding" }[component] ?? component;
  return `layer ${layer} ${what.replace("attn.head.", "head ").replace("attn.bias", "bias").replace("mlp", "MLP")}`;
}
