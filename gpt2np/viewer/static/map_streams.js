// The left of the map: every position as a column, its stream running down, and what attention carries
// from one to another. In the open layer each column has what the chosen head and the MLP make of it.

import { canvasFont, el, hideTip, isPrinting, marker, paintStrip, quoted, showTip, sized, visible } from "./drawing.js";
import { shareColour } from "./map_rows.js";

const NAMES = 84; // pixels above the first vector, for the tokens' names
const NARROWEST = 11; // and
const WIDEST = 40; // the widths of a column, in pixels
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
  let shown = { first: 0, count: 0, width: 0, left: 0 };

  /** The middle of a position's column. */
  function x(pos) {
    return shown.left + (pos - shown.first + 0.5) * shown.width;
  }

  /** Which positions there is room for: up to the chosen one and a little beyond. */
  function fit(width, pos) {
    const side = width < 150 ? 10 : 34; // to the right of the last column, where the last name leans over
    const each = Math.max(NARROWEST, Math.min(WIDEST, (width - side) / run.T));
    const count = Math.max(1, Math.min(run.T, Math.floor((width - side) / each)));
    const beyond = Math.min(2, run.T - 1 - pos);
    const first = Math.min(Math.max(0, pos - count + 1 + beyond), run.T - count);
    return { first, count, width: each, left: Math.max(2, (width - side - each * count) / 2) };
  }

  function draw(state) {
    const width = element.clientWidth;
    const rows = levels();
    if (!width || !rows.length) return;
    shown = fit(width, state.pos);
    const bottom = rows[rows.length - 1].y + 12;
    const context = sized(canvas, width, bottom + 20);
    const last = shown.first + shown.count - 1;
    canvas.setAttribute(
      "aria-label",
      `The residual streams of positions ${shown.first} to ${last}; ` +
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
    for (let pos = shown.first; pos <= last; pos++) {
      for (const row of rows) vector(context, state, row, pos, mark);
      context.globalAlpha = pos > state.pos ? LATER : 1;
      name(context, pos, pos === state.pos ? inks.accent : inks.ink, pos === state.pos);
    }
    context.globalAlpha = 1;
    const open = rows.find((row) => row.site === "attn.pattern");
    if (open) pattern(context, state, open, inks);
    const [above, below] = ["ln_1", "attn.q"].map((site) => rows.find((row) => row.site === site));
    if (above && below) {
      context.font = canvasFont(0.75);
      context.fillStyle = inks.soft;
      context.fillText(`head ${state.head}`, spine(shown.first) + BRANCH + 2, (above.y + below.y) / 2 + 4);
    }
    onPaper(width, bottom + 20);
  }

  // A canvas never breaks between two pages; a background does.
  function onPaper(width, height) {
    const printing = isPrinting();
    canvas.hidden = printing;
    element.style.height = printing ? `${height}px` : "";
    element.style.background = printing
      ? `url(${canvas.toDataURL()}) 0 0 / ${width}px ${height}px no-repeat`
      : "";
  }

  /** The stream of each position: a line down the left of its column. */
  function spines(context, state, { line, accent }, bottom) {
    for (let pos = shown.first; pos < shown.first + shown.count; pos++) {
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
  function pattern(context, state, { layer, y, height }, { soft, line }) {
    const weights = run.weights(layer, state.head, state.pos);
    if (!weights) return;
    const foot = y + height / 2;
    const room = height - 12;
    context.font = canvasFont(0.65);
    context.fillStyle = soft;
    if (shown.width >= NUMBERED)
      context.fillText(
        "share of attention, in %",
        x(shown.first) - shown.width * 0.4 + BRANCH,
        y - height / 2 - 4,
      );
    context.textAlign = "center";
    const begins = Math.max(shown.first, run.firstSeen(layer, state.pos));
    for (let key = begins; key <= Math.min(state.pos, shown.first + shown.count - 1); key++) {
      const tall = weights[key] * room + 1;
      const left = x(key) - shown.width * 0.4 + Math.min(BRANCH, shown.width * 0.2);
      const right = x(key) + shown.width * 0.4;
      context.fillStyle = shareColour(weights[key]);
      context.fillRect(left, foot - tall, right - left, tall);
      context.fillStyle = soft;
      if (shown.width >= NUMBERED)
        context.fillText(`${Math.round(100 * weights[key])}`, (left + right) / 2, foot - tall - 3);
    }
    context.fillStyle = line;
    context.fillRect(x(shown.first) - shown.width / 2, foot, shown.width * shown.count, 1);
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
    for (let key = Math.max(shown.first, run.firstSeen(layer, pos)); key <= pos; key++) {
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
    for (let key = shown.first; key <= pos; key++) {
      const w = weights[key];
      if (w < 0.03) continue;
      context.globalAlpha = strength * (0.3 + 0.7 * w);
      context.lineWidth = 0.8 + 5 * w;
      context.beginPath();
      context.moveTo(x(key), top);
      context.bezierCurveTo(x(key), top + bend, x(pos), bottom - bend, x(pos), bottom);
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

  function name(context, pos, ink, bold) {
    const text = [...visible(run.labels[pos])];
    context.save();
    context.translate(x(pos), NAMES - 12);
    context.rotate(shown.width < 16 ? -Math.PI / 2.5 : -Math.PI / 3.2);
    context.fillStyle = ink;
    context.font = canvasFont(0.75, bold);
    context.fillText(text.length > 11 ? `${text.slice(0, 10).join("")}…` : text.join(""), 0, 4);
    context.restore();
  }

  /** Position and row under the pointer. */
  function under(event) {
    const pos = shown.first + Math.floor((event.offsetX - shown.left) / shown.width);
    const distance = (row) => Math.abs(row.y - event.offsetY);
    const near = levels().reduce((a, b) => (distance(b) < distance(a) ? b : a));
    return pos >= shown.first && pos < shown.first + shown.count ? { pos, near } : null;
  }
  canvas.onmousemove = (event) => {
    const hit = under(event);
    if (!hit) return hideTip();
    const { site, layer } = hit.near;
    const lines = [
      `${quoted(run.labels[hit.pos])}, position ${hit.pos}`,
      site === "embed" ? site : `h.${layer}.${site}`,
    ];
    const weights = site.startsWith("attn.") ? run.weights(layer, focus.state.head, focus.state.pos) : null;
    if (hit.pos < weights?.length && hit.near.open && run.sees(layer, focus.state.pos, hit.pos)) {
      lines.push(`head ${focus.state.head} takes ${run.weightText(weights[hit.pos])} from here`);
    }
    showTip(event, ...lines);
  };
  canvas.onmouseleave = hideTip;
  canvas.onclick = (event) => {
    const hit = under(event);
    if (!hit) return;
    const { site, layer } = hit.near;
    focus.set({ pos: hit.pos, part: site, layer: site === "embed" ? focus.state.layer : layer });
  };
  return { element, draw, head: NAMES };
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
