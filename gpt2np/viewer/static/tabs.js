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
        onclick: () => focus.set({ panel: panel.id }),
      },
      el("span", { class: "number", "aria-hidden": "true" }, String(i + 1)),
      panel.title,
    ),
  );
  const list = el("div", { role: "tablist", "aria-label": "panels" }, tabs);
  const steppers = [
    stepper(focus, "position", "pos", run.T - 1),
    stepper(focus, "layer", "layer", run.L - 1),
    stepper(focus, "head", "head", run.H - 1),
  ];
  const element = el(
    "nav",
    { class: "panels" },
    list,
    el(
      "div",
      { class: "steppers" },
      steppers.map((each) => each.element),
    ),
  );

  function draw(state) {
    panels.forEach((panel, i) => {
      const chosen = panel.id === state.panel;
      tabs[i].setAttribute("aria-selected", String(chosen));
      tabs[i].tabIndex = chosen ? 0 : -1;
      if (chosen && list.scrollWidth > list.clientWidth) {
        list.scrollLeft = tabs[i].offsetLeft - list.offsetLeft - 40;
      }
    });
    for (const { key, value } of steppers) value.textContent = String(state[key]);
  }
  return { element, draw, tabs };
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
  const text = el("span", {}, `${name} `, value, el("small", {}, ` of 0–${most}`));
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
