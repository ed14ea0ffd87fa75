// The tour: a bar at the foot of the page that leads through its states; printed, a handout of all stops.

import { el } from "./drawing.js";
import { shortName } from "./header.js";
import { tourStops } from "./tour_stops.js";

const HANDOUT_ROWS = 11; // of a table in the handout

/** `drawPanel(id)` draws one panel alone, for the pictures of the handout. */
export function buildTour(run, focus, drawPanel) {
  const stops = tourStops(run);
  let at = null;
  const text = el("p", {});
  const title = el("h2", { tabindex: "-1" });
  const count = el("span", { class: "aside" });
  const move = (by, label) =>
    el("button", { type: "button", onclick: () => go(at + by) }, label);
  const [back, on] = [move(-1, "‹ back"), move(1, "next ›")];
  const close = el("button", { type: "button", "aria-label": "leave the tour", onclick: () => leave() }, "✕");
  const bar = el(
    "aside",
    { class: "tour", hidden: true, "aria-label": "tour", "aria-live": "polite" },
    el("div", { class: "tour-text" }, el("div", {}, count), title, text),
    el("div", { class: "tour-buttons" }, back, on, close),
  );
  const handout = el("section", { class: "handout", hidden: true });

  function go(stop) {
    if (!stops.length) return;
    const starts = at === null;
    at = Math.min(Math.max(0, stop), stops.length - 1);
    document.documentElement.dataset.tour = String(at + 1);
    const shown = stops[at];
    bar.hidden = false;
    count.textContent = `Stop ${at + 1} of ${stops.length}`;
    title.textContent = shown.title;
    text.textContent = shown.text;
    back.disabled = at === 0;
    on.disabled = at === stops.length - 1;
    document.documentElement.style.setProperty("--tour", `${bar.offsetHeight + 16}px`);
    focus.set(shown.state);
    focus.write(); // the number of the stop too
    bringIntoSight(shown.figure);
    if (starts) title.focus({ preventScroll: true });
  }

  /** What a stop is about stands above the bar: in the map the row of the chosen part, else its figure. */
  function bringIntoSight(figure) {
    const panel = document.getElementById(`panel-${focus.state.panel}`),
      target = panel?.querySelector('.strip[aria-pressed="true"]')?.closest(".row") ?? panel?.querySelector(figure);
    if (!target) return;
    const { top, height } = target.getBoundingClientRect(),
      bars = document.querySelector("nav.panels").getBoundingClientRect(),
      above = Math.max(0, Math.min(bars.bottom, bars.height)); // the tabs may stay at the top
    if (top < above || top + Math.min(height, 200) > bar.getBoundingClientRect().top) scrollBy(0, top - above - 16);
  }

  function leave() {
    at = null;
    bar.hidden = true;
    delete document.documentElement.dataset.tour;
    document.documentElement.style.removeProperty("--tour");
    focus.write();
    focus.told(new Set());
    document.querySelector(".tour-start")?.focus({ preventScroll: true });
  }

  /** What a key does in the tour, and whether it did anything; `onButton` presses the button by Enter. */
  function press(key, onButton) {
    if (at === null) return false;
    if (key === "Escape") leave();
    else if (key === "n" || (key === "Enter" && !onButton)) go(at + 1);
    else if (key === "p" || (key === "Backspace" && !onButton)) go(at - 1);
    else return false;
    return true;
  }

  /** Every stop with its sentences and its picture. */
  function print() {
    const kept = focus.state;
    const pages = stops.map((stop, i) => {
      focus.state = focus.legal({ ...kept, ...stop.state });
      drawPanel(focus.state.panel);
      const panel = document.getElementById(`panel-${focus.state.panel}`);
      return el(
        "article",
        { class: "stop" },
        el("div", {}, el("h3", {}, `${i + 1}. ${stop.title}`), el("p", {}, stop.text)),
        el(
          "div",
          { class: `stop-picture ${focus.state.panel}` },
          copyOf(panel.querySelector(stop.figure)),
          stop.caption ? el("p", { class: "small" }, stop.caption) : null,
        ),
      );
    });
    focus.state = kept;
    handout.replaceChildren(el("h2", {}, `How ${shortName(run.model.name)} reads and predicts: a tour`), ...pages);
    handout.hidden = false;
  }

  function printed() {
    handout.replaceChildren();
    handout.hidden = true;
  }
  return { bar, handout, go, press, print, printed, titles: stops.map(({ title }) => title), touring: () => at !== null };
}

/** A copy of what is drawn: canvases keep their pictures, and of a long table some rows stand for all, the last among them. */
function copyOf(element) {
  if (!element) return null;
  const copy = element.cloneNode(true);
  const canvases = (root) => (root.matches("canvas") ? [root] : [...root.querySelectorAll("canvas")]);
  const copies = canvases(copy);
  canvases(element).forEach((canvas, i) => copies[i].getContext("2d").drawImage(canvas, 0, 0));
  const rows = [...copy.querySelectorAll("tbody tr")];
  const every = Math.ceil(rows.length / HANDOUT_ROWS);
  rows.forEach((row, i) => (rows.length - 1 - i) % every && row.remove());
  return copy;
}
