// Where two residual streams part: a grid of points down and columns of both texts across, in blocks as wide as the page.

import { absent, canvasFont, colour, digits, el, hideTip, isPrinting, quoted, scaleKey, shortened, showTip, sized, visible } from "./drawing.js";
import { ROUNDING } from "./two_runs.js";

const APART_BY = ["cosine", "distance"]; // in the order of the array; then both norms
// Pixels: for names of points, for tokens above a block or positions instead; of a column at most, at least with its token's
// name and without it; of a row.
const GRID = { left: 62, tokens: 78, numbers: 18, widest: 52, named: 15, narrow: 7, row: 17 };
const MANY = 160; // columns that still have names

/** `choose` is told a column and more that is clicked; `redraw` draws the page anew, for captions name the measure. */
export function twoStreams(two, choose, redraw) {
  const [run] = two.runs;
  if (!run.has("apart:stream"))
    return { element: absent(run, "against stream", "How far apart the streams are is"), draw() {} };
  const points = ["embed", ...Array.from({ length: run.L }, (_, layer) => `layer ${layer}`), "final norm"];
  let measure = 1,
    blocks = null; // {width, each, head}: what lies under the pointer is found by it
  const canvas = el("canvas", { role: "img" }),
    holder = el("div", { class: "apart-grid" }, canvas),
    key = el("span", {}),
    numbers = el("div", { class: "scroll" }),
    told = el("p", { class: "small" });
  const toggle = ["distance", "cosine"].map((name) =>
    el("button", { type: "button", "aria-pressed": String(name === "distance"), onclick: (event) => measureBy(name, event) }, name),
  );
  const element = el(
    "section",
    { class: "apart" },
    el(
      "div",
      { class: "row-head" },
      el("h3", {}, "Where the two streams part"),
      el("div", { class: "toggle", role: "group", "aria-label": "measure" }, toggle),
    ),
    el("p", { class: "small" }, "Down: after the embedding, each layer and the final norm. Across: the columns above. Colour: ", key),
    holder,
    told,
    numbers,
  );
  function measureBy(name, { currentTarget }) {
    measure = APART_BY.indexOf(name);
    for (const button of toggle) button.setAttribute("aria-pressed", String(button === currentTarget));
    redraw();
  }

  const value = (point, column) => run.at("apart:stream", point, column)[measure];
  // Small distances show too, by their roots; a cosine is as far from 1 as a distance from 0.
  const shade = (x) => Math.sqrt(Math.min(1, Math.max(0, measure ? x : 1 - x)));

  function draw() {
    key.replaceChildren(
      ...(measure
        ? ["the length of the difference, as a share of the mean of the two lengths: ", scaleKey("share", "0: the same", "0.25", "1 or more")]
        : ["the cosine of the two: ", scaleKey("share", "1: the same direction", "0.75", "0 or less")]),
      two.aligned.some((pair) => pair.includes(null)) ? ". Grey: a token that stands alone." : "",
    );
    picture();
    told.replaceChildren(...sentence());
    numbers.replaceChildren(...(two.isPair() ? [table()] : []));
  }

  function picture() {
    const room = Math.max(260, isPrinting() ? 780 : holder.clientWidth),
      n = two.columns.length,
      named = n <= MANY,
      width = Math.min(GRID.widest, Math.max(named ? GRID.named : GRID.narrow, (room - GRID.left) / n)),
      each = Math.max(1, Math.min(n, Math.floor((room - GRID.left) / width))),
      head = named ? GRID.tokens : GRID.numbers,
      high = head + GRID.row * points.length + 8;
    blocks = { width, each, head, high };
    const context = sized(canvas, GRID.left + each * width + 2, high * Math.ceil(n / each));
    const style = getComputedStyle(element);
    for (let column = 0; column < n; column++) drawColumn(context, style, column, named);
    for (let start = 0; start < n; start += each) {
      context.textAlign = "left";
      context.font = canvasFont(0.75);
      context.fillStyle = style.getPropertyValue("--soft");
      const top = (start / each) * high + head;
      points.forEach((name, i) => context.fillText(name, 0, top + (i + 0.5) * GRID.row + 4));
      context.strokeStyle = style.getPropertyValue("--line"); // cells of what is the same are as pale as the paper
      context.lineWidth = 1;
      context.strokeRect(GRID.left - 0.5, top - 0.5, Math.min(each, n - start) * width, GRID.row * points.length);
    }
    canvas.setAttribute("aria-label", `how far apart the two streams are. ${sentence().map((part) => part.textContent ?? part).join("")}`);
  }

  function drawColumn(context, style, column, named) {
    const { width, each, head, high } = blocks,
      x = GRID.left + (column % each) * width,
      top = Math.floor(column / each) * high + head;
    const [a, b] = two.columns[column],
      chosen = column === two.chosen;
    context.fillStyle = chosen ? style.getPropertyValue("--accent") : two.differs(column) ? style.color : style.getPropertyValue("--soft");
    context.font = canvasFont(0.75, two.differs(column));
    if (named) {
      const label = visible(a === null ? two.runs[1].labels[b] : run.labels[a]);
      context.save();
      context.translate(x + width / 2 + 4, top - 5);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(shortened(two.differs(column) ? `≠ ${label}` : label, 11), 0, 0);
      context.restore();
    } else if (column % each === 0 || (column % each) % Math.ceil(40 / width) === 0) {
      context.textAlign = "left";
      context.fillText(String(a ?? `–`), x, top - 5);
    }
    for (let point = 0; point < points.length; point++) {
      const found = value(point, column);
      context.fillStyle = Number.isNaN(found) ? style.getPropertyValue("--wash") : colour("share", shade(found));
      context.fillRect(x, top + point * GRID.row, width - (width > 9 ? 1 : 0), GRID.row - 1);
    }
    if (!chosen) return;
    context.strokeStyle = style.getPropertyValue("--accent");
    context.lineWidth = 2;
    context.strokeRect(x, top, width - 1, points.length * GRID.row - 1);
  }

  function under({ offsetX, offsetY }) {
    const { width, each, head, high } = blocks,
      across = Math.floor((offsetX - GRID.left) / width),
      block = Math.floor(offsetY / high),
      point = Math.floor((offsetY - block * high - head) / GRID.row),
      column = block * each + across;
    const inside = across >= 0 && across < each && point >= 0 && point < points.length && column < two.columns.length;
    return inside ? { column, point } : null;
  }
  canvas.onclick = (event) => {
    const hit = under(event);
    if (hit) choose(hit.column, hit.point > 0 && hit.point <= run.L ? { layer: hit.point - 1 } : {});
  };
  canvas.onmousemove = (event) => {
    const hit = under(event);
    if (!hit) return hideTip();
    const found = value(hit.point, hit.column),
      [a, b] = two.columns[hit.column];
    const word = (i, pos) => (pos === null ? "nothing" : `${quoted(two.runs[i].labels[pos])} (${pos})`);
    showTip(event, `${points[hit.point]}: ${word(0, a)} beside ${word(1, b)}`, Number.isNaN(found) ? "one text has no token here" : `${APART_BY[measure]} ${digits(found, 3)}`);
  };
  canvas.onmouseleave = hideTip;

  /** How the chosen column goes, in words. */
  function sentence() {
    if (!two.isPair()) return ["One of the texts has no token in the chosen column: there is nothing to hold against it."];
    const found = points.map((_, point) => run.at("apart:stream", point, two.chosen)[1]),
      most = found.indexOf(Math.max(...found)),
      last = points.length - 1;
    if (!(found[most] > ROUNDING)) return ["In the chosen column the two streams are the same: everything up to there is."];
    return [
      "In the chosen column: distance ",
      el("strong", {}, digits(found[0], 3)),
      ` after the embedding${most ? "" : ", more than anywhere later"}, `,
      most % last ? `most after ${points[most]} (${digits(found[most], 3)}), ` : "",
      el("strong", {}, digits(found[last], 3)),
      ` after the final norm${most === last ? ", more than anywhere before" : ""}.`,
    ];
  }

  function table() {
    const names = ["after", "cosine", "distance", "length, first", "length, second"];
    const rows = points.map((name, point) => {
      const [cosine, distance, ...norms] = run.at("apart:stream", point, two.chosen);
      return el("tr", {}, el("th", { scope: "row" }, name), [cosine, distance, ...norms].map((x, i) => el("td", {}, i ? digits(x, 4) : x.toFixed(4).replace("-", "−"))));
    });
    return el(
      "table",
      { class: "plain" },
      el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows),
    );
  }
  return { element, draw };
}
