// The left of the map: every position as a column, its stream running down, and what attention carries
// from one to another. In the open layer each column has what the chosen head and the MLP make of it.

import { canvasFont, el, hideTip, marker, paintStrip, quoted, showTip, sized, visible, wholePercent } from "./drawing.js";
import { fitColumns } from "./map_columns.js";
import { shareColour } from "./map_rows.js";
import { positionWindow } from "./position_window.js";

const NAMES = 84; // pixels above the first vector, for the tokens' names
const NUMBERED = 18; // the width of a column from which on shares of attention are written, in pixels
const LATER = 0.3; // opacity of positions after the chosen one, which it cannot see
const BRANCH = 4; // pixels that vectors beside the stream are set in
const HEIGHTS = { embed: 14, resid_mid: 14, resid_post: 14, "mlp.post": 14 };
const UNDRAWN = ["attn.scores", "attn.pattern", "mlp.pre", "mlp.act", "mlp.up"]; // drawn as bars, or only for the chosen one
const OWN = ["attn.q", "attn.q_rot", "attn.z", "attn.heads"]; // of the other positions only faintly: this query is asked

/** `levels()` gives the rows of the map with their heights on the page: [{site, layer, open, y, height}]. */
export function buildStreams(run, focus, levels) {
  const canvas = el("canvas", { role: "img" });
  const element = el("div", { class: "streams" }, canvas);
  const stretch = positionWindow(run, () => draw(focus.state));
  let shown = { positions: [], x: new Map(), gaps: [], width: 0 };

  /** The middle of a position's column. */
  function x(pos) {
    return shown.x.get(pos);
  }

  function draw(state) {
    const width = element.clientWidth;
    const rows = levels();
    if (!width || !rows.length) return;
    shown = fitColumns(run, stretch, width, state.pos);
    const bottom = rows[rows.length - 1].y + 12;
    const context = sized(canvas, width, bottom + 20);
    const many = shown.positions.length;
    canvas.setAttribute(
      "aria-label",
      `The residual streams of ${many === run.T ? "all" : many} positions; ` +
        `layer ${state.layer} head ${state.head} drawn between them`,
    );
    const style = getComputedStyle(element);
    const inks = { ink: style.color };
    for (const name of ["line", "accent", "wash", "soft", "paper"])
      inks[name] = style.getPropertyValue(`--${name}`);
    context.fillStyle = inks.wash;
    context.fillRect(x(state.pos) - shown.width / 2, NAMES - 6, shown.width, bottom - NAMES + 12);
    spines(context, state, inks, bottom);
    carried(context, state, inks, rows);
    const mark = marker(context);
    for (const pos of shown.positions) {
      for (const row of rows) vector(context, state, row, pos, mark);
      context.globalAlpha = pos > state.pos ? LATER : 1;
      name(context, pos, pos === state.pos ? inks.accent : inks.ink, pos === state.pos);
    }
    context.globalAlpha = 1;
    between(context, inks, bottom);
    const open = rows.find((row) => row.site === "attn.pattern");
    if (open) pattern(context, state, open, inks);
    const [above, below] = ["ln_1", "attn.q"].map((site) => rows.find((row) => row.site === site));
    if (above && below) {
      context.font = canvasFont(0.75);
      context.fillStyle = inks.soft;
      onPaper(context, `head ${state.head}`, spine(shown.positions[0]) + BRANCH + 2, (above.y + below.y) / 2 + 4, inks.paper);
    }
  }

  /** The stream of each position: a line down the left of its column. */
  function spines(context, state, { line, accent }, bottom) {
    for (const pos of shown.positions) {
      const chosen = pos === state.pos;
      context.globalAlpha = pos > state.pos ? LATER : 1;
      context.strokeStyle = chosen ? accent : line;
      context.lineWidth = chosen ? 3 : 1.5;
      context.beginPath();
      context.moveTo(spine(pos), NAMES);
      context.lineTo(spine(pos), bottom);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  function spine(pos) {
    return x(pos) - shown.width * 0.4;
  }

  /** Dots where positions are left out. */
  function between(context, { soft }, bottom) {
    context.fillStyle = soft;
    for (const gap of shown.gaps)
      for (const y of [NAMES - 12, bottom])
        for (const dx of [-3, 0, 3]) context.fillRect(gap.x + dx - 0.75, y, 1.5, 1.5);
  }

  /** What a query takes: [x, share] of each position that is shown, and of those in each gap together. */
  function sharesOf(weights, pos, least = 0) {
    const alone = shown.positions.filter((key) => key <= pos && key >= least).map((key) => [x(key), weights[key], 1]);
    const together = shown.gaps
      .filter(({ from, to }) => from <= pos && to >= least)
      .map((gap) => [gap.x, shareOf(weights, gap), Math.min(gap.to, pos) - Math.max(gap.from, least) + 1]);
    return [...alone, ...together];
  }

  /** What may stand above the bars, the longest first: the largest share of one position, and what those left out have together. */
  function captionsOf(shares, largest) {
    const hidden = shares.filter(([, , count]) => count > 1),
      [share, count] = [1, 2].map((at) => hidden.reduce((sum, each) => sum + each[at], 0)),
      said = shown.width >= NUMBERED ? ["share of attention, in %", "attention, in %", "in %"] : ["share of attention, ", ""].map((of) => `${of}at most ${wholePercent(largest)}`);
    return count ? [`${said[0]}; … ${count} others together ${wholePercent(share)}`, ...said] : said;
  }

  /** One vector of one position: the stream over its line, everything else beside it. */
  function vector(context, state, { site, layer, y }, pos, mark) {
    if (UNDRAWN.includes(site)) return;
    const cells = run.strip(site, layer, pos, state.head);
    if (!cells) return;
    const stream = site === "embed" || site.startsWith("resid");
    const left = x(pos) - shown.width * 0.4 + (stream ? 0 : Math.min(BRANCH, shown.width * 0.2));
    const right = x(pos) + shown.width * 0.4;
    const height = HEIGHTS[site] ?? 9;
    const faint = pos > state.pos || (OWN.includes(site) && pos !== state.pos);
    context.globalAlpha = faint ? LATER : 1;
    paintStrip(context, cells, left, y - height / 2, right - left, height);
    if (run.marks?.vector(site, layer, pos, state.head)) mark(right, y - height / 2, 5);
    context.globalAlpha = 1;
  }

  /** Shares of attention of the chosen head: a bar for each key, all standing on one line. */
  function pattern(context, state, { layer, y, height }, { soft, line, paper }) {
    const weights = run.weights(layer, state.head, state.pos);
    if (!weights) return;
    const foot = y + height / 2;
    const room = height - 12;
    context.font = canvasFont(0.65);
    context.fillStyle = soft;
    const numbered = shown.width >= NUMBERED,
      seen = run.firstSeen(layer, state.pos),
      shares = sharesOf(weights, state.pos, seen);
    const left = spine(shown.positions[0]) + BRANCH,
      captions = captionsOf(shares, Math.max(...weights.slice(seen))),
      fits = (text) => context.measureText(text).width <= context.canvas.clientWidth - left;
    onPaper(context, captions.find(fits) ?? captions.at(-1), left, y - height / 2 - 4, paper);
    context.textAlign = "center";
    const wide = shown.width * 0.8 - Math.min(BRANCH, shown.width * 0.2);
    for (const [middle, share, count] of shares) {
      const tall = share * room + 1;
      const right = middle + shown.width * 0.4;
      context.fillStyle = shareColour(share);
      context.strokeStyle = soft;
      if (count === 1) context.fillRect(right - wide, foot - tall, wide, tall);
      else context.strokeRect(right - wide + 0.5, foot - tall + 0.5, wide - 1, tall - 1); // of several together
      context.fillStyle = soft;
      if (numbered)
        context.fillText(wholePercent(share, ""), right - wide / 2, foot - tall - 3);
    }
    const [begin, end] = [shown.positions[0], shown.positions.at(-1)];
    context.fillStyle = line;
    context.fillRect(x(begin) - shown.width / 2, foot, x(end) - x(begin) + shown.width, 1);
    context.textAlign = "left";
  }

  /** What comes to the chosen position: in the open layer by the chosen head, elsewhere the mean of all heads. */
  function carried(context, state, { accent, ink, soft }, rows) {
    const row = (site, layer) => rows.find((each) => each.site === site && each.layer === layer);
    rows.forEach((to, i) => {
      if (to.site !== "resid_mid" || to.open) return;
      arcs(context, mean(to.layer, state.pos), state.pos, rows[i - 1].y + 7, to.y - 7, ink, 0.55);
    });
    const [query, key] = ["q", "k"].map(
      (name) => row(`attn.${name}_rot`, state.layer) ?? row(`attn.${name}`, state.layer),
    );
    const [value, z] = [row("attn.v", state.layer), row("attn.z", state.layer)];
    const weights = run.weights(state.layer, state.head, state.pos);
    if (!query || !key || !value || !z || !weights) return;
    asks(context, state, query.y + 5, key.y - 5, soft);
    arcs(context, weights, state.pos, value.y + 5, z.y - 5, accent, 1);
  }

  /** The query is held against every key that it sees, up to its own position. */
  function asks(context, { pos, layer }, from, to, ink) {
    context.globalAlpha = 0.5;
    context.strokeStyle = ink;
    context.lineWidth = 0.7;
    for (const key of shown.positions) {
      if (!run.sees(layer, pos, key)) continue;
      context.beginPath();
      context.moveTo(x(pos), from);
      context.lineTo(x(key), to);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  /** Curves from every key to a position, as thick as the share that is taken. */
  function arcs(context, weights, pos, top, bottom, ink, strength) {
    if (!weights) return;
    const bend = (bottom - top) * 0.55;
    context.strokeStyle = ink;
    for (const [from, w] of sharesOf(weights, pos)) {
      if (w < 0.03) continue;
      context.globalAlpha = strength * (0.3 + 0.7 * w);
      context.lineWidth = 0.8 + 5 * w;
      context.beginPath();
      context.moveTo(from, top);
      context.bezierCurveTo(from, top + bend, x(pos), bottom - bend, x(pos), bottom);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  const means = new Map();
  function mean(layer, pos) {
    const key = `${layer} ${pos}`;
    if (!means.has(key)) means.set(key, meanOfHeads(run, layer, pos));
    return means.get(key);
  }

  /** A token's name, slanted: as much of it as there is room for above the columns. */
  function name(context, pos, ink, bold) {
    const slant = shown.width < 17 ? Math.PI / 2.5 : Math.PI / 3.2;
    context.save();
    context.translate(x(pos), NAMES - 12);
    context.rotate(-slant);
    context.fillStyle = ink;
    context.font = canvasFont(0.75, bold);
    context.fillText(fitted(context, visible(run.labels[pos]), (NAMES - 18) / Math.sin(slant)), 0, 4);
    context.restore();
  }

  /** Row under the pointer, and the position or the gap. */
  function under(event) {
    const distance = (row) => Math.abs(row.y - event.offsetY);
    const near = levels().reduce((a, b) => (distance(b) < distance(a) ? b : a));
    const isOver = (middle) => Math.abs(middle - event.offsetX) <= shown.width / 2;
    const pos = shown.positions.find((each) => isOver(x(each)));
    const gap = shown.gaps.find((each) => isOver(each.x));
    return pos === undefined && !gap ? null : { pos, gap, near };
  }
  canvas.onmousemove = (event) => {
    const hit = under(event);
    if (!hit) return hideTip();
    const { pos, gap, near } = hit;
    const { layer, site } = near;
    const { head, pos: query } = focus.state;
    const lines =
      pos === undefined
        ? [`positions ${gap.from} to ${gap.to} are not drawn`]
        : [`${quoted(run.labels[pos])}, position ${pos}`, site === "embed" ? site : `h.${layer}.${site}`];
    const weights = near.open && site.startsWith("attn.") ? run.weights(layer, head, query) : null;
    if (weights && pos === undefined) lines.push(`head ${head} takes ${run.weightText(shareOf(weights, gap))} from them`);
    else if (weights && run.sees(layer, query, pos)) lines.push(`head ${head} takes ${run.weightText(weights[pos])} from here`);
    showTip(event, ...lines);
  };
  canvas.onmouseleave = hideTip;
  canvas.onclick = (event) => {
    const hit = under(event);
    if (hit?.pos === undefined) return;
    const { site, layer } = hit.near;
    focus.set({ pos: hit.pos, part: site, layer: site === "embed" ? focus.state.layer : layer });
  };
  return { element, window: stretch.element, draw, head: NAMES };
}

/** Attention of a query in a layer, the mean of its heads; null where the page does not have it. */
function meanOfHeads(run, layer, pos) {
  const sum = new Float32Array(pos + 1);
  for (let head = 0; head < run.H; head++) {
    const weights = run.weights(layer, head, pos);
    if (!weights) return null;
    weights.forEach((w, key) => {
      sum[key] += w / run.H;
    });
  }
  return sum;
}

/** What is taken from the positions of a gap together. */
function shareOf(weights, { from, to }) {
  return weights.slice(from, to + 1).reduce((sum, w) => sum + w, 0);
}

/** A text on a piece of paper of its own: no line runs through it. */
function onPaper(context, text, left, foot, paper) {
  const [ink, size] = [context.fillStyle, parseFloat(context.font.match(/([\d.]+)px/)[1])];
  context.fillStyle = paper;
  context.fillRect(left - 2, foot - size, context.measureText(text).width + 4, size * 1.35);
  context.fillStyle = ink;
  context.fillText(text, left, foot);
}

/** A text, cut where it gets wider than there is room. */
function fitted(context, text, room) {
  if (context.measureText(text).width <= room) return text;
  const letters = [...text];
  while (letters.length && context.measureText(`${letters.join("")}…`).width > room) letters.pop();
  return `${letters.join("")}…`;
}
