// The left of the map: every position's residual stream as a column, and what attention carries between them.

import { colour, el, hideTip, paintStrip, quoted, showTip, sized, visible } from "./draw.js";

const HEAD = 86; // pixels above the first vector, for the tokens' names

/** `levels()` gives the points of the stream with their heights on the page: [{point, layer, site, y}]. */
export function buildStreams(run, focus, levels) {
  const canvas = el("canvas", { role: "img" });
  const element = el("div", { class: "streams" }, canvas);
  let shown = { first: 0, count: 0, width: 0, left: 0 };

  function draw(state) {
    const width = element.clientWidth, rows = levels();
    if (!width || !rows.length) return;
    const height = rows[rows.length - 1].y + 60, context = sized(canvas, width, height);
    const each = Math.max(11, Math.min(40, (width - 34) / run.T)), count = Math.min(run.T, Math.floor((width - 34) / each));
    const first = Math.min(Math.max(0, state.pos - count + 1 + Math.min(2, run.T - 1 - state.pos)), run.T - count);
    shown = { first, count, width: each, left: Math.max(2, (width - 34 - each * count) / 2) };
    canvas.setAttribute("aria-label", `The residual streams of positions ${first} to ${first + count - 1}; layer ${state.layer} head ${state.head} drawn between them`);
    const style = getComputedStyle(element), ink = style.color, line = style.getPropertyValue("--line"), accent = style.getPropertyValue("--accent");
    const x = (pos) => shown.left + (pos - first + 0.5) * each;
    context.fillStyle = style.getPropertyValue("--wash");
    context.fillRect(x(state.pos) - each / 2, 0, each, height);
    for (let pos = first; pos < first + count; pos++) {
      context.globalAlpha = pos > state.pos ? 0.32 : 1;
      context.strokeStyle = pos === state.pos ? accent : line;
      context.lineWidth = pos === state.pos ? 2.5 : 1.2;
      path(context, [[x(pos), HEAD], [x(pos), rows[rows.length - 1].y + 12]]);
    }
    for (let i = 1; i < rows.length; i++) if (rows[i].site === "resid_mid") arcs(context, state, rows[i - 1], rows[i], x, accent, ink);
    for (let pos = first; pos < first + count; pos++) {
      context.globalAlpha = pos > state.pos ? 0.32 : 1;
      for (const row of rows) {
        const cells = run.strip(row.site, row.layer, pos);
        if (cells) paintStrip(context, cells, x(pos) - each * 0.39, row.y - 7, each * 0.78, 14);
      }
      name(context, pos, x(pos), pos === state.pos ? accent : ink, pos === state.pos);
    }
    context.globalAlpha = 1;
  }

  // What the chosen head (in other layers: the mean of all heads) brings to the chosen position.
  function arcs(context, state, from, to, x, accent, ink) {
    const chosen = to.layer === state.layer;
    const weights = chosen ? run.weights(to.layer, state.head, state.pos) : mean(to.layer, state.pos);
    if (!weights) return;
    for (let key = shown.first; key <= state.pos; key++) {
      const w = weights[key];
      if (w < 0.03 || key === state.pos) continue;
      context.globalAlpha = (chosen ? 0.35 : 0.16) + 0.6 * w * (chosen ? 1 : 0.6);
      context.strokeStyle = chosen ? accent : ink;
      context.lineWidth = 0.8 + 5 * w;
      const y0 = from.y + 7, y1 = to.y - 7, bend = (y1 - y0) * 0.55;
      context.beginPath();
      context.moveTo(x(key), y0);
      context.bezierCurveTo(x(key), y0 + bend, x(state.pos), y1 - bend, x(state.pos), y1);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  const means = new Map();
  function mean(layer, pos) {
    const key = `${layer} ${pos}`;
    if (!means.has(key)) {
      const sum = new Float32Array(pos + 1);
      for (let head = 0; head < run.H; head++) {
        const weights = run.weights(layer, head, pos);
        if (!weights) return null;
        weights.forEach((w, i) => { sum[i] += w / run.H; });
      }
      means.set(key, sum);
    }
    return means.get(key);
  }

  function name(context, pos, x, ink, bold) {
    context.save();
    context.translate(x, HEAD - 12);
    context.rotate(shown.width < 16 ? -Math.PI / 2.5 : -Math.PI / 3.2);
    context.fillStyle = ink;
    context.font = `${bold ? "600 " : ""}12px system-ui, sans-serif`;
    const text = visible(run.tokens[pos]);
    context.fillText([...text].length > 11 ? `${[...text].slice(0, 10).join("")}…` : text, 0, 4);
    context.restore();
  }

  function under(event) {
    const pos = shown.first + Math.floor((event.offsetX - shown.left) / shown.width);
    const near = levels().reduce((a, b) => (Math.abs(b.y - event.offsetY) < Math.abs(a.y - event.offsetY) ? b : a));
    return pos >= shown.first && pos < shown.first + shown.count ? { pos, near } : null;
  }
  canvas.onmousemove = (event) => {
    const hit = under(event);
    if (hit) showTip(event, `${quoted(run.tokens[hit.pos])}, position ${hit.pos}`, run.pointName(hit.near.point)); else hideTip();
  };
  canvas.onmouseleave = hideTip;
  canvas.onclick = (event) => {
    const hit = under(event);
    if (hit) focus.set({ pos: hit.pos, part: hit.near.site, layer: hit.near.site === "embed" ? focus.state.layer : hit.near.layer });
  };
  return { element, draw, head: HEAD };
}

/** Straight lines through points. */
function path(context, points) {
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
}

/** A key to the colours: the diverging scale with its words. */
export function colourKey() {
  const swatches = Array.from({ length: 15 }, (_, i) => {
    const cell = el("span", {});
    cell.style.background = colour("diverging", i / 14);
    return cell;
  });
  return el("p", { class: "key" }, "negative ", el("span", { class: "swatches" }, swatches), " positive");
}
