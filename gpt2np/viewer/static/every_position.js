// One site's vectors at many positions, one below the other and all on one scale: what differs between tokens is seen.

import { canvasFont, el, fullColour, hideTip, isPrinting, paintStrip, quoted, shortened, showTip, sized, visible } from "./drawing.js";
import { fullName, stripTip } from "./map_card.js";

const MOST_ROWS = 24; // positions; of longer texts those around the chosen one
const ROW_HEIGHT = 15; // pixels of a row
const ROW_SPACE = 3; // and between two

export function everyPosition(run, focus) {
  const canvas = el("canvas", { role: "img" }),
    told = el("p", { class: "small" }),
    strips = el("div", { class: "strips" }, canvas);
  const title = el("span", {});
  const element = el(
    "details",
    { class: "every-position", ontoggle: () => draw(focus.state) },
    el("summary", {}, title),
    told,
    strips,
  );

  function draw(state) {
    const { layer, head, part, pos } = state;
    const perHead = run.perHead(part);
    const name = fullName(run, part, layer) + (perHead ? `, ${run.party(part, head)}` : "");
    title.textContent = `${name} at every position`;
    if (!element.open) return;
    const first = Math.max(run.detail.first, Math.min(pos - Math.floor(0.75 * MOST_ROWS), run.T - MOST_ROWS));
    const rows = Array.from({ length: Math.min(MOST_ROWS, run.T - first) }, (_, i) => first + i).map((at) => ({
      at,
      cells: run.strip(part, layer, at, head),
    }));
    strips.hidden = !rows.every(({ cells }) => cells);
    told.textContent = strips.hidden
      ? "This part has no vector in this page: choose a strip of the map."
      : `Positions ${first} to ${first + rows.length - 1} of ${run.T}, all on one scale; full colour: the largest 3 of 100 cells of them all.`;
    if (!strips.hidden) paint(rows, part, pos, name);
  }

  function paint(rows, part, pos, name) {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    const left = (strips.clientWidth < 500 ? 84 : 130) * rem,
      width = Math.max(100, strips.clientWidth - left),
      each = Math.max(ROW_HEIGHT, 15 * rem) + ROW_SPACE;
    const context = sized(canvas, left + width, rows.length * each);
    const style = getComputedStyle(element);
    const all = new Float32Array(rows.reduce((n, { cells }) => n + cells.length, 0));
    rows.forEach(({ cells }, i) => all.set(cells, i * cells.length));
    const full = fullColour(all);
    context.font = canvasFont(isPrinting() ? 0.8 : 0.75);
    context.textAlign = "right";
    rows.forEach(({ at, cells }, i) => {
      context.fillStyle = at === pos ? style.getPropertyValue("--accent") : style.color;
      context.fillText(`\u2068${shortened(visible(run.labels[at]), left / rem < 100 ? 6 : 11)}\u2069 ${at}`, left - 6, i * each + each / 2 + 3);
      paintStrip(context, cells, left, i * each, width, each - ROW_SPACE, full);
    });
    canvas.setAttribute("aria-label", `${name}: a strip for each of the positions ${rows[0].at} to ${rows.at(-1).at}`);
    canvas.onmousemove = (event) => {
      const row = rows[Math.floor(event.offsetY / each)],
        across = (event.offsetX - left) / width;
      if (!row || across < 0) return hideTip();
      showTip(event, `${quoted(run.labels[row.at])} (${row.at})`, stripTip(run, part, row.cells, across));
    };
    canvas.onmouseleave = hideTip;
    canvas.onclick = (event) => {
      const row = rows[Math.floor(event.offsetY / each)];
      if (row) focus.set({ pos: row.at });
    };
  }
  return { element, draw };
}
