// The weights: where the parameters are, what two tokens are to a head, who reads, erases and strengthens whom.

import { compositionOf } from "./composition.js";
import { OUTSIDE_LAYERS } from "./contributions.js";
import { circuitsOf } from "./head_circuits.js";
import { matrixMap } from "./matrix_map.js";
import { absent, bar, colour, darkOn, el } from "./drawing.js";
import { nearestRows } from "./nearest_rows.js";

const PARTS = ["token embedding", "position embedding", "attention", "mlp", "layer norms"]; // drawn in this order
const PAINT = [0.95, 0.8, 0.6, 0.45, 0.25]; // their places on the scale of shares

export function weightsPanel(run, focus) {
  const nearest = nearestRows(run);
  const element = el("div", { class: "weights" });
  const circuits = el("div", { class: "circuits" });
  const matrices = run.matrices ? matrixMap(run, focus) : null;
  const bars = el("div", { class: "parameter-bars" });
  const composition = run.composition ? compositionOf(run, focus) : null;
  const parts = [
    el(
      "p",
      { class: "intro" },
      `What training has left behind, whatever the text: how many numbers there are${run.circuits ? ", and what heads make of pairs of tokens by their weights alone" : ""}. ` +
        "Only the last two sections are about this run.",
    ),
    run.parameters ? section("Where the parameters are", bars) : null,
    matrices ? section(`The matrices of a layer, and ${run.matrices.some(({ name }) => name === "W_P") ? "the tables of tokens and positions" : "the table of tokens"}`, matrices.element) : absent(run, "weights", "Weights are"),
    run.circuits ? circuits : null,
    matrices && !run.circuits
      ? el("p", { class: "small" }, "Scores and effects between tokens, and what heads read of one another, are left out: they are defined for attention as in GPT-2 only.")
      : null,
    composition ? section("Which heads read what earlier heads write", composition.content) : null,
    run.memory ? section("Which parts erase or amplify what another wrote", memory(run)) : null,
    nearest.element,
  ];
  element.append(...parts.filter(Boolean));

  function draw(state) {
    nearest.draw(state);
    if (run.circuits) circuits.replaceChildren(...circuitsOf(run, state));
    matrices?.draw(state);
    composition?.draw(state);
    if (!run.parameters) return;
    bars.replaceChildren(...parameterBars(run));
    for (const piece of bars.querySelectorAll(".stack span")) fitWords(piece);
  }
  return { id: "weights", title: "Weights", element, draw };
}

function section(title, ...content) {
  return el("section", {}, el("h3", {}, title), content.flat());
}

// -- parameters -------------------------------------------------------------------------------------

function parameterBars(run) {
  const names = [...new Set([...PARTS, ...run.parameters.flatMap(({ shares }) => Object.keys(shares))])];
  const paint = (name) => PAINT[Math.min(names.indexOf(name), PAINT.length - 1)];
  const bars = run.parameters.map(({ name, total, shares }) => {
    const pieces = names
      .filter((part) => shares[part])
      .map((part) => {
        const inPercent = 100 * shares[part];
        const piece = el("span", { title: `${part}: ${inPercent.toFixed(1)} %` }, `${Math.round(inPercent)} % ${part}`);
        piece.style.width = `${inPercent}%`;
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
  const shown = names.filter((part) => run.parameters.some(({ shares }) => shares[part]));
  const colours = new Map(shown.map((part) => [part.replace("layer norms", "norms"), paint(part)])); // one colour has one name
  const legend = [...colours].map(([name, place]) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = colour("share", place);
    return el("span", {}, swatch, name);
  });
  return [...bars, el("p", { class: "legend" }, legend)];
}

// What a piece has room for: its name too, the share alone, or nothing.
function fitWords(piece) {
  const fits = () => piece.scrollWidth <= piece.clientWidth;
  if (!fits()) piece.textContent = piece.textContent.match(/^\d+ %/)[0];
  if (!fits()) piece.textContent = "";
}

// -- this run ---------------------------------------------------------------------------------------

function memory(run) {
  const list = (title, rows, kind) =>
    el("div", {}, el("h4", {}, title), rows.map(([writer, later, cosine]) => bar(`${told(writer)} by ${told(later)}`, cosine, cosine.toFixed(2), { kind })));
  return el(
    "div",
    { class: "lists long-names memory" },
    list("Erased by a later part: minus the cosine of the two", run.memory.opposition.slice(0, 8), "push negative"),
    list("Amplified by a later part: the cosine of the two", run.memory.agreement.slice(0, 8), "push"),
  );
}

function told(component) {
  const [, layer, what] = component.match(/^h\.(\d+)\.(.+)$/) ?? [];
  if (layer === undefined) return OUTSIDE_LAYERS[component] ?? component;
  return `layer ${layer} ${what.replace("attn.head.", "head ").replace("attn.bias", "bias").replace("mlp", "MLP")}`;
}
