// The map: one position's way through the model, every vector a strip of its real values.
// The chosen layer is drawn whole, the others as what they write and what they leave.

import { buildCard, fullName, partOf, shapeText, stripText, stripTip } from "./card.js";
import { bar, colour, digits, el, fullColour, hideTip, paintStrip, percent, quoted, showTip, sized, tokenLabel } from "./draw.js";
import { buildStreams, colourKey } from "./streams.js";

// Rows of an open layer: site, name, height, place at the spine (read, write, stream).
const OPEN = [
  ["ln_1", "ln_1", 12, "read", "attention"], ["heads", "head", 22, "", "attention"],
  ["attn.q", "query", 12, "", "attention"], ["attn.k", "key", 12, "", "attention"], ["attn.v", "value", 12, "", "attention"],
  ["attn.pattern", "pattern", 48, "", "attention"], ["attn.z", "z", 12, "", "attention"],
  ["attn.heads", "outputs", 0, "", "attention"], ["attn.out", "out", 14, "write", "attention"],
  ["resid_mid", "stream", 18, "stream", ""],
  ["ln_2", "ln_2", 12, "read", "mlp"], ["mlp.pre", "pre", 40, "", "mlp"], ["mlp.post", "post", 40, "", "mlp"],
  ["mlp.out", "out", 14, "write", "mlp"], ["resid_post", "stream", 18, "stream", ""],
];
const CLOSED = [["attn.out", "attn", 9, "write", "attention"], ["mlp.out", "mlp", 9, "write", "mlp"], ["resid_post", "stream", 16, "stream", ""]];

export function mapPanel(run, focus) {
  const flow = el("div", { class: "flow" }), card = buildCard(run, focus);
  const streams = buildStreams(run, focus, levels);
  const element = el("div", { class: "map" }, streams.element, el("div", { class: "flow-holder" }, flow, colourKey()), card.element);
  let rows = [], openLayer = -1;

  function levels() {
    const top = streams.element.getBoundingClientRect().top, seen = [];
    for (const row of rows) {
      if (row.kind !== "stream") continue;
      const box = row.canvas.getBoundingClientRect();
      if (row.site === "resid_post" && row.layer !== openLayer) {
        const mid = rows.find((other) => other.layer === row.layer && other.site === "attn.out").canvas.getBoundingClientRect();
        seen.push({ point: run.point(row.layer, "resid_mid"), layer: row.layer, site: "resid_mid", y: mid.bottom + 3 - top, small: true });
      }
      seen.push({ point: run.point(row.layer ?? 0, row.site), layer: row.layer ?? 0, site: row.site, y: (box.top + box.bottom) / 2 - top });
    }
    return seen;
  }

  function build(state) {
    const kept = document.activeElement?.dataset?.key;
    rows = [];
    openLayer = state.layer;
    const parts = [el("div", { class: "start" }), row("wte", null, "token", 12, ""), row("wpe", null, "+ position", 12, ""), row("embed", null, "stream", 18, "stream")];
    for (let layer = 0; layer < run.L; layer++) {
      const open = layer === state.layer;
      const title = el("button", { class: "layer-title", type: "button", "data-key": `layer ${layer}`, "aria-expanded": String(open), onclick: () => focus.set({ layer, part: "resid_post" }) }, `Layer ${layer}`);
      const inside = (open ? OPEN : CLOSED).filter(([site]) => site !== "attn.heads" || run.detail.factors.outputs)
        .map(([site, name, height, kind, block]) => site === "heads" ? headButtons(layer) : row(site, layer, name, height || 6 * run.H, kind, block));
      parts.push(el("div", { class: `layer ${open ? "open" : "closed"}` }, title, inside));
    }
    if (run.L === run.model.n_layer) parts.push(row("ln_f", null, "ln_f", 12, "read"), prediction());
    flow.replaceChildren(...parts);
    if (kept) flow.querySelector(`[data-key="${CSS.escape(kept)}"]`)?.focus({ preventScroll: true });
  }

  function row(site, layer, name, height, kind, block = "") {
    const canvas = el("canvas", { "aria-hidden": "true" }), note = el("span", { class: "note" });
    const button = el("button", { class: `strip ${kind}`, type: "button", "data-key": `${layer} ${site}`, onclick: (event) => choose(event) }, canvas);
    const made = { site, layer, height, kind, canvas, note, button };
    const element = el("div", { class: `row ${kind} ${block}` }, el("span", { class: "label" }, name), el("span", { class: "gutter" }), button, note);
    made.element = element;
    function choose(event) {
      const change = { part: site, ...(layer === null ? {} : { layer }) };
      if ((run.perHead(site) || site === "attn.pattern") && event.detail) change.head = headUnder(site, event);
      focus.set(change);
    }
    canvas.onmousemove = (event) => tipOf(made, event);
    canvas.onmouseleave = hideTip;
    rows.push(made);
    return element;
  }

  function headUnder(site, event) {
    const box = event.currentTarget.getBoundingClientRect();
    const share = site === "attn.heads" ? (event.clientY - box.top) / box.height : (event.clientX - box.left) / box.width;
    return Math.min(run.H - 1, Math.max(0, Math.floor(share * run.H)));
  }

  function headButtons(layer) {
    const buttons = Array.from({ length: run.H }, (_, head) => el("button", { type: "button", "data-key": `head ${head}`, "data-head": head, "aria-label": `head ${head}`, onclick: () => focus.set({ layer, head, part: "attn.pattern" }) }, String(head)));
    return el("div", { class: "row attention" }, el("span", { class: "label" }, "head"), el("span", { class: "gutter" }), el("div", { class: "head-buttons" }, buttons), el("span", { class: "note" }));
  }

  const foretold = el("div", { class: "foretold" });
  function prediction() {
    return el("div", { class: "row prediction" }, el("span", { class: "label" }, "next"), el("span", { class: "gutter" }), foretold, el("span", { class: "note" }));
  }

  function paint(state) {
    for (const made of rows) {
      const { site, canvas, height } = made, layer = made.layer ?? 0, width = made.button.clientWidth;
      if (!width) continue;
      const context = sized(canvas, width, height);
      if (site === "attn.pattern") patterns(context, layer, state, width, height);
      else if (site === "attn.heads") outputs(context, layer, state, width);
      else if (run.perHead(site)) {
        const each = width / run.H;
        for (let head = 0; head < run.H; head++) paintOrNothing(context, run.strip(site, layer, state.pos, head), head * each + 1, 0, each - 2, height);
      } else if (height === 40) folded(context, run.strip(site, layer, state.pos), width, height);
      else paintOrNothing(context, run.strip(site, layer, state.pos), 0, 0, width, height);
      made.button.setAttribute("aria-label", stripText(run, site === "attn.pattern" ? "attn.z" : site, layer, state.pos, state.head));
      made.button.setAttribute("aria-pressed", String(state.part === site && (made.layer === null || made.layer === state.layer)));
      made.note.replaceChildren(...noteOf(made, state));
    }
    for (const button of flow.querySelectorAll("[data-head]")) button.setAttribute("aria-pressed", String(Number(button.dataset.head) === state.head));
    const ids = run.at("next:id", state.pos), chances = run.at("next:p", state.pos);
    foretold.replaceChildren(...(ids ? [...ids].slice(0, 5).map((id, i) => bar(tokenLabel(run.word(id)), chances[i], percent(chances[i]), { kind: "chance" })) : []));
  }

  function paintOrNothing(context, cells, ...box) {
    if (cells) return paintStrip(context, cells, ...box);
    context.fillStyle = getComputedStyle(flow).getPropertyValue("--wash");
    context.fillRect(...box);
  }

  // Neurons: four rows as wide as the stream, since there are four times as many.
  function folded(context, cells, width, height) {
    if (!cells) return paintOrNothing(context, null, 0, 0, width, height);
    const n = Math.max(1, Math.round(run.model.d_mlp / run.model.n_embd)), each = Math.ceil(cells.length / n), full = fullColour(cells);
    for (let i = 0; i < n; i++) {
      const part = cells.slice(i * each, (i + 1) * each);
      paintStrip(context, part, 0, i * height / n, width * part.length / each, height / n - 1.5, full);
    }
  }

  function outputs(context, layer, state, width) {
    for (let head = 0; head < run.H; head++) {
      context.globalAlpha = 1;
      paintOrNothing(context, run.strip("attn.heads", layer, state.pos, head), 0, head * 6, width, 4.5);
    }
  }

  function patterns(context, layer, state, width, height) {
    const each = width / run.H, style = getComputedStyle(flow);
    for (let head = 0; head < run.H; head++) {
      const weights = run.weights(layer, head, state.pos), left = head * each + 1, room = each - 2;
      context.fillStyle = style.getPropertyValue("--wash");
      context.fillRect(left, 0, room, height);
      if (!weights) continue;
      const step = Math.min(room / weights.length, 26), table = (w) => colour("share", 0.25 + 0.75 * Math.sqrt(w));
      weights.forEach((w, key) => {
        context.fillStyle = table(w);
        const tall = w * (height - 2);
        context.fillRect(left + key * step, height - tall - 1, Math.max(step - (step > 3 ? 1 : 0), 0.6), tall + 1);
      });
    }
  }

  function noteOf({ site, layer, kind }, state) {
    if (kind === "stream") {
      const row = state.pos - run.detail.firstLens, ids = run.at("lens:id", run.point(layer ?? 0, site), row);
      if (ids) return [el("span", { class: "says" }, tokenLabel(run.word(ids[0]), 9)), el("span", {}, `${(100 * run.at("lens:p", run.point(layer ?? 0, site), row)[0]).toFixed(0)} %`)];
    }
    if (site === "attn.pattern" || run.perHead(site)) return [];
    const stats = run.stats(site, layer ?? 0, state.pos);
    return stats ? [`norm ${digits(stats.norm)}`] : [];
  }

  function tipOf({ site, layer, canvas }, event) {
    const state = focus.state, share = event.offsetX / canvas.clientWidth, part = partOf(run, site);
    const head = run.perHead(site) || site === "attn.pattern" ? headUnder(site, { currentTarget: canvas, clientX: event.clientX, clientY: event.clientY }) : null;
    const lines = [`${fullName(run, site, layer)}${head === null ? "" : `, head ${head}`}`, shapeText(part)];
    if (site === "attn.pattern") {
      const weights = run.weights(layer, head, state.pos);
      if (weights) {
        const step = Math.min((canvas.clientWidth / run.H - 2) / weights.length, 26), key = Math.floor((share * run.H - head) * canvas.clientWidth / run.H / step);
        if (key >= 0 && key < weights.length) lines.push(`looks at ${quoted(run.tokens[key])} (${key}): ${run.weightText(weights[key])}`);
      }
    } else {
      const cells = run.strip(site, layer ?? 0, state.pos, head ?? 0);
      let at = head !== null && site !== "attn.heads" ? share * run.H - head : share;
      if (site.startsWith("mlp.p")) {
        const n = Math.max(1, Math.round(run.model.d_mlp / run.model.n_embd));
        at = (Math.min(n - 1, Math.floor(event.offsetY / canvas.clientHeight * n)) + share) / n;
      }
      if (cells) lines.push(stripTip(run, site, cells, at));
    }
    showTip(event, ...lines);
  }

  function draw(state) {
    if (openLayer !== state.layer || !rows.length) build(state);
    const start = flow.querySelector(".start");
    start.style.height = `${Math.max(0, streams.head - 44)}px`;
    start.replaceChildren(el("span", {}, `position ${state.pos}`), el("strong", {}, tokenLabel(run.tokens[state.pos])));
    paint(state);
    streams.draw(state);
    card.draw(state);
  }
  return { id: "map", title: "Map", element, draw };
}
