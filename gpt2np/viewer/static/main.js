// The page as a whole: what happens when something is chosen, the keys, the print.

import { el, hideTip, isDark } from "./drawing.js";
import { Focus } from "./page_state.js";
import { buildHeader } from "./header.js";
import { addFigures } from "./figures.js";
import { buildTerms } from "./terms.js";
import { buildTour } from "./tour.js";
import { buildPrinting } from "./printing.js";
import { PANELS, buildBar, panelsOf } from "./tabs.js";

/**
 * Builds the page of a run in `holder`, and returns what is chosen in it and the titles of its tour. A live page builds one
 * run after another: with `before` chosen in the last, panels of its own, and a signal that takes this one's listeners away.
 */
export function build(run, holder, { made = PANELS, before = {}, signal = null } = {}) {
  const focus = new Focus(run, panelsOf(run, made));
  focus.state = focus.legal({ ...focus.state, ...before });
  const panels = focus.panels.map((id) => made[id](run, focus));
  const captions = panels.map((panel) => addFigures(panel, run, focus));
  const terms = buildTerms(run, focus);
  const tour = buildTour(run, focus, (id) => draw(id));
  const printing = buildPrinting(run, focus);
  const header = buildHeader(run, focus, swapTheme, () => tour.go(0));
  const bar = buildBar(run, focus, panels);
  const sections = panels.map(sectionOf);
  const main = el("main", {}, printing.note, sections, tour.handout);
  holder.replaceChildren(header.element, bar.element, main, tour.bar, terms.box);
  const listening = signal ? { signal } : {};

  /** Draw what is chosen: the one panel that is open, or for the printer all that have something to show. */
  function draw(only = null) {
    const { state } = focus;
    header.draw(state);
    bar.draw(state);
    panels.forEach((panel, i) => {
      const hidden = printing.isOn() ? Boolean(panel.empty) : panel.id !== state.panel;
      sections[i].hidden = typeof only === "string" ? panel.id !== only : hidden;
      if (sections[i].hidden) return;
      panel.draw(state);
      captions[i]();
      if (panel.id !== "glossary") terms.link(panel.element);
    });
  }

  focus.on((state, changed) => {
    if (changed.has("panel")) hideTip();
    draw();
    const top = header.element.offsetHeight;
    if (changed.has("panel") && scrollY > top) scrollTo(0, top); // each panel from its top
    if (changed.has("pos")) header.reveal(state.pos);
  });

  function swapTheme() {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    draw();
  }
  function swapSize() {
    document.documentElement.classList.toggle("big");
    draw();
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(), listening);
  addEventListener("hashchange", () => {
    focus.read();
    draw();
    toStop();
  }, listening);
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => {
      draw();
      header.reveal(focus.state.pos);
    });
  }, listening);

  // Canvases are drawn before the printer lays the page out: so the layout of the print is put on before that.
  addEventListener("beforeprint", () => {
    printing.on(main);
    printing.note.hidden = tour.touring();
    if (tour.touring()) {
      tour.print();
      header.shorten(true);
      for (const section of sections) section.hidden = true;
    } else draw();
  }, listening);
  addEventListener("afterprint", () => {
    printing.off();
    tour.printed();
    header.shorten(false);
    draw();
  }, listening);

  addEventListener("keydown", (event) => {
    const { ctrlKey, metaKey, altKey, key, target } = event;
    const plain = !(ctrlKey || metaKey || altKey || target.matches("input, select, textarea"));
    if (plain && tour.press(key, target.matches("button, summary, a"))) event.preventDefault();
    else if (press(event, focus, panels, bar.tabs, { t: swapTheme, b: swapSize })) event.preventDefault();
  }, listening);

  /** To the stop that the address names: `#tour` is the first. */
  function toStop() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (asked.has("tour")) tour.go((Number(asked.get("tour")) || 1) - 1);
  }

  draw();
  header.reveal(focus.state.pos);
  if (!signal) toStop();
  if (!performance.getEntriesByName("first-picture").length)
    requestAnimationFrame(() => setTimeout(() => performance.mark("first-picture"))); // when it is on the screen
  /** More of the run is there: panels that had nothing to show, and those that are hidden, are made anew. */
  function renew() {
    panels.forEach((panel, i) => {
      if (panel.id === focus.state.panel && !panel.empty) return;
      panels[i] = made[panel.id](run, focus);
      captions[i] = addFigures(panels[i], run, focus);
      panel.element.replaceWith(panels[i].element);
    });
    draw();
  }
  return { focus, stops: tour.titles, renew };
}

function sectionOf(panel) {
  return el(
    "section",
    { role: "tabpanel", id: `panel-${panel.id}`, "aria-labelledby": `tab-${panel.id}`, class: "panel" },
    el("h2", { class: "print-only" }, panel.title),
    panel.element,
  );
}

/** What a key does; whether it did anything. */
function press(event, focus, panels, tabs, swaps) {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea"))
    return false;
  const { state } = focus;
  const moves = {
    ArrowLeft: { pos: state.pos - 1 },
    ArrowRight: { pos: state.pos + 1 },
    ArrowUp: { layer: state.layer - 1 },
    ArrowDown: { layer: state.layer + 1 },
    "[": { head: state.head - 1 },
    "]": { head: state.head + 1 },
    "?": { panel: "glossary" },
  };
  if (target.matches("[role=tab]") && (key === "ArrowLeft" || key === "ArrowRight")) {
    const at = tabs.indexOf(target) + (key === "ArrowRight" ? 1 : -1);
    const next = (at + tabs.length) % tabs.length;
    focus.set({ panel: panels[next].id });
    tabs[next].focus();
  } else if (/^[1-9]$/.test(key) && panels[key - 1]) {
    focus.set({ panel: panels[key - 1].id });
  } else if (key in swaps) {
    swaps[key]();
  } else if (key === "," || key === ".") {
    panels.find((panel) => panel.go)?.go(state.step + (key === "." ? 1 : -1));
  } else if (key in moves && !target.classList.contains("scroll")) {
    focus.set(moves[key]); // where a table scrolls, the arrows scroll it
  } else {
    return false;
  }
  return true;
}
