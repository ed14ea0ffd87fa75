// The weights: where the parameters are, what two tokens are to a head, who reads, erases and strengthens whom.

import { circuitsOf } from "./head_circuits.js";
import { matrixMap } from "./matrix_map.js";
import { absent, bar, colour, darkOn, el, isDark } from "./drawing.js";
import { nearestRows } from "./nearest_rows.js";

const PARTS = ["token embedding", "position embedding", "attention", "mlp", "layer norms"]; // drawn in this order
const LABELLED = 0.06; // of a bar: a smaller share has no room for its number
const PAINT = [0.95, 0.8, 0.6, 0.45, 0.25]; // their places on the scale of shares

export function weightsPanel(run, focus) {
  const nearest = nearestRows(run);
  const element = el("div", { class: "weights" });
  const circuits = el("div", { class: "circuits" });
  const matrices = run.matrices ? matrixMap(run, focus) : null;
  const bars = el("div", { class: "parameter-bars" }),
    grids = el("div", { class: "grids" });
  const parts = [
    el(
      "p",
      { class: "intro" },
      "What training has left behind, whatever the text: how many numbers there are, and what heads make of pairs of tokens by their weights alone. " +
        "Only the last two sections are about this run.",
    ),
    run.parameters ? section("Where the parameters are", bars) : null,
    matrices ? section("The matrices of a layer, and the tables of tokens and positions", matrices.element) : absent(run, "weights", "Weights are"),
    run.circuits ? circuits : null,
    run.composition ? section("Which heads read what earlier heads write", composition(run, focus), grids) : null,
    run.memory ? section("Which parts erase or amplify what another wrote", memory(run)) : null,
    nearest.element,
  ];
  element.append(...parts.filter(Boolean));
  let dark = null; // how the page was when what does not follow the choice was painted

  function draw(state) {
    nearest.draw(state);
    if (run.circuits) circuits.replaceChildren(...circuitsOf(run, state));
    matrices?.draw(state);
    if (dark === isDark()) return;
    dark = isDark();
    if (run.parameters) bars.replaceChildren(...parameterBars(run));
    if (run.composition) grids.replaceChildren(...compositionGrids(run));
  }
  return { id: "weights", title: "Weights", element, draw };
}

function section(title, ...content) {
  return el("section", {}, el("h3", {}, title), content.flat());
}

// -- parameters -------------------------------------------------------------------------------------

function parameterBars(run) {
  const found = new Set(run.parameters.flatMap(({ shares }) => Object.keys(shares).filter((part) => shares[part])));
  const names = [...PARTS, ...found].filter((part, i, all) => found.has(part) && all.indexOf(part) === i);
  const paint = (part) => PAINT[PARTS.includes(part) ? PARTS.indexOf(part) : PAINT.length - 1];
  const key = names.map((part) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = colour("share", paint(part));
    return el("span", {}, swatch, part);
  });
  const bars = run.parameters.map(({ name, total, shares }) => {
    const pieces = names.filter((part) => shares[part]).map((part) => {
      const share = shares[part];
      const piece = el("span", { title: `${part}: ${(100 * share).toFixed(1)} %` }, share > LABELLED ? `${Math.round(100 * share)} %` : "");
      piece.style.width = `${100 * share}%`;
      piece.style.background = colour("share", paint(part));
      piece.style.color = darkOn("share", paint(part)) ? "#fff" : "#000";
      return piece;
    });
    return el(
      "div",
      { class: "parameters" },
      el("span", { class: "name" }, name),
      el("span", { class: "stack" }, pieces),
      el("span", { class: "value" }, total.toLocaleString("en")),
    );
  });
  return [...bars, el("div", { class: "parts-key" }, key)];
}

// -- composition ------------------------------------------------------------------------------------

const headName = (head) => `layer ${head.split(".")[0]} head ${head.split(".")[1]}`;
const WORDS = { q: "queries", k: "keys", v: "values" };

function composition(run, focus) {
  const { pairs: best, chance } = run.composition;
  const most = best[0]?.[3] ?? 1;
  const list = best.map(([kind, writer, reader, score]) =>
    bar(`${headName(writer)} → ${WORDS[kind]} of ${headName(reader)}`, score / most, score.toFixed(3), {
      kind: "share",
      onclick: () => focus.set({ layer: Number(reader.split(".")[0]), head: Number(reader.split(".")[1]) }),
    }),
  );
  return [
    el(
      "p",
      { class: "small" },
      `1: the two share a single direction; unrelated heads reach ${chance.toFixed(3)}. In the grids heads stand layer by layer, from layer 0 head 0 at the upper left; full colour is ${most.toFixed(3)}, and a pair without a colour has its reader in no later layer.`,
    ),
    el("div", { class: "long-names" }, list),
  ];
}

function compositionGrids(run) {
  const { heads, pairs: best, grids } = run.composition;
  const most = best[0]?.[3] ?? 1;
  return Object.entries(grids).map(([kind, grid]) => {
    const cells = grid.flatMap((row, writer) =>
      row.map((score, reader) => {
        const made = el("span", { title: score === null ? "not earlier" : `${headName(heads[writer])} → ${headName(heads[reader])}: ${score}` });
        if (score !== null) made.style.background = colour("share", Math.sqrt(score / most));
        return made;
      }),
    );
    const drawn = el("div", { class: "compositions", role: "img", "aria-label": `${kind} composition of all pairs of heads` }, cells);
    drawn.style.setProperty("--heads", heads.length);
    return el("div", {}, el("h4", {}, `through ${WORDS[kind]}: writers down, readers across`), drawn);
  });
}

// -- this run ---------------------------------------------------------------------------------------

function memory(run) {
  const list = (title, rows, kind) =>
    el("div", {}, el("h4", {}, title), rows.map(([writer, later, cosine]) => bar(`${told(writer)} by ${told(later)}`, cosine, cosine.toFixed(2), { kind })));
  return el(
    "div",
    { class: "lists long-names" },
    list("Erased: minus the cosine of the two", run.memory.opposition.slice(0, 8), "push negative"),
    list("Amplified: the cosine of the two", run.memory.agreement.slice(0, 8), "push"),
  );
}

function told(component) {
  const [, layer, what] = component.match(/^h\.(\d+)\.(.+)$/) ?? [];
  if (layer === undefined) return { wte: "token embedding", wpe: "position embedding" }[component] ?? component;
  return `layer ${layer} ${what.replace("attn.head.", "head ").replace("attn.bias", "bias").replace("mlp", "MLP")}`;
}
