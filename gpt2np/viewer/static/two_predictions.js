// What two runs predict at the chosen column: both lists, the tokens that differ most, and one logit above another by layers.

import { bar, digits, el, percent, signed, svg, tokenLabel } from "./drawing.js";
import { ROUNDING, WHICH } from "./two_runs.js";

const BARS = ["", "push"]; // of the bars of either run
const CHART = { least: 320, most: 640, height: 290, left: 50, right: 64, top: 14, bottom: 42 }; // pixels

export function twoPredictions(two) {
  const [run] = two.runs,
    lists = el("div", { class: "lists" }),
    apart = el("div", {}),
    chart = el("div", { class: "chart" });
  const element = el("section", {}, lists, el("div", { class: "two" }, apart, chart));

  function draw() {
    lists.replaceChildren(...two.runs.map((_, i) => likeliest(two, i)));
    apart.replaceChildren(...differing(two));
    chart.replaceChildren(...(two.at("apart:logit") ? [logitChart(run, two, Math.min(CHART.most, Math.max(CHART.least, chart.clientWidth)))] : [why()]));
  }

  /** Why something is not there, if it could be. */
  function why() {
    if (!two.isPair()) return "";
    const told = run.missing["against predictions"] ?? run.missing["against logits"];
    const first = run.against.columns[run.against.first][0] ?? "…";
    return el("p", { class: "absent" }, told ? `Not in this page: ${told}.` : `Differences are in this page from position ${first} on: of earlier ones they were left out to keep it small.`);
  }
  return { element, draw };
}

function likeliest(two, i) {
  const pos = two.pair[i],
    run = two.runs[i];
  if (pos === null) return el("div", {}, el("h4", {}, `The ${WHICH[i]} text has no token here`));
  const ids = run.at("next:id", pos),
    chances = run.at("next:p", pos);
  return el(
    "div",
    { class: `of-${WHICH[i]}` },
    el("h4", {}, `${WHICH[i]}: after `, ...two.named(i)),
    [...(ids ?? [])].map((id, k) => bar(tokenLabel(run.word(id)), chances[k], percent(chances[k]), { kind: BARS[i] })),
  );
}

/** The tokens whose probability differs most. */
function differing(two) {
  const [ids, chances, apart] = ["apart:id", "apart:p", "apart:divergence"].map((name) => two.at(name));
  if (!ids) return [];
  const title = el("h3", {}, "Tokens whose probability differs most");
  if (![...ids.keys()].some((i) => Math.abs(chances[2 * i] - chances[2 * i + 1]) > ROUNDING))
    return [title, el("p", {}, "None differs here: both texts predict the same.")];
  const rows = [...ids].map((id, i) => {
    const [p, q] = [chances[2 * i], chances[2 * i + 1]];
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, tokenLabel(two.runs[0].word(id))),
      [percent(p), percent(q), signed(100 * (p - q))].map((text) => el("td", {}, text)),
    );
  });
  return [
    title,
    el("p", { class: "small" }, `Kullback-Leibler divergence of the second prediction from the first: ${digits(apart[0], 4)} nats; the other way ${digits(apart[1], 4)}.`),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        { class: "plain" },
        el("thead", {}, el("tr", {}, ["token", "first", "second", "percentage points apart"].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, rows),
      ),
    ),
  ];
}

/** One token's logit above another's, in both runs, along the layers. */
function logitChart(run, two, width) {
  const { height, left, right, top, bottom } = CHART,
    found = two.at("apart:logit"),
    [one, other] = two.at("apart:pair"),
    points = 2 * run.L + 1;
  const lines = [0, 1].map((i) => Array.from({ length: points }, (_, point) => found[2 * point + i]));
  const finite = lines.flat().filter(Number.isFinite),
    low = Math.min(0, ...finite),
    high = Math.max(0, ...finite),
    x = (point) => left + (point * (width - left - right)) / Math.max(1, points - 1),
    y = (value) => top + ((high - value) / Math.max(1e-9, high - low)) * (height - top - bottom);
  const step = niceStep(high - low),
    parts = [];
  for (let tick = Math.ceil(low / step); tick <= Math.floor(high / step); tick++)
    parts.push(
      svg("line", { x1: left, x2: width - right, y1: y(tick * step), y2: y(tick * step), class: tick ? "rule" : "zero" }),
      svg("text", { x: left - 6, y: y(tick * step) + 4, "text-anchor": "end" }, signed(tick * step, step < 1 ? 1 : 0)),
    );
  const every = Math.ceil(run.L / 12);
  parts.push(svg("text", { x: x(0), y: height - 24, "text-anchor": "middle" }, "embed"));
  for (let layer = 0; layer < run.L; layer += every)
    parts.push(svg("text", { x: x(2 * layer + 2), y: height - 24, "text-anchor": "middle" }, String(layer)));
  parts.push(svg("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "after layer; in between after attention"));
  const ends = lines.map((values) => y(values[points - 1])),
    close = Math.abs(ends[0] - ends[1]) < 15; // then the two names would lie on each other
  lines.forEach((values, i) => {
    const shift = close ? ((ends[i] < ends[1 - i] || (ends[i] === ends[1 - i] && i === 0) ? -1 : 1) * (15 - Math.abs(ends[0] - ends[1]))) / 2 : 0;
    parts.push(
      svg("polyline", { points: values.map((value, point) => `${x(point)},${y(value)}`).join(" "), class: `line-${WHICH[i]}` }),
      ...values.map((value, point) =>
        svg(
          i ? "rect" : "circle",
          i ? { x: x(point) - 3, y: y(value) - 3, width: 6, height: 6, class: "mark-second" } : { cx: x(point), cy: y(value), r: 3.5, class: "mark-first" },
          svg("title", {}, `${WHICH[i]}, ${run.pointName(point)}: ${signed(value, 3)}`),
        ),
      ),
      svg("text", { x: x(points - 1) + 9, y: ends[i] + shift + 4, class: `name-${WHICH[i]}` }, WHICH[i]),
    );
  });
  const said = lines.map((values, i) => `${WHICH[i]} ${signed(values[points - 1], 2)}`).join(", ");
  return el(
    "figure",
    {},
    el("h3", {}, "One logit above another, layer by layer"),
    el(
      "figcaption",
      {},
      "Logit of ",
      tokenLabel(run.word(one)),
      " minus that of ",
      tokenLabel(run.word(other)),
      `, as the logit lens has them${run.model.capped ? ", before the cap on them" : ""}. At the end: ${said}.`,
    ),
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `difference of two logits; at the end: ${said}` }, parts),
  );
}

/** A step of 1, 2 or 5 that divides a range into a handful. */
function niceStep(range) {
  const rough = Math.max(range, 1e-9) / 5,
    ten = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((n) => n * ten).find((n) => n >= rough);
}
