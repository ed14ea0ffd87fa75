// The residual stream in numbers: how it grows, when it turns towards its end, and which dimensions stand out.

import { absent, bar, digits, el, quoted, shortened, svg, tokenLabel, visible } from "./drawing.js";

const NAMES_APART = 14.5; // pixels between the names of two lines, at least
const NAMES_AROUND = 34; // above the highest line's end and below the lowest one's, at most
const NAMES_WIDE = 104; // and for the names beside the lines

export function residualPanel(run, focus) {
  const element = el("div", { class: "residual" });
  if (!run.has("resid:norm")) {
    element.append(absent(run, "residual", "Statistics of the stream are"));
    return { id: "residual", title: "Residual", element, empty: true, draw() {} };
  }
  const points = 2 * run.L + 1,
    charts = el("div", { class: "two" }),
    told = el("p", { class: "answer" }),
    lists = el("div", { class: "lists" }),
    outliers = el("div", {});
  element.append(
    el(
      "p",
      { class: "intro" },
      "Length of the stream after every block, and how nearly it already points where it will end up. One thin grey line for each position, named at its end where there is room; the chosen one is thick.",
    ),
    told,
    charts,
    lists,
    outliers,
  );

  function draw(state) {
    const { pos } = state,
      norms = Array.from({ length: points }, (_, p) => run.at("resid:norm", p)[pos]),
      cosines = Array.from({ length: points }, (_, p) => run.at("resid:cosine", p)[pos]);
    told.replaceChildren(
      tokenLabel(run.labels[pos]),
      ` (${pos}): norm ${digits(norms[0], 4)} after the embedding, ${digits(norms[points - 1], 4)} at the end; cosine of the two ${cosines[0].toFixed(3).replace("-", "−")}.`,
    );
    charts.replaceChildren(
      lines("Norm (length) of the stream, on a logarithmic scale", "resid:norm", pos, true),
      lines("Cosine of the stream to the final one", "resid:cosine", pos, false),
    );
    const wrote = (site) =>
        Array.from({ length: run.L }, (_, layer) => run.stats(site, layer, pos)?.norm ?? NaN),
      attn = wrote("attn.out"),
      mlp = wrote("mlp.out");
    const most = Math.max(...attn.filter(Number.isFinite), ...mlp.filter(Number.isFinite), 1e-9);
    const list = (title, values, part) =>
      el(
        "div",
        {},
        el("h4", {}, title),
        values.map((v, layer) =>
          bar(`layer ${layer}`, (v || 0) / most, digits(v, 4), {
            kind: "share",
            chosen: layer === state.layer,
            onclick: () => focus.set({ layer, part }),
            moved: run.marks?.norm(part, layer, pos, v, most),
          }),
        ),
      );
    lists.replaceChildren(
      list("What attention writes: norm", attn, "attn.out"),
      list("What the MLP writes: norm", mlp, "mlp.out"),
    );
    if (!outliers.firstChild && run.has("resid:dimension")) outliers.append(...outlierTable());
  }

  function lines(title, name, chosen, logarithmic) {
    const width = 460,
      height = 260,
      [left, right] = logarithmic ? [48, NAMES_WIDE] : [NAMES_WIDE, 48], // cosines all end at 1: their names are where they begin
      top = 12,
      bottom = 40,
      all = run.arrays[name].data,
      scale = logarithmic ? (v) => Math.log10(Math.max(v, 1e-6)) : (v) => v;
    let low = Infinity,
      high = -Infinity;
    for (const v of all) {
      low = Math.min(low, scale(v));
      high = Math.max(high, scale(v));
    }
    low = logarithmic ? Math.floor(low * 2) / 2 : Math.min(0, low);
    high = logarithmic ? Math.ceil(high * 2) / 2 : 1;
    const x = (p) => left + (p * (width - left - right)) / (points - 1),
      y = (v) => top + ((high - scale(v)) / Math.max(1e-9, high - low)) * (height - top - bottom),
      parts = [];
    const ticks = logarithmic
      ? [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000].filter(
          (v) => scale(v) >= low && scale(v) <= high,
        )
      : [-1, -0.5, 0, 0.25, 0.5, 0.75, 1].filter((v) => v >= low);
    for (const v of ticks)
      parts.push(
        svg("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "rule" }),
        svg(
          "text",
          { x: logarithmic ? left - 6 : width - right + 6, y: y(v) + 4, "text-anchor": logarithmic ? "end" : "start" },
          String(v).replace("-", "−"),
        ),
      );
    const step = Math.max(1, Math.ceil(run.T / 120)),
      line = (values) => values.map((v, p) => `${x(p).toFixed(1)},${y(v).toFixed(1)}`).join(" "),
      path = (pos) => line(Array.from({ length: points }, (_, p) => run.at(name, p)[pos])),
      before = run.marks?.curve(name, chosen);
    const ends = run.at(name, logarithmic ? points - 1 : 0);
    const beside = logarithmic ? { from: width - right + 4, to: width - right + 20, anchor: "start" } : { from: left - 4, to: left - 20, anchor: "end" };
    const heights = namePlaces([...ends].map(y), chosen, top, height - bottom);
    const nameOf = (pos) => `\u2068${shortened(visible(run.labels[pos]), 8)}\u2069 ${pos}`;
    const named = (pos) => [
      svg("line", { x1: beside.from, x2: beside.to, y1: y(ends[pos]), y2: heights.get(pos), class: "leader" }),
      svg(
        "text",
        { x: beside.to + (logarithmic ? 4 : -4), y: heights.get(pos) + 4, "text-anchor": beside.anchor, class: pos === chosen ? "name-chosen" : "" },
        nameOf(pos),
      ),
    ];
    for (let pos = 0; pos < run.T; pos++)
      if (pos !== chosen && (pos % step === 0 || heights.has(pos)))
        parts.push(
          svg(
            "g",
            { class: "one-line", onclick: () => focus.set({ pos }) },
            svg("title", {}, `position ${pos} ${quoted(run.labels[pos])}`),
            svg("polyline", { points: path(pos), class: "thin" }),
            heights.has(pos) ? named(pos) : [],
          ),
        );
    const far = logarithmic ? farthest((pos) => Array.from({ length: points }, (_, p) => y(run.at(name, p)[pos])), run.T, height - bottom) : null;
    if (far && far.pos !== chosen)
      parts.push(svg("text", { x: x(far.point), y: far.y + (far.above ? -7 : 17), "text-anchor": "middle", class: "far" }, nameOf(far.pos)));
    if (before) parts.push(svg("polyline", { points: line(before), class: "path before" }, svg("title", {}, "before")));
    parts.push(svg("polyline", { points: path(chosen), class: "path" }));
    for (let p = 0; p < points; p++)
      parts.push(
        svg(
          "circle",
          { cx: x(p), cy: y(run.at(name, p)[chosen]), r: 3, class: "dot" },
          svg("title", {}, `${run.pointName(p)}: ${digits(run.at(name, p)[chosen], 4)}`),
        ),
      );
    if (heights.has(chosen)) parts.push(...named(chosen));
    const every = Math.ceil(run.L / 12);
    parts.push(svg("text", { x: x(0), y: height - 20, "text-anchor": "middle" }, "embed"));
    for (let layer = 0; layer < run.L; layer += every)
      if (x(2 * layer + 2) - x(0) >= 30)
        parts.push(svg("text", { x: x(2 * layer + 2), y: height - 20, "text-anchor": "middle" }, String(layer)));
    parts.push(svg("text", { x: (left + width) / 2, y: height - 3, "text-anchor": "middle" }, "after layer"));
    return el(
      "figure",
      {},
      el("figcaption", {}, title),
      svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, parts),
    );
  }

  function outlierTable() {
    const rows = Array.from({ length: run.L + 1 }, (_, layer) => 2 * layer).map((point) => {
      const dims = run.at("resid:dimension", point),
        ratios = run.at("resid:ratio", point);
      return el(
        "tr",
        {},
        el("th", { scope: "row" }, point ? `layer ${(point - 1) >> 1}` : "embedding"),
        el("td", {}, run.arrays["resid:kurtosis"].data[point].toFixed(1)),
        [...dims]
          .slice(0, 4)
          .map((d, i) => el("td", {}, el("b", {}, String(d)), ` ×${ratios[i].toFixed(1)}`)),
      );
    });
    return [
      el("h3", {}, "Dimensions that stand out"),
      el(
        "p",
        { class: "small" },
        "The largest dimensions of the stream after each block: how many times the size of the usual one, mean over the text. Kurtosis is 3 where no dimension is special.",
      ),
      el(
        "div",
        { class: "scroll" },
        el(
          "table",
          { class: "plain" },
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              ["after", "kurtosis", "1st", "2nd", "3rd", "4th"].map((name) => el("th", {}, name)),
            ),
          ),
          el("tbody", {}, rows),
        ),
      ),
    ];
  }
  return { id: "residual", title: "Residual", element, draw };
}

// Where the names of lines stand that end at these heights: apart from one another, the chosen one, the highest and the lowest
// first, then as many of the others as there is room for. Heights by position.
function namePlaces(ends, chosen, top, bottom) {
  const finite = ends.filter(Number.isFinite);
  const highest = Math.max(top, Math.min(...finite) - NAMES_AROUND),
    lowest = Math.min(bottom, Math.max(...finite) + NAMES_AROUND);
  const room = Math.floor((lowest - highest) / NAMES_APART) + 1;
  const order = [...ends.keys()].filter((pos) => Number.isFinite(ends[pos])).sort((a, b) => ends[a] - ends[b]);
  const others = order.filter((pos) => pos !== chosen);
  const step = Math.max(1, (others.length - 1) / Math.max(1, room - 2));
  const named = new Set(Array.from({ length: room - 1 }, (_, i) => others[Math.round(i * step)]).concat(chosen));
  const some = order.filter((pos) => named.has(pos));
  const places = new Map();
  let free = highest;
  some.forEach((pos, i) => {
    const latest = lowest - (some.length - 1 - i) * NAMES_APART;
    const at = Math.min(latest, Math.max(free, ends[pos]));
    places.set(pos, at);
    free = at + NAMES_APART;
  });
  return places;
}

// The line that lies farthest from the middle one of all, and where: a height that stands out is asked about. None where all
// lie within a few lines of text.
function farthest(heightsOf, count, bottom) {
  const lines = Array.from({ length: count }, (_, pos) => heightsOf(pos));
  let best = null;
  for (let point = 1; count > 2 && point < lines[0].length - 1; point++) {
    const here = lines.map((line) => line[point]).sort((a, b) => a - b),
      middle = here[Math.floor(count / 2)];
    lines.forEach((line, pos) => {
      const distance = Math.abs(line[point] - middle);
      if (distance > (best?.distance ?? 2 * NAMES_APART)) best = { pos, point, distance, y: line[point], above: line[point] < middle };
    });
  }
  return best && best.y + 20 < bottom ? best : null;
}
