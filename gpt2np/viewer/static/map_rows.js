// The rows of the map: which vectors of one position are drawn, how each is painted, what stands beside it.

import { fullName, partOf, shapeText, stripTip } from "./map_card.js";
import { colour, digits, el, fullColour, paintStrip, place, quoted, tokenLabel, wholePercent } from "./drawing.js";

/** Rows of the open layer: site, name, height in pixels, place at the spine (read, write, stream), block. */
export const OPEN = [
  ["ln_1", "ln_1", 12, "read", "attention"],
  ["heads", "head", 22, "", "attention"],
  ["attn.q", "query", 12, "", "attention"],
  ["attn.k", "key", 12, "", "attention"],
  ["attn.q_rot", "query ↻", 12, "", "attention"],
  ["attn.k_rot", "key ↻", 12, "", "attention"],
  ["attn.scores", "scores", 34, "", "attention"],
  ["attn.pattern", "pattern", 50, "", "attention"],
  ["attn.v", "value", 12, "", "attention"],
  ["attn.z", "z", 12, "", "attention"],
  ["attn.proj", "proj", 12, "", "attention"],
  ["attn.heads", "outputs", 0, "", "attention"],
  ["attn.out", "out", 14, "write", "attention"],
  ["resid_mid", "stream", 18, "stream", ""],
  ["ln_2", "ln_2", 12, "read", "mlp"],
  ["mlp.pre", "pre", 40, "", "mlp"],
  ["mlp.act", "act", 40, "", "mlp"],
  ["mlp.up", "up", 40, "", "mlp"],
  ["mlp.post", "post", 40, "", "mlp"],
  ["mlp.proj", "proj", 12, "", "mlp"],
  ["mlp.out", "out", 14, "write", "mlp"],
  ["resid_post", "stream", 18, "stream", ""],
];

/** Rows of every other layer: only what it writes, and what it leaves. */
export const CLOSED = [
  ["attn.out", "attn", 9, "write", "attention"],
  ["mlp.out", "mlp", 9, "write", "mlp"],
  ["resid_post", "stream", 16, "stream", ""],
];

const BETWEEN = ["attn.scores", "attn.pattern"]; // what is between two positions, and no vector
const OUTPUT = 6; // pixels for each head's output vector
const BAR = 26; // the widest bar of a pattern, in pixels
const GAP = 8; // and between the patterns of two heads, at most

/** How high a row is: the outputs of the heads need a line each. */
export function heightOf(run, site, height) {
  return site === "attn.heads" ? OUTPUT * run.H : height;
}

/** Whether a row has one stretch for each head, side by side or below one another. */
export function hasHeads(run, site) {
  return run.perHead(site) || BETWEEN.includes(site);
}

/** The head under the pointer, of a row that has heads. */
export function headUnder(run, site, canvas, event) {
  const box = canvas.getBoundingClientRect();
  const across = (event.clientX - box.left) / box.width;
  const down = (event.clientY - box.top) / box.height;
  const head = Math.floor((site === "attn.heads" ? down : across) * run.H);
  return Math.min(run.H - 1, Math.max(0, head));
}

/** How many times wider than the stream the MLP is: its neurons are folded into so many lines. */
function foldsOf(run) {
  return Math.max(1, Math.round(run.model.d_mlp / run.model.n_embd));
}

// -- painting -------------------------------------------------------------------------------------

/** Paint one row of the chosen position into a canvas of that width and height. */
export function paintRow(run, context, { site, layer, height }, state, width) {
  const { pos } = state;
  const painted = {
    context,
    wash: getComputedStyle(context.canvas).getPropertyValue("--wash"),
    width,
    height,
  };
  if (site === "attn.pattern") paintPatterns(run, painted, layer ?? 0, pos);
  else if (site === "attn.scores") paintScores(run, painted, layer ?? 0, pos);
  else if (site === "attn.heads") paintOutputs(run, painted, layer, pos);
  else if (run.perHead(site)) paintHeads(run, painted, site, layer, pos);
  else if (run.ofNeurons(site)) paintNeurons(run, painted, run.strip(site, layer, pos));
  else paintOrNothing(painted, run.strip(site, layer ?? 0, pos), 0, 0, width, height);
  if (hasHeads(run, site)) frameHead(run, painted, site, state.head);
}

// A frame around the chosen head's part, or its group's.
function frameHead(run, { context, width, height }, site, head) {
  const each = width / run.parties(site);
  const place = run.shares(site) ? run.group(head) : head;
  context.strokeStyle = getComputedStyle(context.canvas).getPropertyValue("--ink");
  context.lineWidth = 1;
  if (site === "attn.heads") context.strokeRect(0.5, head * OUTPUT - 0.5, width - 1, OUTPUT - 0.5);
  else context.strokeRect(place * each + 0.5, 0.5, each - 1, height - 1);
}

// A strip, or an empty box where this page does not have the vector.
function paintOrNothing({ context, wash }, cells, ...box) {
  if (cells) return paintStrip(context, cells, ...box);
  context.fillStyle = wash;
  context.fillRect(...box);
}

// Vectors of d_head components: head beside head, together as wide as the stream; what a group of heads
// shares is as wide as these are.
function paintHeads(run, painted, site, layer, pos) {
  const parties = run.parties(site);
  const each = painted.width / parties;
  for (let i = 0; i < parties; i++) {
    const cells = run.strip(site, layer, pos, (i * run.H) / parties);
    paintOrNothing(painted, cells, i * each + 1, 0, each - 2, painted.height);
  }
}

// Vectors of n_embd components for each head: one below the other, each as wide as the stream.
function paintOutputs(run, painted, layer, pos) {
  for (let head = 0; head < run.H; head++) {
    const cells = run.strip("attn.heads", layer, pos, head);
    paintOrNothing(painted, cells, 0, head * OUTPUT, painted.width, OUTPUT - 1.5);
  }
}

// Neurons: there are several times more than the stream has components, so several lines.
function paintNeurons(run, painted, cells) {
  const { context, width, height } = painted;
  if (!cells) return paintOrNothing(painted, null, 0, 0, width, height);
  const folds = foldsOf(run);
  const each = Math.ceil(cells.length / folds);
  const full = fullColour(cells);
  for (let fold = 0; fold < folds; fold++) {
    const line = cells.slice(fold * each, (fold + 1) * each);
    const lineWidth = (width * line.length) / each;
    paintStrip(context, line, 0, (fold * height) / folds, lineWidth, height / folds - 1.5, full);
  }
}

// How much each head takes from each key: a bar for each, in a box for each head.
function paintPatterns(run, { context, wash, width, height }, layer, pos) {
  const each = width / run.H;
  for (let head = 0; head < run.H; head++) {
    const left = head * each + gapOf(each) / 2;
    context.fillStyle = wash;
    context.fillRect(left, 0, each - gapOf(each), height);
    const weights = run.weights(layer, head, pos);
    if (!weights) continue;
    const step = barStep(each, weights.length);
    weights.forEach((w, key) => {
      if (key < run.firstSeen(layer, pos)) return;
      const tall = w * (height - 2) + 1;
      context.fillStyle = shareColour(w);
      context.fillRect(left + key * step, height - tall, Math.max(step - (step > 3 ? 1 : 0), 0.6), tall);
    });
  }
}

// How well each key answers each head's query: bars up and down from 0, each head by its own largest score.
function paintScores(run, { context, wash, width, height }, layer, pos) {
  const each = width / run.H;
  for (let head = 0; head < run.H; head++) {
    const left = head * each + gapOf(each) / 2;
    context.fillStyle = wash;
    context.fillRect(left, 0, each - gapOf(each), height);
    const scores = run.scores(layer, head, pos);
    if (!scores) continue;
    const step = barStep(each, scores.length);
    const most = Math.max(...Array.from(scores, (s) => (Number.isFinite(s) ? Math.abs(s) : 0)), 1e-9);
    scores.forEach((score, key) => {
      if (!run.sees(layer, pos, key) || !Number.isFinite(score)) return;
      const tall = (score / most) * (height / 2 - 1);
      context.fillStyle = colour("diverging", place(score, most));
      const bar = Math.max(step - (step > 3 ? 1 : 0), 0.6);
      context.fillRect(left + key * step, height / 2 - Math.max(0, tall), bar, Math.abs(tall) + 0.5);
    });
  }
}

/** Pixels from one bar of a pattern to the next, in a box of that width. */
function barStep(width, n) {
  return Math.min((width - gapOf(width)) / n, BAR);
}

// Pixels that are free between two heads' patterns, where each head has so many.
function gapOf(width) {
  return Math.min(GAP, Math.max(2, width / 6));
}

/** The colour of a share of attention, where it is drawn as a bar: never as pale as the paper. */
export function shareColour(w) {
  return colour("share", 0.25 + 0.75 * Math.sqrt(w));
}

// -- what stands beside a row -----------------------------------------------------------------------

/** The words to the right of a row: what it is in short, how wide, how long; at the stream, what it says. */
export function noteOf(run, { site, layer, kind, open }, state) {
  const stats = hasHeads(run, site) ? null : run.stats(site, layer ?? 0, state.pos);
  const norm = stats ? `norm ${digits(stats.norm)}` : "";
  const said = kind === "stream" ? prediction(run, run.point(layer ?? 0, site), state.pos) : null;
  if (!open) return said ?? [el("span", {}, norm)];
  const wide = widthText(run, site, state.pos);
  const second = el("span", { class: "second" }, [wide, norm].filter(Boolean).join(" · "));
  return said ? [...said, second] : [el("span", { class: "brief" }, partOf(run, site).brief), second];
}

// What would be predicted at a point of the stream.
function prediction(run, point, pos) {
  const row = pos - run.detail.firstLens;
  const ids = run.at("lens:id", point, row);
  if (!ids) return null;
  const words = [el("b", {}, tokenLabel(run.word(ids[0]), 9)), ` ${wholePercent(run.at("lens:p", point, row)[0])}`];
  return [el("span", { class: "says", title: "what the model would predict if it stopped here" }, words)];
}

// How many numbers the row stands for: "192", "4 × 48", "4 × 11".
function widthText(run, site, pos) {
  if (BETWEEN.includes(site)) return `${run.H} × ${pos + 1}`;
  const [, ...wide] = partOf(run, site).shape;
  return wide.map((n) => n.toLocaleString("en")).join(" × ");
}

/** The lines of the tip: the row's name and shape, and the number under the pointer. */
export function tipLines(run, { site, layer, canvas }, state, event) {
  const head = hasHeads(run, site) ? headUnder(run, site, canvas, event) : null;
  const name = fullName(run, site, layer) + (head === null ? "" : `, ${run.party(site, head)}`);
  const lines = [name, shapeText(partOf(run, site))];
  const across = event.offsetX / canvas.clientWidth;
  const said =
    BETWEEN.includes(site) ? lookTip(run, site, layer, head, state.pos, across, canvas.clientWidth) : null;
  if (said) return [...lines, said];
  const cells = BETWEEN.includes(site) ? null : run.strip(site, layer ?? 0, state.pos, head ?? 0);
  if (!cells) return lines;
  return [
    ...lines,
    stripTip(run, site, cells, placeIn(run, site, head, across, event.offsetY / canvas.clientHeight)),
  ];
}

// Where in its vector the pointer is, from 0 to 1.
function placeIn(run, site, head, across, down) {
  if (run.ofNeurons(site)) {
    const folds = foldsOf(run);
    return (Math.min(folds - 1, Math.floor(down * folds)) + across) / folds;
  }
  if (head === null || site === "attn.heads") return across;
  return (across * run.parties(site)) % 1;
}

function lookTip(run, site, layer, head, pos, across, width) {
  const weights = run.weights(layer, head, pos);
  if (!weights) return null;
  const each = width / run.H;
  const key = Math.floor(((across * run.H - head) * each - gapOf(each) / 2) / barStep(each, weights.length));
  if (!(key >= 0 && key < weights.length)) return null;
  if (!run.sees(layer, pos, key)) return `does not see ${quoted(run.labels[key])} (${key})`;
  const score = site === "attn.scores" ? run.scores(layer, head, pos)?.[key] : undefined;
  if (score !== undefined) return `score of ${quoted(run.labels[key])} (${key}): ${digits(score)}`;
  return `looks at ${quoted(run.labels[key])} (${key}): ${run.weightText(weights[key])}`;
}
