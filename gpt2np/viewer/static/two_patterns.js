// Attention of two runs: every head by how differently it looks back from the chosen column, and the chosen head in both.

import { absent, bar, colour, darkOn, digits, el, hideTip, quoted, scaleKey, showTip, sized, tokenLabel } from "./drawing.js";
import { PIXELS, paintPattern } from "./every_head.js";
import { ROUNDING, WHICH } from "./two_runs.js";

const PATTERN_SIDE = 300; // pixels of a pattern, at most
const LOOKS = 6;

export function twoPatterns(two, focus) {
  const [run] = two.runs,
    title = el("h3", {}),
    grid = el("div", { class: "grid", role: "group", "aria-label": "heads by how differently they look" }),
    most = el("p", { class: "small" }),
    pictures = el("div", { class: "two-patterns" });
  if (two.runs.some((each) => !each.has("pattern") && !each.has("pattern:key")))
    return { element: absent(run, "against attention", "Attention of both is"), draw() {} };
  const canvases = two.runs.map(() => el("canvas", { role: "img" })),
    lists = two.runs.map(() => el("div", {})),
    windows = two.runs.map(() => el("p", { class: "small" }));
  pictures.append(...two.runs.map((_, i) => el("div", { class: `of-${WHICH[i]}` }, lists[i], canvases[i], windows[i])));
  const element = el(
    "section",
    { class: "attention-apart" },
    el("h3", {}, "Heads that look elsewhere"),
    el(
      "p",
      { class: "small" },
      "Half of what their attention from the chosen column differs by, token by token: 0 if it goes to the same, 1 if to others only; what goes to a token that stands alone counts. ",
      scaleKey("share", "0", "0.25", "1"),
    ),
    most,
    grid,
    title,
    pictures,
  );
  grid.style.setProperty("--columns", run.H);

  function draw(state) {
    const values = two.isPair()
      ? Array.from({ length: run.L }, (_, layer) => Array.from({ length: run.H }, (_, head) => two.patternsApart(layer, head)))
      : null;
    heads(values, state);
    const reach = run.reach(state.layer);
    title.textContent = `Layer ${state.layer}, head ${state.head}${reach ? ` (${reach})` : ""} in both${values ? `: ${digits(values[state.layer][state.head], 3)}` : ""}`;
    two.runs.forEach((_, i) => {
      lists[i].replaceChildren(...looks(i, state));
      pattern(i, state);
    });
  }

  function heads(values, state) {
    if (!values) {
      grid.replaceChildren();
      most.textContent = "One of the texts has no token in the chosen column.";
      return;
    }
    const order = values.flatMap((row, layer) => row.map((value, head) => ({ value, layer, head }))).sort((a, b) => b.value - a.value);
    most.textContent = order[0].value <= ROUNDING ? "No head looks elsewhere: in this column all look at the same." : `Most: ${order.slice(0, 3).map(({ value, layer, head }) => `layer ${layer} head ${head} (${digits(value, 2)})`).join(", ")}.`;
    const cells = values.flatMap((row, layer) => [el("span", { class: "side" }, `layer ${layer}`), ...row.map((value, head) => cell(value, layer, head, state))]);
    const over = Array.from({ length: run.H }, (_, head) => el("span", { class: "over" }, head ? String(head) : "head 0"));
    grid.replaceChildren(el("span", { class: "side" }), ...over, ...cells);
  }

  function cell(value, layer, head, state) {
    const t = Math.sqrt(Math.min(1, value)),
      said = `layer ${layer} head ${head}: ${digits(value, 3)}`;
    const made = el(
      "button",
      {
        type: "button",
        class: darkOn("share", t) ? "light-ink" : "dark-ink",
        "aria-pressed": String(layer === state.layer && head === state.head),
        "aria-label": said,
        onclick: () => focus.set({ layer, head }),
        onmousemove: (event) => showTip(event, said),
        onmouseleave: hideTip,
      },
      run.H <= 12 ? value.toFixed(2) : "",
    );
    made.style.background = colour("share", t);
    return made;
  }

  /** Where the head looks from the chosen column in one of the runs. */
  function looks(i, { layer, head }) {
    const pos = two.pair[i],
      shown = two.runs[i];
    if (pos === null) return [el("h4", {}, `The ${WHICH[i]} text has no token here`)];
    const weights = shown.weights(layer, head, pos),
      keys = [...weights.keys()].slice(shown.firstSeen(layer, pos)).sort((a, b) => weights[b] - weights[a]);
    return [
      el("h4", {}, `${WHICH[i]}: `, ...two.named(i), " looks at"),
      ...keys.slice(0, LOOKS).map((key) =>
        bar([tokenLabel(shown.labels[key], 14), el("small", {}, ` ${key}`)], weights[key], shown.weightText(weights[key]), { kind: "share" }),
      ),
    ];
  }

  /** The head's pattern in one of the runs, of a long text a window with the chosen position. */
  function pattern(i, { layer, head }) {
    const shown = two.runs[i],
      pos = two.pair[i] ?? shown.T - 1,
      count = Math.min(shown.T, PIXELS),
      first = Math.min(Math.max(0, pos - Math.floor(0.75 * count)), shown.T - count),
      side = Math.min(PATTERN_SIDE, pictures.clientWidth / 2 - 20 || PATTERN_SIDE, Math.max(120, 24 * count));
    const context = sized(canvases[i], side, side),
      style = getComputedStyle(pictures),
      square = side / count;
    context.fillStyle = style.getPropertyValue("--wash");
    context.fillRect(0, 0, side, side);
    context.imageSmoothingEnabled = false;
    paintPattern(context, shown, { layer, head }, { x: 0, y: 0, side, first });
    if (two.pair[i] !== null) {
      context.strokeStyle = style.getPropertyValue("--accent");
      context.lineWidth = 2;
      context.strokeRect(1, (pos - first) * square, Math.max(2, (pos - first + 1) * square - 2), square);
    }
    const of = shown.T > count ? `positions ${first} to ${first + count - 1} of ${shown.T}` : `all ${shown.T} positions`;
    canvases[i].setAttribute("aria-label", `${WHICH[i]} text, layer ${layer} head ${head}: ${of}`);
    windows[i].textContent = `Rows are queries, columns keys: ${of}.`;
    canvases[i].onmousemove = (event) => {
      const [key, query] = [event.offsetX, event.offsetY].map((at) => first + Math.floor(at / square));
      if (key > query || query >= first + count || key < first) return hideTip();
      const word = (at) => `${quoted(shown.labels[at])} (${at})`;
      showTip(event, `${word(query)} looks at ${word(key)}`, shown.weightText(shown.weights(layer, head, query)[key]));
    };
    canvases[i].onmouseleave = hideTip;
  }
  return { element, draw };
}
