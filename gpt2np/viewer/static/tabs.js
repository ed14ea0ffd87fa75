// The panels of the page, in the order of their tabs; the bar of tabs, and steppers for what is chosen.

import { el } from "./drawing.js";
import { glossaryPanel } from "./glossary.js";
import { mapPanel } from "./map.js";
import { attentionPanel } from "./attention.js";
import { lensPanel } from "./logit_lens.js";
import { contributionsPanel } from "./contributions.js";
import { mlpPanel } from "./mlp.js";
import { residualPanel } from "./residual.js";
import { weightsPanel } from "./weights.js";
import { againstPanel } from "./side_by_side.js";
import { generationPanel } from "./generation.js";

export const PANELS = {
  map: mapPanel,
  attention: attentionPanel,
  lens: lensPanel,
  contributions: contributionsPanel,
  mlp: mlpPanel,
  residual: residualPanel,
  weights: weightsPanel,
  against: againstPanel,
  generation: generationPanel,
  glossary: glossaryPanel,
};
export const COMPACT = ["map", "attention", "glossary"]; // in a notebook
// Words where there is little room.
const SHORT_WORDS = { lens: "Lens", contributions: "Contrib.", against: "Two texts", changes: "Changes", position: "pos" };

const SPARE = 20; // pixels between tabs and steppers, and for letters that are bold once they are chosen

// What is left out of the bar, one after another, until tabs and steppers have room beside each other.
const SAVINGS = ["one-range", "no-ranges", "no-numbers", "small-letters", "short-words"];

/** The panels of a page, by name: what chose nothing has no panel of choices, one run none of two. */
export function panelsOf(run, made) {
  const names = run.detail.compact ? COMPACT : Object.keys(made);
  const needs = { generation: run.generation?.steps.length || run.missing.generation, against: run.against };
  return names.filter((id) => !(id in needs) || needs[id]);
}

/** Tabs for the panels, and steppers for position, layer and head. */
export function buildBar(run, focus, panels) {
  const tabs = panels.map((panel, i) =>
    el(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${panel.id}`,
        "aria-controls": `panel-${panel.id}`,
        "aria-label": panel.title,
        title: i < 9 ? `${panel.title}: key ${i + 1}` : panel.title,
        onclick: () => focus.set({ panel: panel.id }),
      },
      el("span", { class: "number", "aria-hidden": "true" }, String(i + 1)),
      wordOf(panel.id, panel.title),
    ),
  );
  const list = el("div", { role: "tablist", "aria-label": "panels" }, tabs);
  const steppers = [
    stepper(focus, "position", "pos", run.T - 1),
    stepper(focus, "layer", "layer", run.L - 1),
    stepper(focus, "head", "head", run.H - 1),
  ];
  const beside = el(
    "div",
    { class: "steppers" },
    steppers.map((each) => each.element),
  );
  const element = el("nav", { class: "panels" }, list, beside);
  let fitted = ""; // the width that the bar was fitted to

  /** Leave out what there is no room for: first ranges of numbers, then numbers of tabs, then letters. */
  function fit() {
    const width = `${element.clientWidth} ${getComputedStyle(element).fontSize}`;
    if (!element.clientWidth || width === fitted) return;
    fitted = width;
    const needed = () => list.scrollWidth + beside.scrollWidth + SPARE;
    for (let n = 0; n <= SAVINGS.length; n++) {
      element.className = ["panels", "measured", ...SAVINGS.slice(0, n)].join(" ");
      if (needed() <= element.clientWidth) break;
    }
    element.classList.remove("measured");
  }

  function draw(state) {
    for (const { key, value } of steppers) value.textContent = String(state[key]);
    panels.forEach((panel, i) => {
      const chosen = panel.id === state.panel;
      tabs[i].setAttribute("aria-selected", String(chosen));
      tabs[i].tabIndex = chosen ? 0 : -1;
    });
    fit();
    if (list.scrollWidth > list.clientWidth) {
      const tab = tabs[panels.findIndex((panel) => panel.id === state.panel)];
      list.scrollLeft = tab.offsetLeft - list.offsetLeft - 40;
    }
  }
  return { element, draw, tabs };
}

/** A word, and a shorter one for where there is little room. */
function wordOf(id, word) {
  return [el("span", { class: "word-whole" }, word), el("span", { class: "word-short" }, SHORT_WORDS[id] ?? word)];
}

function stepper(focus, name, key, most) {
  const value = el("output", {});
  const step = (mark, label, by) =>
    el(
      "button",
      {
        type: "button",
        "aria-label": `${name} ${label}`,
        onclick: () => focus.set({ [key]: focus.state[key] + by }),
      },
      mark,
    );
  const text = el("span", {}, wordOf(name, name), " ", value, el("small", {}, ` of 0–${most}`));
  value.style.minWidth = `${String(most).length}ch`; // the bar does not move with it
  return {
    key,
    value,
    element: el(
      "span",
      { class: "stepper", title: `${name}s count from 0 to ${most}` },
      step("‹", "before", -1),
      text,
      step("›", "after", 1),
    ),
  };
}
